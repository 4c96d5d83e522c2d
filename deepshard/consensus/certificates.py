"""Signed consensus messages from peers: votes, proposals and commit certificates are checked here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

from deepshard.ballots import PROPOSAL_TAG, VOTE_TAG, Proposal, Vote, VoteKind, names_its_proof, vote_sign_bytes
from deepshard.consensus.types import CommitCertificate, LockProof
from deepshard.consensus.validators import ValidatorSet, proposer
from deepshard.encoding import encode
from deepshard.errors import BadSignature, RemoteError
from deepshard.identity import verify_signature
from deepshard.primitives import ZERO_DIGEST, tagged_hash


class NotAValidator(RemoteError):
    """A vote or proposal by someone outside the validator set of its height."""

    def __init__(self, address: bytes, height: int) -> None:
        super().__init__(f"{address.hex()} is no validator at height {height}")
        self.address, self.height = address, height


class InvalidVote(RemoteError):
    """A vote that no honest validator casts."""

    penalty = 50


class InvalidProposal(RemoteError):
    """A proposal that no honest proposer makes."""

    penalty = 50


class InvalidLockProof(RemoteError):
    """Prevotes that are called a proof-of-lock and aren't one."""

    penalty = 50


class InvalidCertificate(RemoteError):
    """A commit certificate that doesn't prove what it claims."""

    penalty = 50


class InsufficientPower(InvalidCertificate):
    """A commit certificate signed by two thirds of the power or less."""

    def __init__(self, height: int, power: int, total_power: int) -> None:
        super().__init__(f"certificate of height {height} has power {power} of {total_power}, more than 2/3 is needed")
        self.height, self.power, self.total_power = height, power, total_power


def verify_vote(chain_id: str, validators: ValidatorSet, vote: Vote) -> None:
    """Check a vote's form, membership and signature; `validators` is the set of the vote's height.

    Raises:
        InvalidVote: it names a proof-of-lock that it can't rest on: of its own or a later round, or though it is a
            precommit or for nil.
        NotAValidator: the voter isn't in the set.
        BadSignature: the signature doesn't verify.
    """
    if not names_its_proof(vote):
        raise InvalidVote(
            f"{vote.kind.name.lower()} of height {vote.height}, round {vote.round} names a proof-of-lock of round "
            f"{vote.valid_round}"
        )
    validator = validators.by_address.get(vote.validator)
    if validator is None:
        raise NotAValidator(vote.validator, vote.height)
    verify_signature(validator.public_key, VOTE_TAG, vote.sign_bytes(chain_id), vote.signature)


def verify_proposal(chain_id: str, validators: ValidatorSet, proposal: Proposal) -> None:
    """Check a proposal's form, proposer and signature; `validators` is the set of its height.

    Raises:
        InvalidProposal: it is for nil, cites a proof-of-lock of its own or a later round, or is out of turn.
        NotAValidator: the proposer isn't in the set.
        BadSignature: the signature doesn't verify.
    """
    where = f"proposal for height {proposal.height}, round {proposal.round}"
    if proposal.block_id == ZERO_DIGEST:
        raise InvalidProposal(f"{where} is for nil")
    if proposal.valid_round >= proposal.round:
        raise InvalidProposal(f"{where} cites valid round {proposal.valid_round}, which isn't an earlier one")
    validator = validators.by_address.get(proposal.proposer)
    if validator is None:
        raise NotAValidator(proposal.proposer, proposal.height)
    expected = proposer(validators, proposal.height, proposal.round)
    if validator != expected:
        raise InvalidProposal(f"{where} is by {validator.address.hex()}, expected {expected.address.hex()}")
    verify_signature(validator.public_key, PROPOSAL_TAG, proposal.sign_bytes(chain_id), proposal.signature)


