"""Transactions: what an account can ask of the ledger.

`body` is the canonical encoding of `TransactionBody`, kept as bytes so that what was signed is what is hashed.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from deepshard.chunk_tree import MerklePath, ShardChunks, ShardCount
from deepshard.encoding import Record, decode, encode
from deepshard.evidence import Evidence
from deepshard.identity import SecretKey
from deepshard.ledger.params import ChainId
from deepshard.limits import PROBES_MAX, SEGMENTS_MAX, SKETCH_BUCKETS, TRAINERS_MAX, TRANSACTION_BYTES_MAX
from deepshard.primitives import (
    CONTENT_BLOCK_BYTES,
    Address,
    Amount,
    BasisPoints,
    Count,
    Digest,
    Millinats,
    PublicKey,
    Signature,
    tagged_hash,
)

TRANSACTION_TAG = "transaction"
AXES = ("novelty", "reproducibility", "alignment", "truthfulness", "objectivity")
AxisScores = tuple[BasisPoints, BasisPoints, BasisPoints, BasisPoints, BasisPoints]
ShortText = Annotated[str, msgspec.Meta(max_length=64)]


class Transfer(Record, frozen=True, tag="transfer"):
    """Move `amount` to another account."""

    to: Address
    amount: Amount


class Bond(Record, frozen=True, tag="bond"):
    """Bond stake as a validator; the set changes at the next epoch boundary."""

    amount: Amount
    onion_tip: Digest


class Unbond(Record, frozen=True, tag="unbond"):
    """Start to unbond validator stake; it is paid out after the unbonding delay."""

    amount: Amount


class OfferStorage(Record, frozen=True, tag="offer-storage"):
    """Say how many bytes of weights to hold at most, and what this validator may fail together with.

    `operator` and `network` are any text; validators with the same text share it, an empty one is shared by nobody.
    """

    capacity: Amount
    operator: ShortText
    network: ShortText


class SegmentRef(Record, frozen=True):
    """A segment of proposed text: content address and size in bytes of its UTF-8 blob."""

    digest: Digest
    size: Count


class ProposeData(Record, frozen=True, tag="propose-data"):
    """Propose text for training, with stake."""

    segments: Annotated[tuple[SegmentRef, ...], msgspec.Meta(min_length=1, max_length=SEGMENTS_MAX)]
    title: ShortText
    language: ShortText
    licence: ShortText
    stake: Amount


class CommitVote(Record, frozen=True, tag="commit-vote"):
    """Commit to a data vote: `vote_commitment(reveal, voter)`."""

    proposal: Digest
    commitment: Digest


class RevealVote(Record, frozen=True, tag="reveal-vote"):
    """Open a committed data vote: scores per segment and axis, the verdict, and the predicted share of accept votes."""

    proposal: Digest
    scores: Annotated[tuple[AxisScores, ...], msgspec.Meta(min_length=1, max_length=SEGMENTS_MAX)]
    accept: bool
    harmful: bool
    predicted_accept_bp: BasisPoints
    salt: Digest


class JoinRound(Record, frozen=True, tag="join-round"):
    """Join an open training round as a trainer, with stake."""

    round: Count
    stake: Amount


class CommitWeights(Record, frozen=True, tag="commit-weights"):
    """Commit to a submission: `weights_commitment(reveal, trainer)`."""

    round: Count
    commitment: Digest


class RevealWeights(Record, frozen=True, tag="reveal-weights"):
    """Open a committed submission: its manifest, the root of its decoded weights, its chunk and checkpoint trees."""

    round: Count
    manifest: Digest
    weights_root: Digest
    chunks_root: Digest
    shard_count: ShardCount
    checkpoint_root: Digest
    salt: Digest


class ProbeScore(Record, frozen=True):
    """One probe under one model, in millinats (curvatures: thousandths); a submission's are minus the base model's."""

    log_prob: Millinats
    conditional_curvature: Millinats
    perturbation_curvature: Millinats


SketchValue = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]


class SubmissionReport(Record, frozen=True):
    """What one validator found of one submission; an unavailable one has neither profile nor sketch.

    `profile` follows the order of `probes.draw_probes`; `sketch` is the seeded integer projection of the update.
    """

    trainer: Address
    available: bool
    profile: Annotated[tuple[ProbeScore, ...], msgspec.Meta(max_length=PROBES_MAX)]
    sketch: Annotated[tuple[SketchValue, ...], msgspec.Meta(max_length=SKETCH_BUCKETS)]


class ReportScores(Record, frozen=True, tag="report-scores"):
    """A validator's report of all revealed submissions of a round, ordered by trainer address.

    `base` is the base model's own profile, from which the submissions' are differences; empty if none is available.
    """

    round: Count
    submissions: Annotated[tuple[SubmissionReport, ...], msgspec.Meta(max_length=TRAINERS_MAX)]
    base: Annotated[tuple[ProbeScore, ...], msgspec.Meta(max_length=PROBES_MAX)]


class BuyLicence(Record, frozen=True, tag="buy-licence"):
    """Buy a licence for the current weights; `price_max` guards against a price that rose meanwhile."""

    version: Count
    price_max: Amount


class ReportEvidence(Record, frozen=True, tag="report-evidence"):
    """Accuse a validator, with evidence that anyone can check; a bonded validator's duty, free."""

    evidence: Evidence


