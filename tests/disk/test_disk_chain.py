from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from deepshard.ballots import VoteKind
from deepshard.consensus.types import SafetyState, Step
from deepshard.disk import chain as chain_module
from deepshard.disk.chain import ChainStore, NewReceipt, StoredBlock
from deepshard.disk.database import CorruptRow
from deepshard.disk.guard import SIGNED_MAX, DoubleSignRefused, Signed, SigningGuard
from deepshard.errors import DiskCorruption, LocalError, UsageError
from deepshard.primitives import ZERO_DIGEST, content_digest

GENESIS = content_digest(b"genesis")
A, B = content_digest(b"a"), content_digest(b"b")
ALICE, BOB = bytes([1]) * 20, bytes([2]) * 20


def stored(height: int) -> StoredBlock:
    name = str(height).encode()
    return StoredBlock(height, b"block " + name * 50, b"certificate " + name, b"validators " + name)


def receipt(account: bytes, subject: bytes, text: str) -> NewReceipt:
    return NewReceipt("reward", account, subject, text.encode())


def open_store(home: Path, genesis: bytes = GENESIS) -> ChainStore:
    return ChainStore(home / "chain.db", genesis_hash=genesis)


def fill(home: Path, height: int = 3) -> None:
    store = open_store(home)
    for at in range(1, height + 1):
        store.save_block(
            stored(at), [receipt(ALICE, A, f"{at} a"), receipt(BOB, B, f"{at} b")], snapshot=b"state %d" % at
        )
    store.save_pending_block(height + 1, A, b"proposed a")
    store.guard.allow_and_record(signed(VoteKind.PRECOMMIT, height + 1, 0, A), safety(height + 1, Step.PRECOMMIT, A))
    store.close()


def signed(kind: VoteKind | Step, height: int, round_: int, block_id: bytes) -> Signed:
    return Signed(height, round_, Step(int(kind)), block_id, -1)


def safety(height: int, step: Step, locked: bytes = ZERO_DIGEST, round_: int = 0) -> SafetyState:
    locked_round = -1 if locked == ZERO_DIGEST else round_
    return SafetyState(height, round_, step, locked_round, locked, locked_round, locked)


def edit(path: Path, statement: str, *values: object) -> None:
    database = sqlite3.connect(path)
    database.execute(statement, values)
    database.commit()
    database.close()