def verify_lock_proof(
    chain_id: str, validators: ValidatorSet, proof: LockProof, known: Callable[[Vote], bool] = lambda _: False
) -> None:
    """Check that more than two thirds of `validators` prevoted the block in the proof's round.

    Whether the proofs-of-lock that its votes name are known is for the caller to say. Everything that is cheap is
    checked before the first signature; `known` tells which votes were verified before.

    Raises:
        InvalidLockProof: it is for nil, its voters are out of order, repeated, no members, or two thirds of the power
            at most, a vote names a proof that it can't rest on, or a signature doesn't verify.
    """
    where = f"proof-of-lock of height {proof.height}, round {proof.round}"
    if proof.block_id == ZERO_DIGEST:
        raise InvalidLockProof(f"{where} is for nil")
    votes = proof.unpacked()
    power, previous = 0, b""
    for vote in votes:
        if vote.validator <= previous:
            raise InvalidLockProof(f"voter {vote.validator.hex()} is repeated or out of order in the {where}")
        previous = vote.validator
        if vote.validator not in validators.by_address:
            raise InvalidLockProof(f"voter {vote.validator.hex()} of the {where} is no validator")
        if not names_its_proof(vote):
            raise InvalidLockProof(f"a vote of the {where} rests on round {vote.valid_round}")
        power += validators.power_of(vote.validator)
    if not validators.is_quorum(power):
        raise InvalidLockProof(f"{where} has power {power} of {validators.total_power}, more than 2/3 is needed")
    for vote in votes:
        if known(vote):
            continue
        try:
            key = validators.by_address[vote.validator].public_key
            verify_signature(key, VOTE_TAG, vote.sign_bytes(chain_id), vote.signature)
        except BadSignature as error:
            raise InvalidLockProof(f"{where}: {error}") from error


def verify_certificate(
    chain_id: str,
    validators: ValidatorSet,
    certificate: CommitCertificate,
    block_id: bytes,
    height: int,
    *,
    known: CommitCertificate | None = None,
) -> None:
    """Check that more than two thirds of `validators` precommitted `block_id` at `height` in the certificate's round.

    Everything that is cheap is checked before the first signature (90 us each). `known` is a certificate by the same
    validators that was verified before: what is signed in it for the same block and round isn't verified again.

    Raises:
        InvalidCertificate: for another height or block, or its signers are out of order, repeated or no members, or
            one of its signatures doesn't verify.
        InsufficientPower: two thirds of the power or less.
    """
    if certificate.height != height:
        raise InvalidCertificate(f"certificate of height {certificate.height}, expected {height}")
    if certificate.block_id != block_id or block_id == ZERO_DIGEST:
        raise InvalidCertificate(
            f"certificate of height {height} is for block {certificate.block_id.hex()}, expected {block_id.hex()}"
        )
    power, previous = 0, b""
    for entry in certificate.signatures:
        if entry.validator <= previous:
            raise InvalidCertificate(f"signer {entry.validator.hex()} is repeated or out of order at height {height}")
        previous = entry.validator
        validator = validators.by_address.get(entry.validator)
        if validator is None:
            raise InvalidCertificate(f"signer {entry.validator.hex()} is no validator at height {height}")
        power += validator.power
    if not validators.is_quorum(power):
        raise InsufficientPower(height, power, validators.total_power)
    same = known is not None and (known.height, known.round, known.block_id) == (height, certificate.round, block_id)
    verified = frozenset(known.signatures) if known is not None and same else frozenset()
    message = vote_sign_bytes(chain_id, VoteKind.PRECOMMIT, height, certificate.round, block_id)
    for entry in certificate.signatures:
        if entry in verified:
            continue
        try:
            verify_signature(validators.by_address[entry.validator].public_key, VOTE_TAG, message, entry.signature)
        except BadSignature as error:
            raise InvalidCertificate(f"certificate of height {height}: {error}") from error


def certificate_hash(certificate: CommitCertificate | None) -> bytes:
    """Hash of a certificate as the next header carries it; `ZERO_DIGEST` for none (height 1)."""
    if certificate is None:
        return ZERO_DIGEST
    return tagged_hash("commit certificate", encode(certificate))
