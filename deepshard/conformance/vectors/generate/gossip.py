"""`gossip.json`: ids of units, alone and in batches (chapter 7.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from deepshard.ballots import VoteKind
from deepshard.conformance.vectors.document import Json, accept, document
from deepshard.conformance.vectors.generate import forms
from deepshard.conformance.vectors.generate.network import BLOCK, KEYS, signed_proposal, signed_vote
from deepshard.encoding import encode
from deepshard.primitives import tagged_hash

_IDS: Final = ("7.1/1", "7.1/2")
_TRANSACTIONS, _PROPOSAL, _VOTES, _LOCK_PROOF = 16, 17, 18, 19


def make() -> Json:
    """The file."""
    return document(
        "gossip", "Ids of units (chapter 7.1): of batches' entries, proposals and proofs-of-lock.", _cases()
    )


def _id(kind: int, body: bytes) -> bytes:
    return tagged_hash("gossip id", kind.to_bytes(2, "little"), body)[:16]


def _cases() -> Iterator[Json]:
    votes = [encode(signed_vote(key, VoteKind.PREVOTE, 5, 0, BLOCK)) for key in KEYS[:3]]
    for name, kind, entries in (
        ("one vote", _VOTES, votes[:1]),
        ("three votes", _VOTES, votes),
        ("the same vote twice", _VOTES, votes[:1] * 2),
        ("no votes", _VOTES, []),
        ("a vote sent as a transaction", _TRANSACTIONS, votes[:1]),
        ("two transactions", _TRANSACTIONS, [b"one", b"another"]),
        ("an empty transaction", _TRANSACTIONS, [b""]),
    ):
        ids = [_id(kind, forms.encoded([[entry]])) for entry in entries]
        yield accept(name, _IDS, kind=kind, body=forms.encoded([entries]), ids=ids)
    proposal = encode(signed_proposal(KEYS[0], 5, 0, -1, BLOCK))
    for name, block in (("a proposal with its block", b"block"), ("the same proposal with another block", b"other")):
        body = forms.encoded([proposal, block])
        yield accept(name, _IDS, kind=_PROPOSAL, body=body, ids=[_id(_PROPOSAL, body)])
    body = forms.encoded([b"proof"])
    yield accept("a proof-of-lock", _IDS, kind=_LOCK_PROOF, body=body, ids=[_id(_LOCK_PROOF, body)])
