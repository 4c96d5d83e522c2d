"""Whom a light client asks: its primary, its witnesses, and who is passed over for a while."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from deepshard.limits import LIGHT_RETRY_S, LIGHT_RETRY_S_MAX, WITNESS_PATIENCE_S, WITNESS_PAUSE_S
from deepshard.primitives import tagged_hash


@dataclass(slots=True)
class _Peer:
    rank: bytes
    height: int
    disappointments: int = 0
    passed_over_at: float = -float("inf")

    def is_resting(self, now: float) -> bool:
        """Whether it failed a moment ago, so that asking again would lead nowhere; longer each time."""
        pause_s = min(LIGHT_RETRY_S * (1 << min(self.disappointments, 16)) / 2, LIGHT_RETRY_S_MAX)
        return now < self.passed_over_at + pause_s


class LightPeers:
    """Peers that claim a height. Claims decide whom to ask, never what to believe."""

    def __init__(self, salt: bytes) -> None:
        self.primary: bytes | None = None
        self._salt = salt
        self._peers: dict[bytes, _Peer] = {}
        self._behind_since: float | None = None

    def claim(self, peer: bytes, height: int) -> None:
        """Take note of a peer's height."""
        known = self._peers.setdefault(peer, _Peer(tagged_hash("light peer", self._salt, peer), height))
        known.height = height

    def remove(self, peer: bytes) -> None:
        """Forget a peer that is gone."""
        self._peers.pop(peer, None)
        if self.primary == peer:
            self.primary = None

    def height(self, peer: bytes) -> int:
        """What a peer claims; 0 if it is gone."""
        return self._peers[peer].height if peer in self._peers else 0

    def pass_over(self, peer: bytes, now: float) -> None:
        """Prefer others for a while: it was silent, late or wrong."""
        known = self._peers.get(peer)
        if known is not None:
            known.disappointments += 1
            known.passed_over_at = now
        if self.primary == peer:
            self.primary = None

    def praise(self, peer: bytes) -> None:
        """Forget earlier disappointments: what it showed is trusted now."""
        if peer in self._peers:
            self._peers[peer].disappointments = 0

    def elect(self, trusted_height: int, now: float) -> None:
        """Keep the primary while it is ahead of what is trusted, or no other peer has been for long."""
        ahead = [peer for peer in self._sorted(now) if self._peers[peer].height > trusted_height]
        if self.primary is not None and (self.primary in ahead or not ahead):
            self._behind_since = None
            return
        if self.primary is not None:
            if self._behind_since is None:
                self._behind_since = now
            if now < self._behind_since + WITNESS_PATIENCE_S:
                return
        self._behind_since = None
        if ahead:
            self.primary = ahead[0]

    def any_at(self, height: int, now: float) -> bytes | None:
        """The best peer that claims a height."""
        return next((peer for peer in self._sorted(now) if self._peers[peer].height >= height), None)

    def witnesses(self, now: float, excluded: Collection[bytes]) -> list[bytes]:
        """Peers that may be asked to confirm a header, the best first."""
        return [
            peer
            for peer in self._sorted(now)
            if peer not in excluded and now >= self._peers[peer].passed_over_at + WITNESS_PAUSE_S
        ]

    def _sorted(self, now: float) -> list[bytes]:
        """Peers that weren't passed over a moment ago: those that never were long ago first, then by merit."""
        fit = {peer: known for peer, known in self._peers.items() if not known.is_resting(now)}
        return sorted(
            fit,
            key=lambda peer: (
                now < fit[peer].passed_over_at + WITNESS_PAUSE_S,
                fit[peer].disappointments,
                -fit[peer].height,
                fit[peer].rank,
            ),
        )
