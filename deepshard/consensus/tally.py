"""Votes of one kind in one round, counted by power.

A validator that signs two different votes counts for both values, as in the paper, where the received messages are a
set. Keeping only the first would let one equivocator stop the chain: it shows one node the vote that completes a
proof-of-lock and all others a different one, and the lock could never be proven to them. Power behind "any vote"
counts each validator once.

Votes for one block that name different valid rounds are different votes, too; their power counts once for the block.

What a validator can make us keep is bounded: its first two votes, and beyond them only votes for nil or for a block
that more than a third voted for already, at most two for each. A proof-of-lock always has such support without the
equivocators, and no more than a handful of blocks can have it. A vote refused before the support was seen has to come
again, so hosts repeat their messages while a height is undecided; and votes that come together in a proof-of-lock are
kept in any case.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field

from deepshard.ballots import Vote
from deepshard.consensus.types import CommitCertificate, CommitSignature
from deepshard.consensus.validators import ValidatorSet
from deepshard.primitives import ZERO_DIGEST

VOTES_PER_VALIDATOR_MAX = 2
"""Different votes of one kind and round kept of one validator, whatever they are for; and for each supported block."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Votes by validator, power by block id, and the power of everyone who voted."""

    votes: Mapping[bytes, tuple[Vote, ...]] = field(default_factory=dict)
    power_by_id: Mapping[bytes, int] = field(default_factory=dict)
    power: int = 0

    def add(self, vote: Vote, validators: ValidatorSet, *, proven: bool = False) -> tuple[Tally, Vote | None]:
        """Count a member's vote; returns self if nothing changed, and the vote it first conflicts with, if so.

        `proven` votes are kept beyond the bounds; the caller bounds them.
        """
        earlier = self.votes.get(vote.validator, ())
        same_id = [kept for kept in earlier if kept.block_id == vote.block_id]
        if any(kept.valid_round == vote.valid_round for kept in same_id):
            return self, None
        for_id = self.power_by_id.get(vote.block_id, 0)
        supported = vote.block_id == ZERO_DIGEST or validators.has_honest(for_id)
        room = len(earlier) < VOTES_PER_VALIDATOR_MAX or (supported and len(same_id) < VOTES_PER_VALIDATOR_MAX)
        if not (room or proven):
            return self, None
        power = validators.power_of(vote.validator)
        counted = Tally(
            votes={**self.votes, vote.validator: (*earlier, vote)},
            power_by_id=self.power_by_id if same_id else {**self.power_by_id, vote.block_id: for_id + power},
            power=self.power if earlier else self.power + power,
        )
        return counted, earlier[0] if len(earlier) == 1 else None

    def has_quorum_for(self, block_id: bytes, validators: ValidatorSet) -> bool:
        """Whether more than two thirds voted for `block_id`."""
        return validators.is_quorum(self.power_by_id.get(block_id, 0))

    def quorums_among(self, block_ids: Container[bytes], validators: ValidatorSet) -> Iterator[bytes]:
        """The blocks among `block_ids` that more than two thirds voted for: one at most, unless a third voted twice."""
        for block_id, power in self.power_by_id.items():
            if block_id in block_ids and validators.is_quorum(power):
                yield block_id

    def certificate(self, height: int, round_: int, block_id: bytes) -> CommitCertificate:
        """Commit certificate from all votes for `block_id`, ordered by address."""
        signatures = tuple(
            CommitSignature(address, vote.signature)
            for address, votes in sorted(self.votes.items())
            for vote in votes
            if vote.block_id == block_id
        )
        return CommitCertificate(height, round_, block_id, signatures)


EMPTY_TALLY = Tally()
