from __future__ import annotations

from collections.abc import Callable

import pytest
from consensus_network import secret_keys, validator_set
from msgspec.structs import replace

from deepshard.ballots import PROPOSAL_TAG, VOTE_TAG, Proposal, Vote, VoteKind, vote_sign_bytes
from deepshard.consensus.certificates import (
    InsufficientPower,
    InvalidCertificate,
    InvalidProposal,
    NotAValidator,
    certificate_hash,
    verify_certificate,
    verify_proposal,
    verify_vote,
)
from deepshard.consensus.types import CommitCertificate, CommitSignature
from deepshard.consensus.validators import ValidatorSet, proposer
from deepshard.encoding import encode
from deepshard.errors import BadSignature
from deepshard.limits import CERTIFICATE_BYTES_MAX, VALIDATORS_MAX
from deepshard.primitives import ZERO_DIGEST, content_digest

CHAIN = "test-chain"
BLOCK = content_digest(b"block")
SET = validator_set(1, 1, 1, 1)
KEYS = secret_keys(4)


def certificate(
    signers: tuple[int, ...], *, height: int = 5, round_: int = 2, block_id: bytes = BLOCK
) -> CommitCertificate:
    message = vote_sign_bytes(CHAIN, VoteKind.PRECOMMIT, height, round_, block_id)
    signatures = tuple(CommitSignature(KEYS[i].address, KEYS[i].sign(VOTE_TAG, message)) for i in signers)
    return CommitCertificate(height, round_, block_id, signatures)


def test_more_than_two_thirds_prove_a_block() -> None:
    verify_certificate(CHAIN, SET, certificate((0, 1, 3)), BLOCK, 5)
    verify_certificate(CHAIN, SET, certificate((0, 1, 2, 3)), BLOCK, 5)


def _tampered() -> CommitCertificate:
    good = certificate((0, 1, 3))
    entry = good.signatures[1]
    forged = CommitSignature(entry.validator, bytes([entry.signature[0] ^ 1]) + entry.signature[1:])
    return replace(good, signatures=(good.signatures[0], forged, good.signatures[2]))


@pytest.mark.clause("10.4/1", "10.4/2", "10.4/4")
@pytest.mark.parametrize(
    ("forged", "fault"),
    [
        (lambda: certificate((0, 1, 3), height=6), "height 6, expected 5"),
        (lambda: certificate((0, 1, 3), block_id=content_digest(b"other")), "is for block"),
        (lambda: certificate((0, 1, 1, 3)), "repeated"),
        (lambda: certificate((1, 0, 3)), "out of order"),
        (lambda: replace(certificate((0, 1, 3)), round=3), "does not verify"),
        (_tampered, "does not verify"),
    ],
)
def test_a_forged_certificate_is_refused(forged: Callable[[], CommitCertificate], fault: str) -> None:
    with pytest.raises(InvalidCertificate, match=fault):
        verify_certificate(CHAIN, SET, forged(), BLOCK, 5)


@pytest.mark.parametrize(
    ("forged", "fault"),
    [(_tampered, "does not verify"), (lambda: replace(certificate((0, 1, 3)), round=3), "does not verify")],
)
def test_what_was_verified_before_vouches_for_nothing_else(forged: Callable[[], CommitCertificate], fault: str) -> None:
    for known in (certificate((0, 1, 3)), certificate((0, 2, 3)), certificate((0, 1, 3), round_=3, height=6)):
        with pytest.raises(InvalidCertificate, match=fault):
            verify_certificate(CHAIN, SET, forged(), BLOCK, 5, known=known)
        verify_certificate(CHAIN, SET, certificate((0, 1, 3)), BLOCK, 5, known=known)


def test_what_was_verified_before_is_not_verified_again() -> None:
    # Only a caller that lies about what it has verified can tell.
    verify_certificate(CHAIN, SET, _tampered(), BLOCK, 5, known=_tampered())


@pytest.mark.clause("10.4/1")
def test_nothing_proves_nil() -> None:
    with pytest.raises(InvalidCertificate, match="is for block"):
        verify_certificate(CHAIN, SET, certificate((0, 1, 3), block_id=ZERO_DIGEST), ZERO_DIGEST, 5)


