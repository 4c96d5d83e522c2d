"""Penalty points of peers: errors add, time takes away, and at a bound the peer is banned for a while."""

from __future__ import annotations

from dataclasses import dataclass

from deepshard.errors import RemoteError
from deepshard.limits import PEER_BAN_S, PEER_RECORDS_MAX, PEER_SCORE_BAN, PEER_SCORE_DECAY_PER_S


@dataclass(slots=True)
class _Record:
    points: float
    at: float
    banned_until: float


class PeerScores:
    """Points per public key. Times are seconds of one steady clock.

    At most `records_max` keys are remembered; beyond that the one with the fewest points goes, and banned ones only
    when all are banned. New keys are free to make, so a ban costs the honest who err, and is a pause for the rest.
    """

    def __init__(self, *, records_max: int = PEER_RECORDS_MAX) -> None:
        self._records_max = records_max
        self._records: dict[bytes, _Record] = {}

    def __len__(self) -> int:
        return len(self._records)

    def points(self, peer: bytes, now: float) -> float:
        """Points left now; 0 for an unknown peer."""
        record = self._records.get(peer)
        return 0.0 if record is None else _decayed(record, now)

    def is_banned(self, peer: bytes, now: float) -> bool:
        """Whether a ban holds now. A ban that ended left a clean sheet."""
        record = self._records.get(peer)
        return record is not None and now < record.banned_until

    def penalise(self, peer: bytes, error: RemoteError, now: float) -> bool:
        """Add the error's penalty; True if the peer is banned now."""
        if error.penalty <= 0:
            return self.is_banned(peer, now)
        record = self._records.get(peer)
        if record is None:
            self._make_room(now)
            record = self._records[peer] = _Record(0.0, now, float("-inf"))
        if now < record.banned_until:
            return True
        record.points = _decayed(record, now) + error.penalty
        record.at = now
        if record.points < PEER_SCORE_BAN:
            return False
        record.points = 0.0
        record.banned_until = now + PEER_BAN_S
        return True

    def _make_room(self, now: float) -> None:
        if len(self._records) < self._records_max:
            return
        least = min(
            self._records,
            key=lambda peer: (self._records[peer].banned_until > now, _decayed(self._records[peer], now)),
        )
        del self._records[least]


def _decayed(record: _Record, now: float) -> float:
    return max(0.0, record.points - PEER_SCORE_DECAY_PER_S * max(0.0, now - record.at))
