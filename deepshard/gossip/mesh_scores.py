"""Scores of peers in the mesh: first deliveries for, invalid units and misbehaviour against (chapter 7.7). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from deepshard.limits import GOSSIP_FAULTS_MAX, GOSSIP_FIRST_DELIVERIES_MAX, PEER_RECORDS_MAX

FIRST_WEIGHT, FIRST_DECAY = 0.1, 0.98
INVALID_WEIGHT, INVALID_DECAY = 20.0, 0.99
FAULT_WEIGHT, FAULT_DECAY, FAULTS_FREE = 2.0, 0.9, 6.0
_NEGLIGIBLE: Final = 0.01


@dataclass(slots=True)
class _Counters:
    first: float = 0.0
    invalid: float = 0.0
    faults: float = 0.0

    @property
    def score(self) -> float:
        excess = max(0.0, self.faults - FAULTS_FREE)
        return FIRST_WEIGHT * self.first - INVALID_WEIGHT * self.invalid**2 - FAULT_WEIGHT * excess**2


class MeshScores:
    """Counters by public key. They outlive a link, so that nobody gets rid of them by dialling again.

    At most `records_max` keys are remembered; beyond that the one whose score is highest goes.
    """

    def __init__(self, *, records_max: int = PEER_RECORDS_MAX) -> None:
        self._records_max = records_max
        self._counters: dict[bytes, _Counters] = {}

    def __len__(self) -> int:
        return len(self._counters)

    def score(self, peer: bytes) -> float:
        """Score now; 0 for a peer of whom nothing is known."""
        counters = self._counters.get(peer)
        return 0.0 if counters is None else counters.score

    def first_delivery(self, peer: bytes) -> None:
        """It was the first to send a valid unit."""
        counters = self._of(peer)
        counters.first = min(GOSSIP_FIRST_DELIVERIES_MAX, counters.first + 1)

    def invalid_unit(self, peer: bytes) -> None:
        """It sent a rejected unit."""
        counters = self._of(peer)
        counters.invalid = min(GOSSIP_FAULTS_MAX, counters.invalid + 1)

    def fault(self, peer: bytes) -> None:
        """It misbehaved; a few times are free, since messages cross and networks fail."""
        counters = self._of(peer)
        counters.faults = min(GOSSIP_FAULTS_MAX, counters.faults + 1)

    def decay(self) -> None:
        """A heartbeat: everything fades."""
        for peer, counters in list(self._counters.items()):
            counters.first *= FIRST_DECAY
            counters.invalid *= INVALID_DECAY
            counters.faults *= FAULT_DECAY
            if max(counters.first, counters.invalid, counters.faults) < _NEGLIGIBLE:
                del self._counters[peer]

    def forget_merits(self, peer: bytes) -> None:
        """A link ended: what counts against the peer stays."""
        counters = self._counters.get(peer)
        if counters is not None:
            counters.first = 0.0
            if counters.invalid < _NEGLIGIBLE and counters.faults < _NEGLIGIBLE:
                del self._counters[peer]

    def _of(self, peer: bytes) -> _Counters:
        counters = self._counters.get(peer)
        if counters is None:
            if len(self._counters) >= self._records_max:
                del self._counters[max(self._counters, key=lambda key: self._counters[key].score)]
            counters = self._counters[peer] = _Counters()
        return counters