@pytest.mark.clause("10.4/3")
def test_power_counts_and_not_heads() -> None:
    weighted = validator_set(1, 1, 1, 6)
    with pytest.raises(InsufficientPower) as caught:
        verify_certificate(CHAIN, weighted, certificate((0, 1, 2)), BLOCK, 5)
    assert (caught.value.power, caught.value.total_power) == (3, 9)
    verify_certificate(CHAIN, weighted, certificate((2, 3)), BLOCK, 5)
    with pytest.raises(InsufficientPower):
        verify_certificate(CHAIN, weighted, certificate((3,)), BLOCK, 5)


@pytest.mark.clause("10.4/2")
def test_strangers_and_other_chains_are_refused() -> None:
    smaller = ValidatorSet(SET.validators[:3])
    with pytest.raises(InvalidCertificate, match="is no validator"):
        verify_certificate(CHAIN, smaller, certificate((0, 1, 2, 3)), BLOCK, 5)
    with pytest.raises(InvalidCertificate, match="does not verify"):
        verify_certificate("other-chain", SET, certificate((0, 1, 2)), BLOCK, 5)


@pytest.mark.clause("10.4/4", "9.2/2")
def test_prevotes_are_no_precommits() -> None:
    message = vote_sign_bytes(CHAIN, VoteKind.PREVOTE, 5, 2, BLOCK)
    signatures = tuple(CommitSignature(key.address, key.sign(VOTE_TAG, message)) for key in KEYS)
    with pytest.raises(InvalidCertificate, match="does not verify"):
        verify_certificate(CHAIN, SET, CommitCertificate(5, 2, BLOCK, signatures), BLOCK, 5)


def test_the_hash_tells_certificates_apart() -> None:
    assert certificate_hash(None) == ZERO_DIGEST
    assert certificate_hash(certificate((0, 1, 2))) != certificate_hash(certificate((0, 1, 3)))


@pytest.mark.clause("12.1/1")
def test_the_largest_certificate_fits_its_bound() -> None:
    entry = CommitSignature(bytes(20), bytes(64))
    largest = CommitCertificate(2**62, 2**31 - 1, BLOCK, (entry,) * VALIDATORS_MAX)
    assert len(encode(largest)) <= CERTIFICATE_BYTES_MAX


@pytest.mark.clause("9.2/2", "9.2/3")
def test_votes() -> None:
    message = vote_sign_bytes(CHAIN, VoteKind.PREVOTE, 5, 0, BLOCK)
    vote = Vote(VoteKind.PREVOTE, 5, 0, -1, BLOCK, KEYS[1].address, KEYS[1].sign(VOTE_TAG, message))
    verify_vote(CHAIN, SET, vote)
    changed = [replace(vote, kind=VoteKind.PRECOMMIT), replace(vote, round=1), replace(vote, validator=KEYS[0].address)]
    for other in changed:
        with pytest.raises(BadSignature):
            verify_vote(CHAIN, SET, other)
    with pytest.raises(NotAValidator):
        verify_vote(CHAIN, ValidatorSet(SET.validators[2:]), vote)


def signed_proposal(round_: int, valid_round: int, signer: int, block_id: bytes = BLOCK) -> Proposal:
    blank = Proposal(5, round_, valid_round, block_id, KEYS[signer].address, bytes(64))
    return replace(blank, signature=KEYS[signer].sign(PROPOSAL_TAG, blank.sign_bytes(CHAIN)))


@pytest.mark.clause("9.2/4", "9.2/6")
def test_proposals() -> None:
    turn = SET.validators.index(proposer(SET, 5, 3))
    good = signed_proposal(3, 1, turn)
    verify_proposal(CHAIN, SET, good)
    with pytest.raises(BadSignature):
        verify_proposal(CHAIN, SET, replace(good, valid_round=2))
    with pytest.raises(InvalidProposal, match="valid round 3"):
        verify_proposal(CHAIN, SET, signed_proposal(3, 3, turn))
    with pytest.raises(InvalidProposal, match="for nil"):
        verify_proposal(CHAIN, SET, signed_proposal(3, 1, turn, ZERO_DIGEST))
    with pytest.raises(InvalidProposal, match="expected"):
        verify_proposal(CHAIN, SET, signed_proposal(3, 1, (turn + 1) % 4))
    with pytest.raises(NotAValidator):
        verify_proposal(CHAIN, ValidatorSet(tuple(v for v in SET.validators if v.address != good.proposer)), good)
