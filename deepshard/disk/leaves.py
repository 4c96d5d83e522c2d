"""Leaf hashes of the blobs that are being served in ranges, so that each is hashed as a whole only once."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from deepshard.limits import LEAVES_CACHED_MAX


@dataclass(frozen=True, slots=True)
class Leaves:
    """Size of a blob in bytes and the hash of each of its blocks."""

    size: int
    hashes: tuple[bytes, ...]


class LeafCache:
    """The leaves of the latest blobs, `hashes_max` in all; safe from any thread."""

    def __init__(self, hashes_max: int = LEAVES_CACHED_MAX) -> None:
        self._hashes_max = hashes_max
        self._hashes = 0
        self._known: dict[bytes, Leaves] = {}
        self._lock = threading.Lock()

    def get(self, digest: bytes) -> Leaves | None:
        """What is known of a blob, which is the latest now."""
        with self._lock:
            leaves = self._known.pop(digest, None)
            if leaves is not None:
                self._known[digest] = leaves
            return leaves

    def put(self, digest: bytes, leaves: Leaves) -> None:
        """Remember the leaves of a blob; those longest unused make room."""
        with self._lock:
            self._drop(digest)
            self._known[digest] = leaves
            self._hashes += len(leaves.hashes)
            while self._hashes > self._hashes_max:
                self._drop(next(iter(self._known)))

    def drop(self, digest: bytes) -> None:
        """Forget a blob."""
        with self._lock:
            self._drop(digest)

    def _drop(self, digest: bytes) -> None:
        leaves = self._known.pop(digest, None)
        if leaves is not None:
            self._hashes -= len(leaves.hashes)
