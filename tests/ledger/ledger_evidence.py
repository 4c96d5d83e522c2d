"""Evidence against validators of the test chain."""

from __future__ import annotations

from ledger_network import CHAIN_ID, digest

from deepshard.ballots import PROPOSAL_TAG, VOTE_TAG, Proposal, Vote, VoteKind, vote_sign_bytes
from deepshard.encoding import encode
from deepshard.evidence import Amnesia, Evidence, duplicate_proposal, duplicate_vote
from deepshard.identity import SecretKey

A, B = digest("block a"), digest("block b")


def vote(key: SecretKey, kind: VoteKind, height: int, round_: int, block: bytes, valid_round: int = -1) -> Vote:
    signature = key.sign(VOTE_TAG, vote_sign_bytes(CHAIN_ID, kind, height, round_, block, valid_round))
    return Vote(kind, height, round_, valid_round, block, key.address, signature)


def two_votes(key: SecretKey, height: int, round_: int = 0) -> Evidence:
    return duplicate_vote(key.public, *(vote(key, VoteKind.PREVOTE, height, round_, block) for block in (A, B)))


def two_proposals(key: SecretKey, height: int) -> Evidence:
    signed = [
        Proposal(height, 0, -1, block, key.address, key.sign(PROPOSAL_TAG, encode((CHAIN_ID, height, 0, -1, block))))
        for block in (A, B)
    ]
    return duplicate_proposal(key.public, *signed)


def amnesia(key: SecretKey, height: int) -> Evidence:
    return Amnesia(
        key.public, vote(key, VoteKind.PRECOMMIT, height, 1, A), vote(key, VoteKind.PREVOTE, height, 3, B, 0)
    )
