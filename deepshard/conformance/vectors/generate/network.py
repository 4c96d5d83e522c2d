"""A small network of made-up validators, for the vectors of consensus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from deepshard.ballots import NO_ROUND, PROPOSAL_TAG, VOTE_TAG, Proposal, Vote, VoteKind, vote_sign_bytes
from deepshard.conformance.vectors.document import digest_of, key_of
from deepshard.consensus.types import CommitCertificate, CommitSignature, Header
from deepshard.consensus.validators import ValidatorSet
from deepshard.encoding import encode
from deepshard.identity import SecretKey

CHAIN: Final = "vector-chain"
KEYS: Final = tuple(sorted((key_of(f"validator {number}") for number in range(9)), key=lambda key: key.address))
"""In the order of their addresses."""
_BY_ADDRESS: Final = {key.address: key for key in KEYS}


def members(*powers: int) -> ValidatorSet:
    """The validator at place i of the order has `powers[i]`; those without power are left out."""
    return ValidatorSet.of((key.public, power) for key, power in zip(KEYS, powers, strict=False))


def signed_vote(
    key: SecretKey,
    kind: VoteKind,
    height: int,
    round_: int,
    block_id: bytes,
    *,
    valid_round: int = NO_ROUND,
    chain: str = CHAIN,
    tag: str = VOTE_TAG,
) -> Vote:
    """A vote by `key`."""
    signature = key.sign(tag, vote_sign_bytes(chain, kind, height, round_, block_id, valid_round))
    return Vote(kind, height, round_, valid_round, block_id, key.address, signature)


def signed_proposal(
    key: SecretKey, height: int, round_: int, valid_round: int, block_id: bytes, *, chain: str = CHAIN
) -> Proposal:
    """A proposal by `key`."""
    signature = key.sign(PROPOSAL_TAG, encode((chain, height, round_, valid_round, block_id)))
    return Proposal(height, round_, valid_round, block_id, key.address, signature)


def certificate(
    signers: Sequence[SecretKey],
    *,
    height: int,
    block_id: bytes,
    round_: int = 1,
    kind: VoteKind = VoteKind.PRECOMMIT,
    chain: str = CHAIN,
) -> CommitCertificate:
    """A certificate with the signatures of `signers`, in their order."""
    message = vote_sign_bytes(chain, kind, height, round_, block_id)
    signatures = tuple(CommitSignature(key.address, key.sign(VOTE_TAG, message)) for key in signers)
    return CommitCertificate(height, round_, block_id, signatures)


def signed_header(header: Header, validators: ValidatorSet, count: int | None = None) -> CommitCertificate:
    """A certificate for this header by the first `count` of its validators."""
    signers = [_BY_ADDRESS[entry.address] for entry in validators.validators][:count]
    return certificate(signers, height=header.height, block_id=header.block_id())


BLOCK: Final = digest_of("block")
OTHER: Final = digest_of("other block")
