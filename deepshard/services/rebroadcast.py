"""Proposals and votes of the height being decided: bounded, and kept to be sent again when nothing moves. Pure.

No validator can use up what the others need: the bounds hold for each validator, and for each round.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from deepshard.ballots import Proposal, Vote
from deepshard.limits import (
    FAR_VOTES_MAX,
    FUTURE_ROUNDS_MAX,
    LOCK_PROOFS_PER_ROUND_MAX,
    PROPOSALS_PER_HEIGHT_MAX,
    PROPOSALS_TAKEN_PER_ROUND_MAX,
    VOTES_PER_STEP_MAX,
)

VOTES_KEPT_MAX = 64
"""Of one validator, to be sent again; the oldest go first."""


def is_far(round_: int, current_round: int) -> bool:
    """Whether a round is so far ahead that consensus doesn't keep what is said in it."""
    return round_ > current_round + FUTURE_ROUNDS_MAX


@dataclass(slots=True)
class HeightVotes:
    """Encoded votes by validator, and how many each has cast in each step.

    The mesh passes votes on once; this is what repeats them, to peers that were away or to whom they were lost.
    """

    _kept: dict[bytes, dict[bytes, None]] = field(default_factory=dict)
    _cast: Counter[tuple[bytes, int, int]] = field(default_factory=Counter)
    _far: Counter[bytes] = field(default_factory=Counter)

    def admits(self, vote: Vote, current_round: int) -> bool:
        """Whether this validator may have another vote in this round and step.

        A few, since two prove equivocation; and a few in rounds far ahead, since they tell a node that it lags.
        """
        if is_far(vote.round, current_round):
            return self._far[vote.validator] < FAR_VOTES_MAX
        return self._cast[vote.validator, vote.round, int(vote.kind)] < VOTES_PER_STEP_MAX

    def add(self, vote: Vote, encoded: bytes, current_round: int) -> None:
        """A vote with a good signature was taken; `admits` was asked before."""
        if is_far(vote.round, current_round):
            self._far[vote.validator] += 1
        else:
            self._cast[vote.validator, vote.round, int(vote.kind)] += 1
        kept = self._kept.setdefault(vote.validator, {})
        kept[encoded] = None
        if len(kept) > VOTES_KEPT_MAX:
            del kept[next(iter(kept))]

    def has(self, vote: Vote, encoded: bytes) -> bool:
        """Whether this vote is kept."""
        return encoded in self._kept.get(vote.validator, ())

    def all(self) -> tuple[bytes, ...]:
        """Every vote that is kept, for a peer that may have missed some."""
        return tuple(vote for kept in self._kept.values() for vote in kept)

    def clear(self) -> None:
        """Forget everything: a new height."""
        self._kept.clear()
        self._cast.clear()
        self._far.clear()


@dataclass(slots=True)
class HeightLockProofs:
    """Which blocks had a proof-of-lock taken in, by round: one for each, since more would say nothing new."""

    _taken: dict[int, set[bytes]] = field(default_factory=dict)

    def has(self, round_: int, block_id: bytes) -> bool:
        """Whether a proof for this block was taken in."""
        return block_id in self._taken.get(round_, ())

    def admits(self, round_: int) -> bool:
        """Whether this round may have another."""
        return len(self._taken.get(round_, ())) < LOCK_PROOFS_PER_ROUND_MAX

    def add(self, round_: int, block_id: bytes) -> None:
        """A good proof was taken; `admits` was asked before."""
        self._taken.setdefault(round_, set()).add(block_id)

    def clear(self) -> None:
        """Forget everything: a new height."""
        self._taken.clear()


@dataclass(slots=True)
class HeightProposals:
    """Encoded proposals with their blocks, by round."""

    _blocks: dict[bytes, bytes] = field(default_factory=dict)
    _rounds: dict[bytes, int] = field(default_factory=dict)
    _taken: Counter[int] = field(default_factory=Counter)

    def __contains__(self, proposal: bytes) -> bool:
        return proposal in self._blocks

    def admits(self, proposal: Proposal) -> bool:
        """Whether this round may have another proposal: several, since others may have locked on any of them."""
        return self._taken[proposal.round] < PROPOSALS_TAKEN_PER_ROUND_MAX

    def add(self, proposal: Proposal, encoded: bytes, block: bytes) -> None:
        """Keep a proposal; of too many, the oldest of the round that has most of them goes."""
        self._taken[proposal.round] += 1
        self._blocks[encoded], self._rounds[encoded] = block, proposal.round
        if len(self._blocks) > PROPOSALS_PER_HEIGHT_MAX:
            sizes = Counter(self._rounds.values())
            fullest = max(sizes, key=lambda round_: (sizes[round_], -round_))
            dropped = next(key for key, round_ in self._rounds.items() if round_ == fullest)
            del self._blocks[dropped], self._rounds[dropped]

    def newest(self, count: int, current_round: int) -> list[tuple[bytes, bytes]]:
        """Proposals with blocks of the latest rounds that aren't ahead of the current one, oldest first."""
        due = [key for key, round_ in self._rounds.items() if round_ <= current_round]
        due.sort(key=lambda key: self._rounds[key])
        return [(key, self._blocks[key]) for key in due[-count:]]

    def clear(self) -> None:
        """Forget everything: a new height."""
        self._blocks.clear()
        self._rounds.clear()
        self._taken.clear()