def test_an_empty_chain(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert (store.height(), store.block(1), store.blocks(0, 5), store.receipts(), store.snapshot()) == (
        0,
        None,
        [],
        [],
        None,
    )
    store.close()


def test_everything_survives_reopening(tmp_path: Path) -> None:
    fill(tmp_path)
    store = open_store(tmp_path)
    assert store.height() == 3
    assert store.block(2) == stored(2)
    assert (store.block(0), store.block(4)) == (None, None)
    assert store.blocks(2, 10) == [stored(2), stored(3)]
    assert store.blocks(-5, 1) == [stored(1)]
    assert store.snapshot() == (3, b"state 3")
    assert store.pending_blocks(4) == {A: b"proposed a"}
    assert store.pending_block(4, B) is None
    assert store.guard.safety() == safety(4, Step.PRECOMMIT, A)
    assert store.guard.signed(4) == (Signed(4, 0, Step.PRECOMMIT, A, -1),)
    store.close()


def test_receipts_are_found_by_account_subject_and_sequence(tmp_path: Path) -> None:
    fill(tmp_path)
    store = open_store(tmp_path)
    assert [(entry.seq, entry.height, entry.data) for entry in store.receipts(after=2, limit=2)] == [
        (3, 2, b"2 a"),
        (4, 2, b"2 b"),
    ]
    assert [entry.seq for entry in store.receipts(account=BOB)] == [2, 4, 6]
    assert [entry.seq for entry in store.receipts(subject=A, after=1)] == [3, 5]
    assert store.receipts(account=BOB, subject=A) == []
    store.close()


def test_heights_follow_each_other_and_a_refused_block_leaves_nothing(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    store = open_store(tmp_path)
    for wrong in (2, 4):
        with pytest.raises(LocalError, match=f"cannot store block {wrong} after block 2"):
            store.save_block(stored(wrong), [receipt(ALICE, A, "lost")], snapshot=b"lost")
    assert store.height() == 2
    assert len(store.receipts()) == 4
    store.save_block(stored(3), [])
    assert store.pending_blocks(3) == {}
    store.close()


def test_a_block_and_its_receipts_are_one_write(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    store = open_store(tmp_path)
    unstorable = NewReceipt(None, ALICE, A, b"2")  # type: ignore[arg-type]
    with pytest.raises(LocalError, match="NOT NULL"):
        store.save_block(stored(2), [receipt(ALICE, A, "2"), unstorable])
    assert store.height() == 1
    assert len(store.receipts()) == 2
    store.save_block(stored(2), [])
    assert store.block(2) == stored(2)
    store.close()


def test_only_the_latest_snapshots_are_kept_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, 4)
    path = tmp_path / "chain.db"
    edit(path, "UPDATE snapshots SET data = 'x' WHERE height = 4")
    store = open_store(tmp_path)
    assert store.snapshot() == (3, b"state 3")
    store.close()
    edit(path, "DELETE FROM snapshots WHERE height > 2")
    store = open_store(tmp_path)
    assert store.snapshot() is None
    store.close()


@pytest.mark.parametrize(
    ("damage", "table"),
    [
        ("UPDATE blocks SET block = x'00' WHERE height = 2", "blocks"),
        ("UPDATE blocks SET certificate = x'00' WHERE height = 2", "blocks"),
        ("UPDATE blocks SET validators = 5 WHERE height = 2", "blocks"),
        ("UPDATE blocks SET checksum = x'00' WHERE height = 2", "blocks"),
        ("DELETE FROM blocks WHERE height = 2", "blocks"),
        ("UPDATE receipts SET account = x'00' WHERE seq = 2", "receipts"),
        ("UPDATE receipts SET height = 9 WHERE seq = 2", "receipts"),
        ("UPDATE receipts SET data = x'00' WHERE seq = 2", "receipts"),
        ("DELETE FROM receipts WHERE seq = 2", "receipts"),
        ("UPDATE pending SET block = x'00'", "pending"),
    ],
)
def test_a_damaged_row_is_named(tmp_path: Path, damage: str, table: str) -> None:
    fill(tmp_path)
    edit(tmp_path / "chain.db", damage)
    store = open_store(tmp_path)
    with pytest.raises(CorruptRow) as caught:
        read_tables(store)
    assert (caught.value.path, caught.value.table) == (tmp_path / "chain.db", table)
    assert caught.value.key[0] == (4 if table == "pending" else 2)
    store.close()


@pytest.mark.parametrize(("damage", "gone"), [("seq > 4", 5), ("seq > 0", 1)])
def test_receipts_missing_at_the_end_are_noticed(tmp_path: Path, damage: str, gone: int) -> None:
    fill(tmp_path)
    edit(tmp_path / "chain.db", f"DELETE FROM receipts WHERE {damage}")
    store = open_store(tmp_path)
    with pytest.raises(CorruptRow, match="is gone") as caught:
        store.receipts()
    assert caught.value.key == (gone,)
    store.close()


def test_rows_cannot_trade_places(tmp_path: Path) -> None:
    fill(tmp_path)
    edit(tmp_path / "chain.db", "UPDATE blocks SET height = 9 WHERE height = 2")
    edit(tmp_path / "chain.db", "UPDATE blocks SET height = 2 WHERE height = 3")
    edit(tmp_path / "chain.db", "UPDATE blocks SET height = 3 WHERE height = 9")
    store = open_store(tmp_path)
    for height in (2, 3):
        with pytest.raises(CorruptRow):
            store.block(height)
    store.close()


def read_tables(store: ChainStore) -> object:
    return store.blocks(1, 9), store.receipts(), store.pending_blocks(4), store.guard.safety(), store.guard.signed(4)


def read_all(home: Path) -> object:
    store = open_store(home)
    try:
        return read_tables(store)
    finally:
        store.close()


@pytest.mark.parametrize("name", ["chain.db", "guard.db"])
def test_a_flipped_bit_is_refused_or_harmless_and_never_read_as_truth(tmp_path: Path, name: str) -> None:
    fill(tmp_path)
    expected = read_all(tmp_path)
    path = tmp_path / name
    intact = {entry: entry.read_bytes() for entry in tmp_path.iterdir()}
    used = [place for place, byte in enumerate(intact[path]) if byte]
    refused = 0
    for place in used[:: max(1, len(used) // 120)]:
        for entry, data in intact.items():
            entry.write_bytes(data)
        damaged = bytearray(intact[path])
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        try:
            assert read_all(tmp_path) == expected
        except (LocalError, UsageError):
            refused += 1
    assert refused > 30


def test_a_lost_or_emptied_guard_is_refused(tmp_path: Path) -> None:
    fill(tmp_path)
    guard = tmp_path / "guard.db"
    guard.write_bytes(b"")
    with pytest.raises(DiskCorruption, match="may sign twice"):
        open_store(tmp_path)
    guard.unlink()
    with pytest.raises(DiskCorruption, match="may sign twice"):
        open_store(tmp_path)


@pytest.mark.clause("9.7/1")
def test_the_guard_survives_the_loss_of_the_chain(tmp_path: Path) -> None:
    fill(tmp_path)
    for path in tmp_path.glob("chain.db*"):
        path.unlink()
    store = open_store(tmp_path)
    assert store.height() == 0
    with pytest.raises(DoubleSignRefused):
        store.guard.allow_and_record(signed(VoteKind.PRECOMMIT, 4, 0, B), safety(4, Step.PRECOMMIT))
    with pytest.raises(DoubleSignRefused):
        store.guard.allow_and_record(signed(VoteKind.PREVOTE, 1, 0, A), safety(1, Step.PREVOTE))
    store.close()


def test_another_network_or_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    with pytest.raises(UsageError, match="genesis"):
        open_store(tmp_path, content_digest(b"other"))
    monkeypatch.setattr(chain_module, "SCHEMA_VERSION", 4)
    with pytest.raises(UsageError, match="schema"):
        open_store(tmp_path)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chain.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(DiskCorruption, match=r"chain\.db"):
        open_store(tmp_path)
    with pytest.raises(LocalError, match="unable to open"):
        open_store(tmp_path / "missing")


@pytest.mark.parametrize("name", ["chain.db", "guard.db"])
def test_a_file_in_use_by_another_process_is_refused_at_once(tmp_path: Path, name: str) -> None:
    fill(tmp_path)
    other = sqlite3.connect(tmp_path / name, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UsageError, match=rf"{name} is in use by another process"):
        open_store(tmp_path)
    other.close()


def test_an_open_store_is_not_opened_twice(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(UsageError, match=r"guard\.db is in use"):
        open_store(tmp_path)
    store.close()
    open_store(tmp_path).close()


@pytest.mark.clause("9.3/1", "9.7/1")
@pytest.mark.parametrize(
    ("kind", "height", "round_", "block_id"),
    [
        (VoteKind.PREVOTE, 5, 1, B),
        (VoteKind.PREVOTE, 5, 1, ZERO_DIGEST),
        (Step.PROPOSE, 5, 1, A),
        (VoteKind.PRECOMMIT, 5, 0, A),
        (VoteKind.PRECOMMIT, 4, 9, A),
    ],
)
def test_the_guard_refuses_conflicts_and_the_past(
    tmp_path: Path, kind: VoteKind | Step, height: int, round_: int, block_id: bytes
) -> None:
    path = tmp_path / "guard.db"
    guard = SigningGuard(path)
    guard.allow_and_record(signed(VoteKind.PREVOTE, 5, 1, A), safety(5, Step.PREVOTE, round_=1))
    guard.allow_and_record(signed(VoteKind.PREVOTE, 5, 1, A), safety(5, Step.PREVOTE, round_=1))
    guard.close()
    guard = SigningGuard(path)
    with pytest.raises(DoubleSignRefused) as caught:
        guard.allow_and_record(signed(kind, height, round_, block_id), safety(height, Step(int(kind))))
    assert caught.value.recorded == Signed(5, 1, Step.PREVOTE, A, -1)
    assert guard.signed(5) == (Signed(5, 1, Step.PREVOTE, A, -1),)
    guard.close()


def test_the_guard_goes_forward_through_steps_rounds_and_heights(tmp_path: Path) -> None:
    guard = SigningGuard(tmp_path / "guard.db")
    assert (guard.safety(), guard.signed(1)) == (None, ())
    for round_ in range(2):
        for kind in (Step.PROPOSE, VoteKind.PREVOTE, VoteKind.PRECOMMIT):
            guard.allow_and_record(signed(kind, 1, round_, A), safety(1, Step(int(kind)), A, round_))
    assert [(entry.round, entry.step) for entry in guard.signed(1)] == [(r, step) for r in range(2) for step in Step]
    guard.allow_and_record(signed(VoteKind.PREVOTE, 2, 0, B), safety(2, Step.PREVOTE))
    assert (guard.signed(1), guard.signed(2)) == ((), (Signed(2, 0, Step.PREVOTE, B, -1),))
    assert guard.safety() == safety(2, Step.PREVOTE)
    guard.close()


def test_the_guard_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepshard.disk.guard.SIGNED_MAX", 4)
    guard = SigningGuard(tmp_path / "guard.db")
    for round_ in range(6):
        guard.allow_and_record(signed(VoteKind.PREVOTE, 1, round_, A), safety(1, Step.PREVOTE, round_=round_))
    assert [entry.round for entry in guard.signed(1)] == [2, 3, 4, 5]
    with pytest.raises(DoubleSignRefused):
        guard.allow_and_record(signed(VoteKind.PREVOTE, 1, 0, A), safety(1, Step.PREVOTE))
    guard.close()
    assert SIGNED_MAX * 50 < 2**20
