"""Values of consensus: validators, headers, blocks and commit certificates; votes are in `deepshard.ballots`."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec

from deepshard.ballots import Round, ValidRound, Vote, VoteKind
from deepshard.encoding import Record, encode
from deepshard.limits import VALIDATORS_MAX
from deepshard.primitives import Address, Amount, Count, Digest, Height, PublicKey, Signature, tagged_hash


class Step(IntEnum):
    """Step of a round; the numbers of the voting steps are those of `VoteKind`."""

    PROPOSE = 0
    PREVOTE = 1
    PRECOMMIT = 2


class SafetyState(Record, frozen=True):
    """What a validator must remember of a height across a crash so that it never votes against its lock.

    Rounds are -1 and ids `ZERO_DIGEST` where there is no lock or no valid value (lockedRound, lockedValue, validRound
    and validValue of arXiv 1807.04938, algorithm 1).
    """

    height: Height
    round: Round
    step: Step
    locked_round: ValidRound
    locked_id: Digest
    valid_round: ValidRound
    valid_id: Digest


class Validator(Record, frozen=True):
    """A validator and its voting power (bonded stake in base units)."""

    address: Address
    public_key: PublicKey
    power: Amount


class CommitSignature(Record, frozen=True):
    """One validator's precommit signature inside a certificate."""

    validator: Address
    signature: Signature


class CommitCertificate(Record, frozen=True):
    """Precommits of more than two thirds of the power for one block in one round, ordered by validator address."""

    height: Height
    round: Round
    block_id: Digest
    signatures: Annotated[tuple[CommitSignature, ...], msgspec.Meta(max_length=VALIDATORS_MAX)]


class LockProofVote(Record, frozen=True):
    """One prevote inside a proof-of-lock."""

    validator: Address
    valid_round: ValidRound
    signature: Signature


class LockProof(Record, frozen=True):
    """Prevotes of more than two thirds of the power for one block in one round, ordered by validator address."""

    height: Height
    round: Round
    block_id: Digest
    votes: Annotated[tuple[LockProofVote, ...], msgspec.Meta(max_length=VALIDATORS_MAX)]

    def unpacked(self) -> tuple[Vote, ...]:
        """The prevotes themselves."""
        return tuple(
            Vote(
                VoteKind.PREVOTE, self.height, self.round, one.valid_round, self.block_id, one.validator, one.signature
            )
            for one in self.votes
        )


class Header(Record, frozen=True):
    """What a commit certificate signs and a light client follows.

    `state_root`, `receipts_root` and `next_validators_hash` are those *after* this block's transactions, so the state
    of a height can be read as soon as it is committed. `time_ms` is the proposer's clock; no ledger rule reads it.
    """

    version: Count
    chain_id: str
    height: Height
    time_ms: Height
    parent_id: Digest
    proposer: Address
    last_commit_hash: Digest
    transactions_root: Digest
    state_root: Digest
    receipts_root: Digest
    validators_hash: Digest
    next_validators_hash: Digest
    manifest: Digest
    """Content address of the current weights' manifest, after this block."""
    onion_preimage: Digest
    """The proposer's next hash-onion preimage; the ledger checks and folds it into the beacon."""

    def block_id(self) -> bytes:
        """The block's identifier: tagged hash of the header."""
        return tagged_hash("header", encode(self))


class Block(Record, frozen=True):
    """A header, its transactions (opaque to consensus) and the certificate of its parent (None at height 1)."""

    header: Header
    transactions: tuple[bytes, ...]
    last_commit: CommitCertificate | None