class AnswerAudit(Record, frozen=True, tag="answer-audit"):
    """Show the block that an audit asks of the sender: the shard's leaf with its path, the block with its proof."""

    epoch: Count
    leaf: ShardChunks
    path: MerklePath
    block: Annotated[bytes, msgspec.Meta(max_length=CONTENT_BLOCK_BYTES)]
    proof: MerklePath


class ShowAudit(Record, frozen=True, tag="show-audit"):
    """Show the leaf of a shard that an audit asks for, so that its holders are known: they may all be silent."""

    epoch: Count
    leaf: ShardChunks
    path: MerklePath


class Unjail(Record, frozen=True, tag="unjail"):
    """A convicted validator asks to be let into the set again, once its time in jail is over."""


Action = (
    Transfer
    | Bond
    | Unbond
    | OfferStorage
    | ProposeData
    | CommitVote
    | RevealVote
    | JoinRound
    | CommitWeights
    | RevealWeights
    | ReportScores
    | BuyLicence
    | ReportEvidence
    | Unjail
    | AnswerAudit
    | ShowAudit
)


class TransactionBody(Record, frozen=True):
    """What the sender signs."""

    chain_id: ChainId
    sender: PublicKey
    nonce: Count
    action: Action


class Transaction(Record, frozen=True):
    """Encoded body and the sender's signature over it under `TRANSACTION_TAG`."""

    body: bytes
    signature: Signature


def sign_transaction(key: SecretKey, chain_id: str, nonce: int, action: Action) -> bytes:
    """Encoded, signed transaction."""
    body = encode(TransactionBody(chain_id, key.public, nonce, action))
    return encode(Transaction(body, key.sign(TRANSACTION_TAG, body)))


def decode_transaction(data: bytes) -> tuple[Transaction, TransactionBody]:
    """Decode both layers, without checking the signature.

    Raises:
        RemoteError: oversized or malformed.
    """
    transaction = decode(data, Transaction, bytes_max=TRANSACTION_BYTES_MAX)
    return transaction, decode(transaction.body, TransactionBody, bytes_max=TRANSACTION_BYTES_MAX)


def transaction_id(data: bytes) -> bytes:
    """Identifier of an encoded transaction."""
    return tagged_hash("transaction", data)


def vote_commitment(reveal: RevealVote, voter: bytes) -> bytes:
    """Commitment of a data vote, bound to the voter's address so that it can't be copied."""
    return tagged_hash("vote commitment", encode(reveal), voter)


def weights_commitment(reveal: RevealWeights, trainer: bytes) -> bytes:
    """Commitment of a submission, bound to the trainer's address so that it can't be copied."""
    return tagged_hash("weights commitment", encode(reveal), trainer)
