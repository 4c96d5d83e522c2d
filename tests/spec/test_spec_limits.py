"""The table of limits is `deepshard.limits`, but for what is each node's own affair and touches no peer."""

from __future__ import annotations

import re
from typing import Final

import pytest
from spec_text import SPEC, rows

from deepshard import limits

HEADER = ("name", "value", "unit", "force", "what")

LOCAL_POLICY: Final = frozenset(
    {
        "BULK_QUEUE_BYTES_MAX",
        "CHAT_MESSAGES_MAX",
        "CHAT_TOKENS_MAX",
        "COMPUTE_MESSAGE_BYTES_MAX",
        "DIAL_BACKOFF_MAX_S",
        "DIAL_BACKOFF_MIN_S",
        "DIAL_TIMEOUT_S",
        "HTTP_BODY_BYTES_MAX",
        "HTTP_BODY_TIMEOUT_S",
        "KEY_FILE_BYTES_MAX",
        "LEARNED_DIAL_FAILURES_MAX",
        "LEAVES_CACHED_MAX",
        "LIGHT_BACKWARD_HEADERS_MAX",
        "LIGHT_BLOCKS_MAX",
        "LIGHT_QUERY_TIMEOUT_S",
        "LIGHT_RETRY_S",
        "LIGHT_RETRY_S_MAX",
        "LIGHT_WANTED_MAX",
        "LINK_CLOSE_TIMEOUT_S",
        "MAILBOX_MESSAGES_MAX",
        "NETWORK_EVENTS_MAX",
        "OUTBOUND_QUEUE_BYTES_MAX",
        "OUTBOUND_QUEUE_FRAMES_MAX",
        "PARTIALS_MAX",
        "PARTIAL_AGE_S_MAX",
        "PEERS_REMEMBERED_MAX",
        "WITNESS_PAUSE_S",
    }
)
"""Queues, files, the local HTTP interface and how one's own dialling behaves: no peer can tell their values."""

UNITS: Final = frozenset({"KIB", "MIB"})


def in_code() -> dict[str, float]:
    return {name: value for name, value in vars(limits).items() if name.isupper() and name not in UNITS}


def described() -> dict[str, dict[str, str]]:
    return {row["name"].strip("`"): row for row in rows("12-limits", *HEADER)}


def test_every_limit_is_described_or_local() -> None:
    assert described().keys() | LOCAL_POLICY == in_code().keys()
    assert described().keys() & LOCAL_POLICY == set()


@pytest.mark.clause("12.1/1")
def test_values_are_those_of_the_code() -> None:
    values = {name: float(row["value"].replace(",", "")) for name, row in described().items()}
    assert values == {name: value for name, value in in_code().items() if name not in LOCAL_POLICY}


def test_forces_are_fixed_or_usual() -> None:
    assert {row["force"] for row in described().values()} == {"fixed", "usual"}


def test_chapters_name_no_limit_that_the_table_lacks() -> None:
    named = {
        name
        for chapter in sorted(SPEC.glob("[0-9][0-9]-*.md"))
        for name in re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)`", chapter.read_text(encoding="utf-8"))
    }
    constants = {"ZERO_DIGEST", "NOT_FOUND", "NOT_LICENSED"}
    assert named - described().keys() - constants == set()
