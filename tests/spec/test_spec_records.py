"""Tables of records in the chapters name the fields and types of the code, in their order."""

from __future__ import annotations

from enum import Enum
from typing import get_args

import msgspec
import pytest
from spec_text import Shape, enumeration_text, parse_fields, rows, shape_of_fields

from deepshard import ballots, chunk_tree, evidence
from deepshard.consensus import forensics
from deepshard.consensus import types as consensus
from deepshard.consensus.validators import ValidatorSet
from deepshard.ledger import params, records, transactions, trie, trie_chunks
from deepshard.shards import manifest
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
    "08-shards": (
        manifest.Manifest,
        manifest.TensorEntry,
        manifest.ShardEntry,
        manifest.TensorSlice,
        manifest.FileEntry,
    ),
    "09-consensus": (ballots.Vote, ballots.Proposal, forensics.DecidedHeader),
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
        params.LoraRecipe,
        params.ProbePlan,
        params.VerdictLimits,
        trie_chunks.StateChunk,
    ),
    "11-transactions": (
        transactions.Transaction,
        transactions.TransactionBody,
        transactions.SegmentRef,
        transactions.ProbeScore,
        transactions.SubmissionReport,
        records.Chain,
        chunk_tree.ShardChunks,
        chunk_tree.ChunkRef,
        records.StorageOffer,
        records.StorageTerms,
        records.Audit,
        records.AuditedShard,
        records.AuditOutcome,
        records.Supply,
        records.Account,
        records.Unbonding,
        records.ValidatorRecord,
        records.Conviction,
        records.ActiveSet,
        records.ActiveValidator,
        records.Agenda,
        records.WaitingProposal,
        records.DataProposal,
        records.Tally,
        records.SegmentVerdict,
        records.Committee,
        records.Seat,
        records.SegmentRecord,
        records.TrainingRound,
        records.BatchSegment,
        records.TrainerEntry,
        records.RoundScoring,
        records.Probe,
        records.ModelVersion,
        records.Licence,
        records.Receipt,
    ),
}

EVIDENCE: tuple[type[msgspec.Struct], ...] = get_args(forensics.Accusation)
ACTIONS: tuple[type[msgspec.Struct], ...] = get_args(transactions.Action)

FREE: frozenset[type[msgspec.Struct]] = frozenset(
    {
        transactions.CommitVote,
        transactions.RevealVote,
        transactions.RevealWeights,
        transactions.ReportScores,
        transactions.ReportEvidence,
        transactions.AnswerAudit,
        transactions.ShowAudit,
    }
)


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


def names_of(chapter: str) -> dict[str, Shape]:
    """Shapes of the names that a chapter explains in words or as an enumeration."""
    texts = texts_of(chapter)
    if "OutcomeReason" in texts:
        texts["OutcomeReason"] = ("texts", *sorted(("", *texts["OutcomeReason"][1:])))
    return texts | {
        "ChainId": ("str", 1, 50),
        "ShortText": ("str", 0, 64),
        "Action": ("one of", *sorted(action.__name__ for action in ACTIONS)),
        "Evidence": ("one of", *sorted(kind.__name__ for kind in get_args(evidence.Evidence))),
        "Fact": ("mixed", ("int", None, None), ("str", 0, None)),
    }


@pytest.mark.parametrize("chapter", RECORDS)
def test_records_have_the_fields_of_the_code(chapter: str) -> None:
    described = {row["record"]: row["fields"] for row in rows(chapter, "record", "fields")}
    named = names_of(chapter)
    assert sorted(described) == sorted(record.__name__ for record in RECORDS[chapter])
    for record in RECORDS[chapter]:
        assert parse_fields(described[record.__name__], named) == shape_of_fields(record), record.__name__


@pytest.mark.parametrize(
    ("chapter", "enum"),
    [("06-messages", BlobStatus), ("09-consensus", ballots.VoteKind)],
)
def test_enumerations_with_numbers_are_those_of_the_code(chapter: str, enum: type[Enum]) -> None:
    listed = {row["enumeration"]: row["values"] for row in rows(chapter, "enumeration", "values")}
    assert listed[enum.__name__] == enumeration_text(enum)


def test_refusal_reasons_are_those_of_the_code() -> None:
    header = ("reason", "sent by", "meaning", "GOODBYE reason (5.8)")
    listed = [row["reason"].strip("`") for row in rows("04-handshake", *header)]
    assert listed == [reason.value for reason in handshake.RefusalReason]


def test_actions_have_the_tags_and_fields_of_the_code() -> None:
    described = {row["action"]: row for row in rows("11-transactions", "action", "tag", "fee", "fields")}
    assert list(described) == [action.__name__ for action in ACTIONS]
    for action in ACTIONS:
        row = described[action.__name__]
        assert row["tag"].strip("`") == action.__struct_config__.tag
        assert row["fee"] == ("no" if action in FREE else "yes")
        assert parse_fields(row["fields"], names_of("11-transactions")) == shape_of_fields(action), action.__name__


def test_evidence_has_the_tags_and_fields_of_the_code() -> None:
    described = {row["evidence"]: row for row in rows("09-consensus", "evidence", "tag", "fields")}
    assert list(described) == [kind.__name__ for kind in EVIDENCE]
    for kind in EVIDENCE:
        row = described[kind.__name__]
        assert row["tag"].strip("`") == kind.__struct_config__.tag
        assert parse_fields(row["fields"]) == shape_of_fields(kind), kind.__name__
