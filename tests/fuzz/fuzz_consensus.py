"""Votes, proposals, certificates and evidence as peers send them: decoded, then verified against a validator set.

The first byte chooses the record; with its high bit set the harness signs the decoded record with the keys of its
validators, so that the fuzzer gets behind the signatures.
"""

from __future__ import annotations

from typing import Final

from harness import Harness
from msgspec.structs import replace
from samples import CHAIN, DIGEST, KEYS, VALIDATORS, certify, chain_of, signed_proposal, signed_vote

from deepshard.ballots import PROPOSAL_TAG, VOTE_TAG, Proposal, Vote, VoteKind, vote_sign_bytes
from deepshard.consensus.certificates import verify_certificate, verify_proposal, verify_vote
from deepshard.consensus.forensics import (
    ConflictingCommits,
    DecidedHeader,
    conflicting_commits,
    decode_accusation,
    verify_conflicting_commits,
)
from deepshard.consensus.types import CommitCertificate, CommitSignature
from deepshard.consensus.validators import ValidatorSet
from deepshard.encoding import decode, encode
from deepshard.evidence import duplicate_proposal, duplicate_vote, offence_of, verify_evidence
from deepshard.limits import CERTIFICATE_BYTES_MAX, VALIDATOR_SET_BYTES_MAX
from deepshard.primitives import ZERO_DIGEST

SIGN: Final = 0x80


def check(data: bytes) -> None:
    if not data:
        return
    sign, body = bool(data[0] & SIGN), data[1:]
    match data[0] & 7:
        case 0:
            vote = decode(body, Vote, bytes_max=512)
            if sign and vote.validator in KEYS:
                vote = replace(vote, signature=KEYS[vote.validator].sign(VOTE_TAG, vote.sign_bytes(CHAIN)))
            verify_vote(CHAIN, VALIDATORS, vote)
        case 1:
            proposal = decode(body, Proposal, bytes_max=512)
            if sign and proposal.proposer in KEYS:
                signature = KEYS[proposal.proposer].sign(PROPOSAL_TAG, proposal.sign_bytes(CHAIN))
                proposal = replace(proposal, signature=signature)
            verify_proposal(CHAIN, VALIDATORS, proposal)
        case 2:
            certificate = decode(body, CommitCertificate, bytes_max=CERTIFICATE_BYTES_MAX)
            if sign:
                certificate = signed(certificate)
            verify_certificate(CHAIN, VALIDATORS, certificate, DIGEST, certificate.height)
        case 4:
            accusation = decode_accusation(body)
            if isinstance(accusation, ConflictingCommits):
                verify_conflicting_commits(accusation, CHAIN)
            else:
                assert verify_evidence(accusation, CHAIN) == offence_of(accusation)
        case _:
            validators = decode(body, ValidatorSet, bytes_max=VALIDATOR_SET_BYTES_MAX)
            assert validators.total_power > 0
            assert validators.hash() == ValidatorSet(validators.validators).hash()


def signed(certificate: CommitCertificate) -> CommitCertificate:
    """The certificate with good signatures of those of its signers who are validators."""
    message = vote_sign_bytes(CHAIN, VoteKind.PRECOMMIT, certificate.height, certificate.round, DIGEST)
    signatures = tuple(
        CommitSignature(entry.validator, KEYS[entry.validator].sign(VOTE_TAG, message))
        if entry.validator in KEYS
        else entry
        for entry in certificate.signatures
    )
    return replace(certificate, signatures=signatures)


def seeds() -> dict[str, bytes]:
    header = chain_of(1)[0].header
    certificate = certify(header)
    key, proposals = KEYS[signed_vote().validator], (signed_proposal(), signed_proposal(0))
    decided = (DecidedHeader(one, certify(one), VALIDATORS) for one in (header, replace(header, manifest=ZERO_DIGEST)))
    return {
        "prevote": b"\x00" + encode(signed_vote()),
        "precommit": b"\x80" + encode(signed_vote(VoteKind.PRECOMMIT)),
        "proposal": b"\x01" + encode(signed_proposal()),
        "proposal-again": b"\x81" + encode(signed_proposal(0)),
        "certificate": b"\x82" + encode(replace(certificate, block_id=DIGEST)),
        "certificate-of-another": b"\x02" + encode(certificate),
        "validators": b"\x03" + encode(VALIDATORS),
        "evidence": b"\x04" + encode(duplicate_vote(key.public, signed_vote(), signed_vote(block_id=ZERO_DIGEST))),
        "evidence-of-proposals": b"\x04" + encode(duplicate_proposal(key.public, *proposals)),
        "evidence-of-commits": b"\x04" + encode(conflicting_commits(*decided)),
    }


HARNESS: Final = Harness(check, seeds, prefix_bytes=1, shape="record")
