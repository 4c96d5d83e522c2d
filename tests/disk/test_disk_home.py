"""A node's three files remember each other: one that was cut off or lost is noticed, and said in one line."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from deepshard.consensus.types import SafetyState, Step
from deepshard.disk.chain import ChainStore, NewReceipt, StoredBlock
from deepshard.disk.database import CorruptRow
from deepshard.disk.guard import DoubleSignRefused, Signed
from deepshard.disk.home import open_home
from deepshard.disk.journal import Journal
from deepshard.errors import DiskCorruption
from deepshard.primitives import content_digest
from deepshard.testing.fault_disk import Crash, FaultDisk, PowerLoss

GENESIS = content_digest(b"genesis")
A, B = content_digest(b"a"), content_digest(b"b")
ALICE = bytes([1]) * 20
SAFETY = SafetyState(3, 0, Step.PREVOTE, -1, bytes(32), -1, bytes(32))


def fill(home: Path) -> None:
    journal, store = open_home(home, genesis_hash=GENESIS)
    for height in (1, 2):
        block = StoredBlock(height, b"block" * height, b"certificate", b"validators")
        store.save_block(block, [NewReceipt("reward", ALICE, A, b"%d" % height)], snapshot=b"state %d" % height)
    store.guard.allow_and_record(Signed(3, 0, Step.PREVOTE, A, -1), SAFETY)
    journal.put("vote/1", b"salt")
    close(journal, store)


def close(journal: Journal, store: ChainStore) -> None:
    store.close()
    journal.close()


def refusal(home: Path) -> str:
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    with pytest.raises(DiskCorruption) as caught:
        open_home(home, genesis_hash=GENESIS)
    with pytest.raises(DiskCorruption):
        open_home(home, genesis_hash=GENESIS)
    after = {path.name: path.read_bytes() for path in home.iterdir()}
    assert {name: data for name, data in after.items() if data} == {name: data for name, data in before.items() if data}
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_home_opens_again_and_twice_does_not_write(tmp_path: Path) -> None:
    fill(tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with capture_logs() as logs:
        journal, store = open_home(tmp_path, genesis_hash=GENESIS)
    assert (store.height(), journal.get("vote/1"), logs) == (2, b"salt", [])
    assert (store.guard.knows("chain.sqlite"), store.guard.knows("journal.sqlite")) == (True, True)
    close(journal, store)
    assert {path: path.read_bytes() for path in files} == files


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chain.sqlite", r"chain.sqlite is empty: it was cut off; move the chain's files away (never guard.db)"),
        ("journal.sqlite", "journal.sqlite is empty: it was cut off; move it away to go on without its promises"),
        ("guard.db", "guard.db is gone: without it this node may sign twice"),
    ],
)
def test_a_file_cut_to_nothing_is_refused(tmp_path: Path, name: str, message: str) -> None:
    fill(tmp_path)
    (tmp_path / name).write_bytes(b"")
    assert message in refusal(tmp_path)


def test_a_chain_of_tables_without_rows_is_refused(tmp_path: Path) -> None:
    fill(tmp_path)
    database = sqlite3.connect(tmp_path / "chain.sqlite", isolation_level=None)
    for (table,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
        database.execute(f"DELETE FROM {table}")
    database.close()
    assert "the table meta is empty; move the chain's files away" in refusal(tmp_path)


@pytest.mark.clause("9.7/1")
def test_a_chain_that_was_moved_away_begins_anew_behind_the_same_guard(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "chain.sqlite").unlink()
    with capture_logs() as logs:
        journal, store = open_home(tmp_path, genesis_hash=GENESIS)
    assert [entry["event"] for entry in logs] == ["chain.missing"]
    assert (store.height(), journal.get("vote/1")) == (0, b"salt")
    with pytest.raises(DoubleSignRefused):
        store.guard.allow_and_record(Signed(3, 0, Step.PREVOTE, B, -1), SAFETY)
    close(journal, store)
    with capture_logs() as logs:
        close(*open_home(tmp_path, genesis_hash=GENESIS))
    assert logs == []
    (tmp_path / "chain.sqlite").write_bytes(b"")
    assert "is empty: it was cut off" in refusal(tmp_path)


def test_a_journal_that_was_moved_away_begins_anew(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "journal.sqlite").unlink()
    with capture_logs() as logs:
        journal, store = open_home(tmp_path, genesis_hash=GENESIS)
    assert [entry["event"] for entry in logs] == ["journal.missing"]
    assert (store.height(), journal.get("vote/1")) == (2, None)
    close(journal, store)


@pytest.mark.clause("9.7/1")
@pytest.mark.parametrize("lost", [["guard.db"], ["guard.db", "chain.sqlite"], ["guard.db", "journal.sqlite"]])
def test_no_node_starts_without_its_guard(tmp_path: Path, lost: list[str]) -> None:
    fill(tmp_path)
    for name in lost:
        (tmp_path / name).unlink()
    assert "guard.db is gone: without it this node may sign twice" in refusal(tmp_path)


@pytest.mark.parametrize("mode", list(Crash))
def test_power_lost_while_a_file_is_made_anew_is_no_damage(mode: Crash, tmp_path: Path) -> None:
    fill(tmp_path)
    points = 0
    for lost in ("chain.sqlite", "journal.sqlite"):
        image = {Path("/home") / path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != lost}
        point = 0
        while True:
            point += 1
            disk = FaultDisk(random.Random(point), image)
            disk.crash_at = point
            try:
                close(*open_home(Path("/home"), genesis_hash=GENESIS, files=disk))
                break
            except PowerLoss:
                disk.crash(mode)
                disk.reopen()
            journal, store = open_home(Path("/home"), genesis_hash=GENESIS, files=disk)
            assert store.guard.signed(3) == (Signed(3, 0, Step.PREVOTE, A, -1),)
            close(journal, store)
        points += point
    assert points > 40


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM meta WHERE name = 'base'",
        "UPDATE meta SET name = 'bas' WHERE name = 'base'",
        "UPDATE meta SET value = x'0000000000000002' WHERE name = 'base'",
        "UPDATE meta SET value = 2 WHERE name = 'snapshot'",
        "UPDATE meta SET checksum = x'00' WHERE name = 'receipts'",
    ],
)
def test_every_entry_of_meta_is_read_at_the_start(tmp_path: Path, damage: str) -> None:
    fill(tmp_path)
    with sqlite3.connect(tmp_path / "chain.sqlite") as database:
        database.execute(damage)
    database.close()
    assert "of table meta" in refusal(tmp_path)


def test_an_index_of_meta_that_has_lost_an_entry_is_noticed(tmp_path: Path) -> None:
    fill(tmp_path)
    path = tmp_path / "chain.sqlite"
    data = path.read_bytes()
    # The name lies in the table's row and in the index; only there is it followed by the row's number alone.
    places = [at for at in range(len(data)) if data.startswith(b"\x03\x15\x01base", at)]
    assert len(places) == 1
    path.write_bytes(data[: places[0] + 3] + b"aase" + data[places[0] + 7 :])
    assert "(base) of table meta is gone" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "flipped"),
    [
        ("chain.sqlite", b"snapshots (height INTEGER PRIMARY KEY", b"snapshots (height INTEGER PR\tMARY KEY"),
        ("guard.db", b"id INTEGER PRIMARY KEY", b"id INTEGER PR\tMARY KEY"),
        ("journal.sqlite", b"value BLOB NOT NULL", b"value CLOB NOT NULL"),
    ],
)
def test_a_definition_that_a_flipped_bit_turns_into_another_is_refused(
    tmp_path: Path, name: str, text: bytes, flipped: bytes
) -> None:
    fill(tmp_path)
    path = tmp_path / name
    assert path.read_bytes().count(text) == 1
    path.write_bytes(path.read_bytes().replace(text, flipped))
    assert f"{name}: " in refusal(tmp_path)


@pytest.mark.parametrize("damage", ["account = x'00' WHERE seq = 1", "subject = x'00' WHERE seq = 2"])
def test_a_receipt_that_a_damaged_account_hides_is_refused(tmp_path: Path, damage: str) -> None:
    fill(tmp_path)
    with sqlite3.connect(tmp_path / "chain.sqlite") as database:
        database.execute(f"UPDATE receipts SET {damage}")
    database.close()
    for asked in ({"account": ALICE}, {"subject": A}):
        journal, store = open_home(tmp_path, genesis_hash=GENESIS)
        with pytest.raises(CorruptRow, match="table receipts does not match its checksum; move the chain's files away"):
            store.receipts(**asked)  # type: ignore[arg-type]
        close(journal, store)


def test_the_newest_snapshot_is_known_though_its_row_is_gone(tmp_path: Path) -> None:
    fill(tmp_path)
    with sqlite3.connect(tmp_path / "chain.sqlite") as database:
        database.execute("DELETE FROM snapshots WHERE height = 2")
    database.close()
    journal, store = open_home(tmp_path, genesis_hash=GENESIS)
    assert (store.snapshot(), store.snapshot_height) == ((1, b"state 1"), 2)
    close(journal, store)
