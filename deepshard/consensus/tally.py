"""Votes of one kind in one round, counted by power.

A validator that signs two different votes counts for both values, as in the paper, where the received messages are a
set. Keeping only the first would let one equivocator stop the chain: it shows one node the vote that completes a
proof-of-lock and all others a different one, and the lock could never be proven to them. Power behind "any vote"
counts each validator once.

What a validator can make us keep is bounded: its first two votes, and beyond them only votes for nil or for a block
that more than a third voted for already. A proof-of-lock always has such support without the equivocators, and no
more than a handful of blocks can have it. A vote refused before the support was seen has to come again, so hosts
repeat their messages while a height is undecided.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from deepshard.consensus.types import CommitCertificate, CommitSignature, Vote
from deepshard.consensus.validators import ValidatorSet
from deepshard.primitives import ZERO_DIGEST

VOTES_PER_VALIDATOR_MAX = 2
"""Different votes of one kind and round kept of one validator, whatever they are for."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Votes by validator, power by block id, and the power of everyone who voted."""

    votes: Mapping[bytes, tuple[Vote, ...]] = field(default_factory=dict)
    power_by_id: Mapping[bytes, int] = field(default_factory=dict)
    power: int = 0

    def add(self, vote: Vote, validators: ValidatorSet) -> tuple[Tally, Vote | None]:
        """Count a member's vote; returns self if nothing changed, and the vote it first conflicts with, if so."""
        earlier = self.votes.get(vote.validator, ())
        if any(kept.block_id == vote.block_id for kept in earlier):
            return self, None
        for_id = self.power_by_id.get(vote.block_id, 0)
        supported = vote.block_id == ZERO_DIGEST or validators.has_honest(for_id)
        if len(earlier) >= VOTES_PER_VALIDATOR_MAX and not supported:
            return self, None
        power = validators.power_of(vote.validator)
        counted = Tally(
            votes={**self.votes, vote.validator: (*earlier, vote)},
            power_by_id={**self.power_by_id, vote.block_id: for_id + power},
            power=self.power if earlier else self.power + power,
        )
        return counted, earlier[0] if len(earlier) == 1 else None

    def has_quorum_for(self, block_id: bytes, validators: ValidatorSet) -> bool:
        """Whether more than two thirds voted for `block_id`."""
        return validators.is_quorum(self.power_by_id.get(block_id, 0))

    def quorum_among(self, block_ids: Container[bytes], validators: ValidatorSet) -> bytes | None:
        """The block among `block_ids` that more than two thirds voted for, if any."""
        for block_id, power in self.power_by_id.items():
            if block_id in block_ids and validators.is_quorum(power):
                return block_id
        return None

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
