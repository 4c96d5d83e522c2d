"""`deepshard shards`: the map a person reads, sizes they type, and offers that reach the node."""

from __future__ import annotations

import json

import pytest
from test_cli_main import Command, assert_complaint, backend, command

from deepshard.cli.parsing import parse_size
from deepshard.cli.shards import format_size, letters
from deepshard.errors import UsageError
from deepshard.primitives import format_address
from deepshard.testing.backend import ALICE, ScriptedBackend

__all__ = ["backend", "command"]


async def test_the_map_lists_the_least_safe_first(command: Command, backend: ScriptedBackend) -> None:
    code, out, err = await command("shards", "map")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "version 3: 2 shards of 4.19 MB, 2 copies each; 1 endangered, 1 safe"
    assert [" ".join(line.split()) for line in lines[2:5]] == [
        "SHARD TENSOR SIZE HOLDERS DOMAINS SAFETY",
        "1 w[0:2] and 1 more 2.1 MB (B) A 2 endangered: 1 failure to lose it",
        "0 w[0:2] and 1 more 2.1 MB A 2 safe: 1 failure to lose it",
    ]
    assert [line.split()[:7] for line in lines[6:8]] == [
        ["HOLDER", "PRESENT", "SHARDS", "HOLDS", "OFFERS", "OPERATOR", "NETWORK"],
        ["A", ALICE, "yes", "2", "3", "MB", "1"],
    ]
    assert "\x1b" not in out
    assert lines[8].split()[2:] == ["away", "1", "1.5", "MB", "-", "-", "-", "-"]
    assert lines[9] == "A, B are seen in 192.0.2.0/24, and don't say that they share it"
    code, out, _ = await command("shards", "map", "--most", "1")
    assert "and 1 more, none of them less safe" in out
    code, out, _ = await command("shards", "map", "--json")
    assert json.loads(out) == await backend.shards()


async def test_an_offer_reaches_the_node_in_bytes(command: Command, backend: ScriptedBackend) -> None:
    code, out, err = await command("shards", "offer", "--capacity", "1.5TB", "--operator", "me")
    assert (code, err) == (0, "")
    assert "33" * 32 in out
    assert backend.calls == [("offer_storage", {"capacity": 15 * 10**11, "operator": "me", "network": ""})]
    assert_complaint(await command("shards", "offer", "--capacity", "much"), 2, "'much' is not a size")


async def test_audits_tell_who_was_asked_who_answered_and_who_lost(command: Command, backend: ScriptedBackend) -> None:
    code, out, err = await command("shards", "audits")
    assert (code, err) == (0, "")
    bob = format_address(bytes(20))
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        "epoch 8: version 3, open until height 445",
        "SHARD HOLDER ANSWERED LOST IN ALL",
        f"4 {ALICE} yes -",
        f"4 {bob} not yet -",
        "9 - nobody has shown it -",
        "",
        "epoch 7: version 3, closed at height 395",
        "SHARD HOLDER ANSWERED LOST IN ALL",
        f"4 {ALICE} yes -",
        f"4 {bob} no 1",
        "9 - nobody has shown it -",
    ]
    code, out, _ = await command("shards", "audits", "7", "--json")
    assert json.loads(out) == (await backend.audits())[1:]
    refused = await command("shards", "audits", "5")
    assert_complaint(refused, 2, "there is no audit of epoch 5; this node has epochs 7 to 8")
    assert_complaint(await command("shards", "audits", "x"), 2, "Invalid value for 'epoch'")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("17", 17),
        ("12 B", 12),
        ("500GB", 5 * 10**11),
        ("0.0015kB", 1),
        ("2.50 MB", 2_500_000),
        ("1.5 TiB", 3 << 39),
        ("1PiB", 1 << 50),
        *((text, None) for text in ("", "-1", "1iB", "1.GB", "9" * 12 + "PB", "5 gb", "1e9", "4EB", "\u0663GB")),
    ],
)
def test_sizes_that_people_type(text: str, size: int | None) -> None:
    if size is None:
        with pytest.raises(UsageError):
            parse_size(text)
    else:
        assert parse_size(text) == size


def test_sizes_and_names_that_people_read() -> None:
    sizes = [0, 999, 1000, 4_194_304, 999_499, 999_500, 10**18, 5 * 10**21]
    expected = ["0 B", "999 B", "1 kB", "4.19 MB", "999 kB", "1 MB", "1 EB", "5e+03 EB"]
    assert [format_size(size) for size in sizes] == expected
    assert [letters(place) for place in (0, 25, 26, 51, 52, 701, 702)] == ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]
