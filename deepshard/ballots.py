"""Votes and proposals: what validators sign, shared by consensus, which counts them, and the ledger, which punishes.

Sign-bytes bind the chain id, so a vote can't be replayed on another network. A vote for nil carries `ZERO_DIGEST`.

A prevote for a block names the round of the proof-of-lock that justifies it, `valid_round`, or -1 if it needs none.
That makes forgetting one's lock provable from two signatures (`evidence.Amnesia`).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final

import msgspec

from deepshard.encoding import Record, encode
from deepshard.primitives import ZERO_DIGEST, Address, Count, Digest, Height, Signature

VOTE_TAG: Final = "vote"
PROPOSAL_TAG: Final = "proposal"
NO_ROUND: Final = -1
"""`valid_round` of what rests on no proof-of-lock."""
Round = Count
ValidRound = Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)]


class VoteKind(IntEnum):
    """Which of the two voting steps a vote belongs to (arXiv 1807.04938, section 3)."""

    PREVOTE = 1
    PRECOMMIT = 2


class Vote(Record, frozen=True):
    """One signed prevote or precommit; `valid_round` is -1 but for prevotes that rest on a proof-of-lock."""

    kind: VoteKind
    height: Height
    round: Round
    valid_round: ValidRound
    block_id: Digest
    validator: Address
    signature: Signature

    def sign_bytes(self, chain_id: str) -> bytes:
        """Bytes under the signature, tag `VOTE_TAG`."""
        return vote_sign_bytes(chain_id, self.kind, self.height, self.round, self.block_id, self.valid_round)


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


def names_its_proof(vote: Vote) -> bool:
    """Whether the valid round is one that such a vote may name: an earlier one for a block's prevote, else none."""
    if vote.kind is VoteKind.PREVOTE and vote.block_id != ZERO_DIGEST:
        return NO_ROUND <= vote.valid_round < vote.round
    return vote.valid_round == NO_ROUND


def vote_sign_bytes(
    chain_id: str, kind: VoteKind, height: int, round_: int, block_id: bytes, valid_round: int = NO_ROUND
) -> bytes:
    """Bytes a vote's signature covers."""
    return encode((chain_id, int(kind), height, round_, valid_round, block_id))
