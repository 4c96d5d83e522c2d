"""Tables of records in the chapters name the fields and types of the code, in their order."""

from __future__ import annotations

import msgspec
import pytest
from spec_text import Shape, parse_fields, rows, shape_of_fields

from deepshard.consensus import types as consensus
from deepshard.consensus.validators import ValidatorSet
from deepshard.ledger import params, records, transactions, trie
from deepshard.wire import handshake

RECORDS: dict[str, tuple[type[msgspec.Struct], ...]] = {
    "04-handshake": (
        handshake.Hello,
        handshake.Claims,
        handshake.SignedClaims,
        handshake.Reply,
        handshake.Finish,
        handshake.Refusal,
    ),
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
    return {row["enumeration"]: ("texts", *sorted(row["values"].split(", "))) for row in listed}


@pytest.mark.parametrize("chapter", RECORDS)
def test_records_have_the_fields_of_the_code(chapter: str) -> None:
    described = {row["record"]: row["fields"] for row in rows(chapter, "record", "fields")}
    named = texts_of(chapter) | {"ChainId": ("str", 1, 50), "ShortText": ("str", 0, 64)}
    assert sorted(described) == sorted(record.__name__ for record in RECORDS[chapter])
    for record in RECORDS[chapter]:
        assert parse_fields(described[record.__name__], named) == shape_of_fields(record), record.__name__
