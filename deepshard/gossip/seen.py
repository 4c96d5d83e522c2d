"""Digests seen before, so that a repeated message is dropped before its signature costs anything."""

from __future__ import annotations

from deepshard.limits import SEEN_CACHE_ENTRIES_MAX


class SeenCache:
    """Remembers at least the latest `entries_max` / 2 and at most `entries_max` digests.

    Two generations: when the younger is full it becomes the elder and the elder is forgotten. No entry carries a time
    or a link, and nothing a peer sends can make it larger.
    """

    def __init__(self, entries_max: int = SEEN_CACHE_ENTRIES_MAX) -> None:
        assert entries_max >= 2
        self._generation_max = entries_max // 2
        self._young: set[bytes] = set()
        self._elder: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._young) + len(self._elder)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._young or digest in self._elder

    def age(self) -> None:
        """Time passes: what was added before the last call is forgotten."""
        self._elder, self._young = self._young, set()

    def clear(self) -> None:
        """Forget everything."""
        self._elder, self._young = set(), set()

    def add(self, digest: bytes) -> bool:
        """Remember a digest; True if it is new."""
        if digest in self:
            return False
        if len(self._young) == self._generation_max:
            self._elder, self._young = self._young, set()
        self._young.add(digest)
        return True
