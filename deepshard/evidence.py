"""Evidence: two signatures of one validator that no honest one gives. Anybody can verify it, from nothing but itself.

- `DuplicateVote`, `DuplicateProposal`: two different values signed for one place (height, round and step).
- `Amnesia`: it precommitted a block and later prevoted another on the word of a proof-of-lock that is older than its
  precommit, or of none. Whoever precommits is locked, and only a proof-of-lock of that round or a later one unlocks
  (arXiv 1807.04938, algorithm 1, lines 23 and 29).

Prevotes count only where the proof-of-lock that they name is known (`consensus.core`). So where two blocks are decided
at one height, votes of the kinds above by more than a third of the power are found in what honest nodes received, as
long as the faulty hold two thirds at most. (Compare the forensics of Sheng et al., arXiv 2010.06785, whose votes carry
the view of the lock for the same end.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deepshard.ballots import PROPOSAL_TAG, VOTE_TAG, Proposal, Vote, VoteKind
from deepshard.encoding import Record
from deepshard.errors import BadSignature, RemoteError
from deepshard.identity import verify_signature
from deepshard.primitives import ZERO_DIGEST, PublicKey, address_of

OffenceKind = Literal["duplicate-vote", "duplicate-proposal", "amnesia"]


class InvalidEvidence(RemoteError):
    """What is called evidence accuses nobody."""

    penalty = 20


class DuplicateVote(Record, frozen=True, tag="duplicate-vote"):
    """Two votes of one kind, height and round that differ in block id or valid round, in the order of these two."""

    public_key: PublicKey
    vote_a: Vote
    vote_b: Vote


class DuplicateProposal(Record, frozen=True, tag="duplicate-proposal"):
    """Two proposals of one height and round that differ in block id or valid round, in the order of these two."""

    public_key: PublicKey
    proposal_a: Proposal
    proposal_b: Proposal


class Amnesia(Record, frozen=True, tag="amnesia"):
    """A precommit for a block, and a prevote for another in a later round with a `valid_round` before the precommit."""

    public_key: PublicKey
    precommit: Vote
    prevote: Vote


Evidence = DuplicateVote | DuplicateProposal | Amnesia


@dataclass(frozen=True, slots=True)
class Offence:
    """What evidence proves: who did what, at which height and round (of an amnesia: that of the prevote)."""

    kind: OffenceKind
    validator: bytes
    height: int
    round: int


def duplicate_vote(public_key: bytes, one: Vote, other: Vote) -> DuplicateVote:
    """Evidence from two votes in any order; not verified."""
    vote_a, vote_b = sorted((one, other), key=_vote_order)
    return DuplicateVote(public_key, vote_a, vote_b)


def duplicate_proposal(public_key: bytes, one: Proposal, other: Proposal) -> DuplicateProposal:
    """Evidence from two proposals in any order; not verified."""
    proposal_a, proposal_b = sorted((one, other), key=_vote_order)
    return DuplicateProposal(public_key, proposal_a, proposal_b)


def is_amnesia(precommit: Vote, prevote: Vote) -> bool:
    """Whether two votes of one validator at one height break the rule of the lock; signatures are not looked at."""
    return (
        (precommit.kind, prevote.kind) == (VoteKind.PRECOMMIT, VoteKind.PREVOTE)
        and precommit.height == prevote.height
        and precommit.validator == prevote.validator
        and ZERO_DIGEST not in {precommit.block_id, prevote.block_id}
        and precommit.block_id != prevote.block_id
        and prevote.valid_round < precommit.round < prevote.round
    )


def offence_of(evidence: Evidence) -> Offence:
    """What is claimed; believe it after `verify_evidence` only."""
    match evidence:
        case DuplicateVote(vote_a=vote):
            return Offence("duplicate-vote", vote.validator, vote.height, vote.round)
        case DuplicateProposal(proposal_a=proposal):
            return Offence("duplicate-proposal", proposal.proposer, proposal.height, proposal.round)
        case Amnesia(prevote=vote):
            return Offence("amnesia", vote.validator, vote.height, vote.round)


def verify_evidence(evidence: Evidence, chain_id: str) -> Offence:
    """Check that the two messages contradict each other and that their validator signed both on this chain.

    Whether it was a validator at that height is for the caller to know.

    Raises:
        InvalidEvidence: they don't contradict each other, aren't in order, or the key isn't the validator's.
        BadSignature: a signature doesn't verify.
    """
    match evidence:
        case DuplicateVote(vote_a=a, vote_b=b):
            _expect_same("kind", a.kind, b.kind)
            _expect_place(a, b, a.validator, b.validator)
            signed = [(VOTE_TAG, a.sign_bytes(chain_id), a.signature), (VOTE_TAG, b.sign_bytes(chain_id), b.signature)]
        case DuplicateProposal(proposal_a=c, proposal_b=d):
            _expect_place(c, d, c.proposer, d.proposer)
            signed = [(PROPOSAL_TAG, one.sign_bytes(chain_id), one.signature) for one in (c, d)]
        case Amnesia(precommit=a, prevote=b):
            if not is_amnesia(a, b):
                raise InvalidEvidence(
                    f"a {a.kind.name.lower()} of round {a.round} and a {b.kind.name.lower()} of round {b.round} on the "
                    f"word of round {b.valid_round} are no amnesia"
                )
            signed = [(VOTE_TAG, a.sign_bytes(chain_id), a.signature), (VOTE_TAG, b.sign_bytes(chain_id), b.signature)]
    offence = offence_of(evidence)
    if address_of(evidence.public_key) != offence.validator:
        raise InvalidEvidence(f"evidence against {offence.validator.hex()} comes with the key of another")
    for tag, message, signature in signed:
        try:
            verify_signature(evidence.public_key, tag, message, signature)
        except BadSignature as error:
            raise BadSignature(f"{offence.kind} at height {offence.height}: {error}") from error
    return offence


def _expect_place(a: Vote | Proposal, b: Vote | Proposal, by_a: bytes, by_b: bytes) -> None:
    _expect_same("height", a.height, b.height)
    _expect_same("round", a.round, b.round)
    _expect_same("validator", by_a.hex(), by_b.hex())
    if _vote_order(a) >= _vote_order(b):
        raise InvalidEvidence(f"two messages of height {a.height}, round {a.round} are the same, or out of order")


def _expect_same(what: str, a: object, b: object) -> None:
    if a != b:
        raise InvalidEvidence(f"the two messages are of {what} {a} and {b}")


def _vote_order(message: Vote | Proposal) -> tuple[bytes, int]:
    return message.block_id, message.valid_round
