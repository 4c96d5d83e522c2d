"""Who may hold shards, and which, by the newest committed state (chapter 8.10)."""

from __future__ import annotations

from deepshard.ledger.state import State
from deepshard.ledger.storage import storage_weight
from deepshard.shards.placement import Candidate


def candidates_of(state: State) -> tuple[Candidate, ...]:
    """The active validators, with what they weigh and what they say that they share with others."""
    found = []
    for validator in state.active().validators:
        offer = state.storage_offer(validator.address)
        labels = ("", "") if offer is None else (offer.operator, offer.network)
        found.append(Candidate(validator.address, storage_weight(state, validator), *labels))
    return tuple(found)
