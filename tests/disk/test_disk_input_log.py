"""The consensus log keeps its order, knows what is missing, and forgets decided heights but the last."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from deepshard.disk import input_log
from deepshard.disk.chain import ChainStore, StoredBlock
from deepshard.disk.input_log import LoggedInput, LoggedKind
from deepshard.primitives import content_digest
from deepshard.testing.fault_disk import Crash, FaultDisk

PATH = Path("/home/chain.db")
VOTES = [LoggedInput(LoggedKind.VOTE, b"vote %d" % number) for number in range(6)]
OFFER = LoggedInput(LoggedKind.VALID_PROPOSAL, b"proposal")


def open_store(disk: FaultDisk) -> ChainStore:
    return ChainStore(PATH, genesis_hash=content_digest(b"genesis"), files=disk)


def block(height: int) -> StoredBlock:
    return StoredBlock(height, b"block", b"certificate", b"validators")


def test_what_was_flushed_survives_and_what_was_not_does_not() -> None:
    disk = FaultDisk(random.Random(1))
    store = open_store(disk)
    for entry in (OFFER, *VOTES[:2], VOTES[0]):
        store.log.note(1, entry)
    store.log.flush()
    store.log.note(1, VOTES[2])
    assert store.log.count == 4
    disk.crash(Crash.KEPT)
    disk.reopen()
    store = open_store(disk)
    recalled = store.log.resume(1, 3)
    assert (recalled.entries, recalled.fault, store.log.count) == ((OFFER, *VOTES[:2]), None, 3)
    store.log.note(1, VOTES[1])
    store.log.note(1, VOTES[3])
    store.log.flush()
    assert store.log.entries(1) == (OFFER, *VOTES[:2], VOTES[3])


def test_a_decided_block_takes_its_log_with_it_and_drops_the_one_before() -> None:
    disk = FaultDisk(random.Random(1))
    store = open_store(disk)
    for height in (1, 2):
        store.log.resume(height, 0)
        store.log.note(height, VOTES[height])
        store.save_block(block(height), [])
    disk.crash(Crash.LOST)
    disk.reopen()
    store = open_store(disk)
    assert (store.log.entries(1), store.log.entries(2)) == ((), (VOTES[2],))
    assert store.log.resume(3, 0).entries == ()


def test_the_log_is_bounded_and_keeps_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_log, "ENTRIES_MAX", 3)
    store = open_store(FaultDisk(random.Random(1)))
    for position, entry in enumerate(VOTES):
        store.log.note(1, entry)
        if position == 1:
            store.log.flush()
    store.log.flush()
    recalled = store.log.resume(1, 6)
    assert (recalled.entries, recalled.fault) == (tuple(VOTES[3:]), None)


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        ("DELETE FROM inputs WHERE seq = 0", 2),
        ("DELETE FROM inputs WHERE seq = 2", 2),
        ("DELETE FROM inputs", 0),
        ("UPDATE inputs SET data = x'00' WHERE seq = 1", 2),
        ("UPDATE inputs SET kind = 2 WHERE seq = 1", 2),
        ("UPDATE inputs SET seq = 'x' WHERE seq = 1", 2),
        ("UPDATE inputs SET seq = 9 WHERE seq = 1", 2),
        ("UPDATE inputs SET height = 2 WHERE seq = 1", 2),
    ],
)
def test_a_lost_or_damaged_entry_is_noticed_and_the_others_are_used(tmp_path: Path, damage: str, left: int) -> None:
    path = tmp_path / "chain.db"
    store = ChainStore(path, genesis_hash=bytes(32))
    for entry in VOTES[:3]:
        store.log.note(1, entry)
    store.log.flush()
    store.close()
    with sqlite3.connect(path) as database:
        database.execute(damage)
    database.close()
    store = ChainStore(path, genesis_hash=bytes(32))
    recalled = store.log.resume(1, 3)
    assert len(recalled.entries) == left
    assert recalled.fault is not None
    assert set(recalled.entries) <= set(VOTES[:3])
    store.close()
