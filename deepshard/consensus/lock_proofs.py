"""Proofs-of-lock: a quorum of prevotes for a block in a round, each resting on none or on one that is known itself."""

from __future__ import annotations

from collections.abc import Mapping

from deepshard.ballots import NO_ROUND, Vote, VoteKind
from deepshard.consensus.tally import Tally
from deepshard.consensus.types import LockProof, LockProofVote
from deepshard.consensus.validators import ValidatorSet

Tallies = Mapping[tuple[int, VoteKind], Tally]
"""Counted votes of one height, by round and kind."""


def has_lock_proof(tallies: Tallies, validators: ValidatorSet, round_: int, block_id: bytes) -> bool:
    """Whether a proof-of-lock of this round for the block is known."""
    tally = tallies.get((round_, VoteKind.PREVOTE))
    if tally is None or not tally.has_quorum_for(block_id, validators):
        return False
    return round_ in _proven_rounds(tallies, validators, round_, block_id)


def lock_proofs(
    tallies: Tallies, validators: ValidatorSet, height: int, round_: int, block_id: bytes
) -> tuple[LockProof, ...]:
    """The known proof-of-lock of a block in a round, after those that its votes rest on; nothing if there is none."""
    proven = _proven_rounds(tallies, validators, round_, block_id)
    proofs: dict[int, LockProof] = {}
    waiting = [round_] if round_ in proven - {NO_ROUND} else []
    while waiting:
        current = waiting.pop()
        if current in proofs:
            continue
        votes = tuple(
            LockProofVote(vote.validator, vote.valid_round, vote.signature)
            for vote in _justified(tallies[current, VoteKind.PREVOTE], block_id, proven)
        )
        proofs[current] = LockProof(height, current, block_id, votes)
        waiting += [vote.valid_round for vote in votes if vote.valid_round != NO_ROUND]
    return tuple(proof for _, proof in sorted(proofs.items()))


def _proven_rounds(tallies: Tallies, validators: ValidatorSet, last: int, block_id: bytes) -> frozenset[int]:
    """`NO_ROUND` and the rounds up to `last` with a known proof-of-lock for the block; each vote is looked at once."""
    proven = {NO_ROUND}
    for round_ in sorted(round_ for round_, kind in tallies if kind is VoteKind.PREVOTE and round_ <= last):
        tally = tallies[round_, VoteKind.PREVOTE]
        if tally.has_quorum_for(block_id, validators):
            power = sum(validators.power_of(vote.validator) for vote in _justified(tally, block_id, proven))
            if validators.is_quorum(power):
                proven.add(round_)
    return frozenset(proven)


def _justified(tally: Tally, block_id: bytes, proven: frozenset[int] | set[int]) -> list[Vote]:
    """Of each validator one prevote for the block that rests on none or a proven round, ordered by address."""
    found = []
    for _, votes in sorted(tally.votes.items()):
        found += [vote for vote in votes if vote.block_id == block_id and vote.valid_round in proven][:1]
    return found
