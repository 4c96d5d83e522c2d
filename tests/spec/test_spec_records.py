"""Tables of records in the chapters name the fields and types of the code, in their order."""

from __future__ import annotations

from enum import Enum

import msgspec
import pytest
from spec_text import Shape, enumeration_text, parse_fields, rows, shape_of_fields

from deepshard.consensus import types as consensus
from deepshard.consensus.validators import ValidatorSet
from deepshard.ledger import params, trie
from deepshard.wire import handshake
from deepshard.wire.messages import BlobStatus

RECORDS: dict[str, tuple[type[msgspec.Struct], ...]] = {
    "04-handshake": (
        handshake.Hello,
        handshake.Claims,
        handshake.SignedClaims,
        handshake.Reply,
        handshake.Finish,
        handshake.Refusal,
    ),
    "09-consensus": (consensus.Vote, consensus.Proposal),
    "10-blocks": (
        consensus.Validator,
        ValidatorSet,
        consensus.Header,
        consensus.Block,
        consensus.CommitSignature,
        consensus.CommitCertificate,
        trie.ProofStep,
        trie.ProofLeaf,
        trie.Proof,
        params.Genesis,
        params.GenesisValidator,
        params.GenesisAccount,
        params.Params,
        params.Recipe,
        params.ProbePlan,
        params.VerdictLimits,
    ),
}


def texts_of(chapter: str) -> dict[str, Shape]:
    """Enumerations of texts, by the names that a chapter gives them."""
    try:
        listed = list(rows(chapter, "enumeration", "values"))
    except LookupError:
        return {}
    return {
        row["enumeration"]: ("texts", *sorted(row["values"].split(", ")))
        for row in listed
        if not row["values"][0].isdigit()
    }


@pytest.mark.parametrize("chapter", RECORDS)
def test_records_have_the_fields_of_the_code(chapter: str) -> None:
    described = {row["record"]: row["fields"] for row in rows(chapter, "record", "fields")}
    named = texts_of(chapter) | {"ChainId": ("str", 1, 50), "ShortText": ("str", 0, 64)}
    assert sorted(described) == sorted(record.__name__ for record in RECORDS[chapter])
    for record in RECORDS[chapter]:
        assert parse_fields(described[record.__name__], named) == shape_of_fields(record), record.__name__


@pytest.mark.parametrize(
    ("chapter", "enum"),
    [("06-messages", BlobStatus), ("09-consensus", consensus.VoteKind)],
)
def test_enumerations_with_numbers_are_those_of_the_code(chapter: str, enum: type[Enum]) -> None:
    listed = {row["enumeration"]: row["values"] for row in rows(chapter, "enumeration", "values")}
    assert listed[enum.__name__] == enumeration_text(enum)


def test_refusal_reasons_are_those_of_the_code() -> None:
    header = ("reason", "sent by", "meaning", "GOODBYE reason (5.8)")
    listed = [row["reason"].strip("`") for row in rows("04-handshake", *header)]
    assert listed == [reason.value for reason in handshake.RefusalReason]
