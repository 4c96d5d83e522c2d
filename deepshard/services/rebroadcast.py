"""Votes of the height being decided: bounded, and kept to be sent again when nothing moves. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from deepshard.consensus.types import Vote
from deepshard.limits import VOTES_PER_STEP_MAX

VOTES_KEPT_MAX = 4096


@dataclass(slots=True)
class HeightVotes:
    """Encoded votes in order of arrival, and how many each validator has cast in each step.

    The mesh passes votes on once; this is what repeats them, to peers that were away or to whom they were lost.
    """

    _votes: dict[bytes, None] = field(default_factory=dict)
    _cast: Counter[tuple[bytes, int, int]] = field(default_factory=Counter)

    def __contains__(self, vote: bytes) -> bool:
        return vote in self._votes

    def admits(self, vote: Vote) -> bool:
        """Whether this validator may have another vote in this round and step: a few, since two prove equivocation."""
        key = (vote.validator, vote.round, int(vote.kind))
        return len(self._cast) < VOTES_KEPT_MAX and self._cast[key] < VOTES_PER_STEP_MAX

    def count(self, vote: Vote) -> None:
        """A vote with a good signature was taken."""
        self._cast[vote.validator, vote.round, int(vote.kind)] += 1

    def add(self, vote: bytes) -> None:
        """Keep an encoded vote, as long as there is room."""
        if len(self._votes) < VOTES_KEPT_MAX:
            self._votes[vote] = None

    def all(self) -> tuple[bytes, ...]:
        """Every vote of the height, for a peer that may have missed some."""
        return tuple(self._votes)

    def clear(self) -> None:
        """Forget everything: a new height."""
        self._votes.clear()
        self._cast.clear()
