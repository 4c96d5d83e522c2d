"""Values of consensus: validators, votes, proposals, headers, blocks and commit certificates.

Sign-bytes bind the chain id, so a vote can't be replayed on another network. A vote for nil carries `ZERO_DIGEST`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec

from deepshard.encoding import Record, encode
from deepshard.limits import VALIDATORS_MAX
from deepshard.primitives import Address, Amount, Count, Digest, Height, PublicKey, Signature, tagged_hash

VOTE_TAG = "vote"
PROPOSAL_TAG = "proposal"
Round = Count
ValidRound = Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)]


class VoteKind(IntEnum):
    """Which of the two voting steps a vote belongs to (arXiv 1807.04938, section 3)."""

    PREVOTE = 1
    PRECOMMIT = 2


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


class Vote(Record, frozen=True):
    """One signed prevote or precommit."""

    kind: VoteKind
    height: Height
    round: Round
    block_id: Digest
    validator: Address
    signature: Signature

    def sign_bytes(self, chain_id: str) -> bytes:
        """Bytes under the signature, tag `VOTE_TAG`."""
        return vote_sign_bytes(chain_id, self.kind, self.height, self.round, self.block_id)


class Proposal(Record, frozen=True):
    """A proposer's signed offer of a block in a round; `valid_round` is -1 for a fresh block."""

    height: Height
    round: Round
    valid_round: ValidRound
    block_id: Digest
    proposer: Address
    signature: Signature

    def sign_bytes(self, chain_id: str) -> bytes:
        """Bytes under the signature, tag `PROPOSAL_TAG`."""
        return encode((chain_id, self.height, self.round, self.valid_round, self.block_id))


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


def vote_sign_bytes(chain_id: str, kind: VoteKind, height: int, round_: int, block_id: bytes) -> bytes:
    """Bytes a vote's signature covers."""
    return encode((chain_id, int(kind), height, round_, block_id))
