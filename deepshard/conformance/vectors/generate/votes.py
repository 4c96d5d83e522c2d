"""`votes.json`: votes, proposals, and whose turn it is (chapters 9.2 and 9.4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec.structs import replace

from deepshard.ballots import PROPOSAL_TAG, Proposal, Vote, VoteKind, vote_sign_bytes
from deepshard.conformance.vectors.document import Json, accept, document, refuse
from deepshard.conformance.vectors.generate.network import (
    BLOCK,
    CHAIN,
    KEYS,
    OTHER,
    members,
    signed_proposal,
    signed_vote,
)
from deepshard.consensus.types import LockProof, LockProofVote
from deepshard.consensus.validators import PROPOSER_STEP, ValidatorSet
from deepshard.encoding import encode
from deepshard.primitives import ZERO_DIGEST

_VOTE, _VOTER, _NAMED, _LOCK_PROOF, _PROPOSAL, _REFUSED, _TURN = (
    ("9.2/1", "9.2/2", "3.2/2"),
    ("9.2/3",),
    ("9.2/9",),
    ("9.2/10",),
    ("9.2/4", "9.2/5", "3.2/2"),
    ("9.2/6",),
    ("9.4/1",),
)
_SET: Final = members(10, 20, 30, 40)
_PREVOTE, _PRECOMMIT = VoteKind.PREVOTE, VoteKind.PRECOMMIT


def make() -> Json:
    """The file."""
    return document(
        "votes",
        "Votes, proofs-of-lock and proposals with their sign-bytes, and whose turn it is (chapters 9.2 and 9.4).",
        [*_votes(), *_bad_votes(), *_lock_proofs(), *_bad_lock_proofs(), *_proposals(), *_bad_proposals(), *_turns()],
        chain_id=CHAIN,
        validators=_SET,
    )


def _vote_fields(vote: Vote, chain: str = CHAIN) -> Json:
    signed = vote_sign_bytes(chain, vote.kind, vote.height, vote.round, vote.block_id, vote.valid_round)
    return {"operation": "vote", "vote": vote, "encoded": encode(vote), "sign_bytes": signed}


def _votes() -> Iterator[Json]:
    for name, kind, height, round_, block_id in (
        ("a prevote", _PREVOTE, 5, 0, BLOCK),
        ("a precommit", _PRECOMMIT, 5, 0, BLOCK),
        ("a prevote for nil", _PREVOTE, 5, 2, ZERO_DIGEST),
        ("a precommit for nil", _PRECOMMIT, 5, 2, ZERO_DIGEST),
        ("the largest height and round", _PREVOTE, 2**62, 2**31 - 1, BLOCK),
    ):
        for place in (0, 3):
            vote = signed_vote(KEYS[place], kind, height, round_, block_id)
            yield accept(f"{name} by validator {place}", _VOTE, **_vote_fields(vote))
    for round_, valid_round in ((1, 0), (4, 1), (2**31 - 1, 2**31 - 2)):
        vote = signed_vote(KEYS[0], _PREVOTE, 5, round_, BLOCK, valid_round=valid_round)
        name = f"a prevote of round {round_} on the word of round {valid_round}"
        yield accept(name, (*_VOTE, *_NAMED), **_vote_fields(vote))


def _bad_votes() -> Iterator[Json]:
    good = signed_vote(KEYS[1], _PREVOTE, 5, 1, BLOCK)
    wrong = {
        "another kind": replace(good, kind=_PRECOMMIT),
        "another height": replace(good, height=6),
        "another round": replace(good, round=2),
        "another block": replace(good, block_id=OTHER),
        "another valid round": replace(good, valid_round=0),
        "a vote for nil made of one for a block": replace(good, block_id=ZERO_DIGEST),
        "another validator": replace(good, validator=KEYS[2].address),
        "a signature of zeros": replace(good, signature=bytes(64)),
        "signed for another chain": signed_vote(KEYS[1], _PREVOTE, 5, 1, BLOCK, chain="other-chain"),
        "signed as a proposal": signed_vote(KEYS[1], _PREVOTE, 5, 1, BLOCK, tag=PROPOSAL_TAG),
    }
    for name, vote in wrong.items():
        yield refuse(f"vote: {name}", (*_VOTE, *_VOTER), "BadSignature", **_vote_fields(vote))
    stranger = signed_vote(KEYS[8], _PREVOTE, 5, 1, BLOCK)
    yield refuse("vote: by nobody of the set", _VOTER, "NotAValidator", **_vote_fields(stranger))
    misnamed = {
        "the proof of its own round": signed_vote(KEYS[1], _PREVOTE, 5, 1, BLOCK, valid_round=1),
        "the proof of a later round": signed_vote(KEYS[1], _PREVOTE, 5, 1, BLOCK, valid_round=2),
        "a proof for nil": signed_vote(KEYS[1], _PREVOTE, 5, 1, ZERO_DIGEST, valid_round=0),
        "a precommit on the word of a round": signed_vote(KEYS[1], _PRECOMMIT, 5, 1, BLOCK, valid_round=0),
    }
    for name, vote in misnamed.items():
        yield refuse(f"vote: {name}", _NAMED, "InvalidVote", **_vote_fields(vote))


def _lock_proof(votes: Sequence[Vote], round_: int = 4, block_id: bytes = BLOCK) -> LockProof:
    return LockProof(
        5, round_, block_id, tuple(LockProofVote(vote.validator, vote.valid_round, vote.signature) for vote in votes)
    )


def _lock_proof_fields(proof: LockProof) -> Json:
    return {"operation": "lock proof", "proof": proof, "encoded": encode(proof)}


def _prevotes(*places: int, valid_round: int = -1, block_id: bytes = BLOCK) -> list[Vote]:
    """Prevotes of height 5 and round 4; the powers are 10, 20, 30 and 40 by place."""
    return [signed_vote(KEYS[place], _PREVOTE, 5, 4, block_id, valid_round=valid_round) for place in places]


def _lock_proofs() -> Iterator[Json]:
    for name, votes in (
        ("all four", _prevotes(0, 1, 2, 3)),
        ("70 of 100", _prevotes(2, 3)),
        ("on the word of round 2", _prevotes(1, 2, 3, valid_round=2)),
        (
            "on the word of different rounds",
            [*_prevotes(1, valid_round=3), *_prevotes(2), *_prevotes(3, valid_round=1)],
        ),
    ):
        yield accept(f"a proof-of-lock: {name}", _LOCK_PROOF, **_lock_proof_fields(_lock_proof(votes)))


def _bad_lock_proofs() -> Iterator[Json]:
    good = _prevotes(1, 2, 3)
    wrong = {
        "60 of 100": _lock_proof(_prevotes(1, 3)),
        "nobody": _lock_proof([]),
        "for nil": _lock_proof(_prevotes(1, 2, 3, block_id=ZERO_DIGEST), block_id=ZERO_DIGEST),
        "a voter twice": _lock_proof([good[0], *good]),
        "out of order": _lock_proof(good[::-1]),
        "a voter that isn't in the set": _lock_proof(
            sorted([*good, signed_vote(KEYS[8], _PREVOTE, 5, 4, BLOCK)], key=lambda vote: vote.validator)
        ),
        "a vote on the word of its own round": _lock_proof([*_prevotes(1, valid_round=4), *good[1:]]),
        "a vote of another round": _lock_proof(good, round_=5),
        "a vote for another block": _lock_proof([*good[:2], *_prevotes(3, block_id=OTHER)]),
        "a precommit": _lock_proof([*good[:2], signed_vote(KEYS[3], _PRECOMMIT, 5, 4, BLOCK)]),
        "another valid round than was signed": _lock_proof([*good[:2], replace(good[2], valid_round=0)]),
    }
    for name, proof in wrong.items():
        yield refuse(f"proof-of-lock: {name}", _LOCK_PROOF, "InvalidLockProof", **_lock_proof_fields(proof))


def _proposal_fields(proposal: Proposal) -> Json:
    signed = proposal.sign_bytes(CHAIN)
    return {"operation": "proposal", "proposal": proposal, "encoded": encode(proposal), "sign_bytes": signed}


def _turn_of(validators: ValidatorSet, height: int, round_: int) -> int:
    """Place of the proposer, by the words of 9.4/1."""
    total = sum(entry.power for entry in validators.validators)
    point = (height + round_) * PROPOSER_STEP % 2**64 * total // 2**64
    reached = 0
    for place, entry in enumerate(validators.validators):
        reached += entry.power
        if reached > point:
            return place
    raise AssertionError(point)


def _proposals() -> Iterator[Json]:
    for height, round_, valid_round in ((5, 0, -1), (5, 1, -1), (5, 1, 0), (6, 7, 6), (2**62, 2**31 - 1, 2**31 - 2)):
        key = KEYS[_turn_of(_SET, height, round_)]
        proposal = signed_proposal(key, height, round_, valid_round, BLOCK)
        name = f"a proposal of height {height}, round {round_}, valid round {valid_round}"
        yield accept(name, (*_PROPOSAL, *_TURN), **_proposal_fields(proposal))


def _bad_proposals() -> Iterator[Json]:
    place = _turn_of(_SET, 5, 3)
    key, other = KEYS[place], KEYS[(place + 1) % 4]
    good = signed_proposal(key, 5, 3, 1, BLOCK)
    forged = {
        "another valid round": replace(good, valid_round=2),
        "a fresh one": replace(good, valid_round=-1),
        "another block": replace(good, block_id=OTHER),
        "a signature of zeros": replace(good, signature=bytes(64)),
        "signed for another chain": signed_proposal(key, 5, 3, 1, BLOCK, chain="other-chain"),
    }
    for name, proposal in forged.items():
        yield refuse(f"proposal: {name}", (*_PROPOSAL, *_REFUSED), "BadSignature", **_proposal_fields(proposal))
    wrong = {
        "for nil": signed_proposal(key, 5, 3, 1, ZERO_DIGEST),
        "a valid round of its own round": signed_proposal(key, 5, 3, 3, BLOCK),
        "a valid round of a later round": signed_proposal(key, 5, 3, 4, BLOCK),
        "out of turn": signed_proposal(other, 5, 3, 1, BLOCK),
    }
    for name, proposal in wrong.items():
        yield refuse(f"proposal: {name}", _REFUSED, "InvalidProposal", **_proposal_fields(proposal))
    stranger = signed_proposal(KEYS[8], 5, 3, 1, BLOCK)
    yield refuse("proposal: by nobody of the set", _REFUSED, "NotAValidator", **_proposal_fields(stranger))


def _turns() -> Iterator[Json]:
    sets = ((1, 1, 2), (1,), (10, 20, 30, 40), (2**60, 1, 2**60, 5), (3, 3, 3, 3, 3, 3, 3))
    for powers in sets:
        validators = members(*powers)
        slots = [*range(16), 2**31, 2**53, 2**62]
        places = [_turn_of(validators, height, 0) for height in slots]
        fields = {"powers": powers, "height_plus_round": slots, "proposers": places}
        yield accept(f"turns of powers {list(powers)}", _TURN, operation="turns", **fields)
