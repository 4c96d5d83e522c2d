"""Pure parts of `deepshard light`: who is believed to be level, and what is said of a header."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from light_peers import VALIDATORS

from deepshard.cli.light_session import is_level
from deepshard.cli.light_view import (
    ROWS_MAX,
    JsonLines,
    Lines,
    LiveTable,
    Signed,
    Verified,
    signed_text,
    verified,
    when,
)
from deepshard.consensus.light import LightBlock
from deepshard.consensus.light_events import Trusted
from deepshard.consensus.types import Header
from deepshard.consensus.validators import ValidatorSet
from deepshard.primitives import ZERO_DIGEST
from deepshard.testing.chain_history import certify

SET = ValidatorSet.of((key.public, 10 + place) for place, key in enumerate(VALIDATORS))


def header(height: int) -> Header:
    return Header(
        version=1,
        chain_id="c",
        height=height,
        time_ms=height * 1000,
        parent_id=ZERO_DIGEST,
        proposer=VALIDATORS[0].address,
        last_commit_hash=ZERO_DIGEST,
        transactions_root=ZERO_DIGEST,
        state_root=ZERO_DIGEST,
        receipts_root=ZERO_DIGEST,
        validators_hash=SET.hash(),
        next_validators_hash=SET.hash(),
        manifest=ZERO_DIGEST,
        onion_preimage=ZERO_DIGEST,
    )


def block(height: int, signers: int) -> LightBlock:
    of = header(height)
    return LightBlock(of, certify("c", VALIDATORS[:signers], height, of.block_id()), SET)


@given(height=st.integers(0, 50), claims=st.lists(st.integers(0, 50), max_size=9))
def test_level_is_what_more_than_half_claim_at_most(height: int, claims: list[int]) -> None:
    at_most = sum(claim <= height for claim in claims)
    assert is_level(height, claims) == (2 * at_most > len(claims))


@given(st.sets(st.integers(1, 40), min_size=1), st.data())
def test_a_step_is_shown_from_below_with_who_signed(heights: set[int], data: st.DataObject) -> None:
    signed = data.draw(st.dictionaries(st.sampled_from(sorted(heights)), st.integers(0, 4), min_size=1))
    blocks = tuple(block(height, count) for height, count in signed.items())
    step = Trusted(tuple(header(height) for height in heights), blocks, b"p", (b"a", b"b"))
    shown = verified(step)
    assert [one.header.height for one in shown] == sorted(heights)
    for one in shown:
        assert (one.source, one.agreed) == (b"p", (b"a", b"b"))
        assert (one.signed is None) == (one.header.height not in signed)
        if one.signed is not None:
            count = signed[one.header.height]
            assert one.signed == Signed(sum(range(10, 10 + count)), 46, count, 4)


def test_a_share_is_never_rounded_up() -> None:
    assert signed_text(Signed(2, 3, 2, 3)) == "66.6% by 2 of 3"
    assert signed_text(Signed(9999, 10_000, 3, 4)) == "99.9% by 3 of 4"
    assert signed_text(None) == "(parent of the next)"


@given(st.integers(0, 2**62))
def test_any_time_can_be_shown(time_ms: int) -> None:
    assert when(time_ms)
    assert when(1_795_596_648_628) == "2026-11-25T08:50:48Z"


def test_the_table_on_a_terminal_shows_the_newest_headers_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    table = LiveTable("a chain")
    for height in range(1, ROWS_MAX + 2):
        [one] = verified(Trusted((header(height),), (block(height, 4),), b"p", (b"a", b"b")))
        table.show(one)
    table.say("peers", "one\x1b[31m peer", {})
    table.close()
    title, headings, *rows = capsys.readouterr().out.splitlines()
    assert title.strip() == "a chain"
    assert headings.split() == ["HEIGHT", "ID", "TIME", "SIGNED", "PEERS"]
    assert [row.split()[0] for row in rows[:ROWS_MAX]] == [str(height) for height in range(2, ROWS_MAX + 2)]
    assert rows[0].split()[1:] == [
        header(2).block_id().hex()[:16],
        "1970-01-01T00:00:02Z",
        "100%",
        "by",
        "4",
        "of",
        "4",
        "3",
    ]
    assert rows[ROWS_MAX].strip() == "one\N{REPLACEMENT CHARACTER}[31m peer"


def test_a_line_for_people_and_one_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    [one] = verified(Trusted((header(7),), (block(7, 3),), b"p", (b"a",)))
    Lines().show(one)
    JsonLines().show(one)
    JsonLines().show(Verified(header(6), None, b"p", ()))
    JsonLines().say("peers", "caf\xe9", {"peers": 1})
    line, *objects = capsys.readouterr().out.splitlines()
    block_id = header(7).block_id().hex()
    assert line == f"height 7  id {block_id[:16]}  1970-01-01T00:00:07Z  signed 71.7% by 3 of 4  peers 2"
    first, second, third = map(json.loads, objects)
    assert (first["event"], first["height"], first["block_id"]) == ("header", 7, block_id)
    assert (first["signed_power"], first["total_power"], first["signers"], first["validators"]) == (33, 46, 3, 4)
    assert (first["primary"], first["witnesses"], first["proof"]) == (b"p".hex(), [b"a".hex()], "certificate")
    assert (second["signed_power"], second["proof"]) == (None, "parent")
    assert third == {"event": "peers", "text": "caf\xe9", "peers": 1}
