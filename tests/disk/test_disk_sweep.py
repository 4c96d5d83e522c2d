"""Power lost at every write and sync of a validator's three files, in every mode: what was promised is still there."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deepshard.ballots import VoteKind
from deepshard.consensus.types import SafetyState, Step
from deepshard.disk.chain import ChainStore, NewReceipt, StoredBlock
from deepshard.disk.guard import DoubleSignRefused, Signed
from deepshard.disk.input_log import LoggedInput, LoggedKind
from deepshard.disk.journal import Journal
from deepshard.primitives import content_digest
from deepshard.testing.fault_disk import Crash, FaultDisk, PowerLoss

HOME = Path("/home/node")
GENESIS = content_digest(b"genesis")
HEIGHTS = 3


@dataclass
class Promised:
    """What left the process: heights announced, signatures given, promises made."""

    height: int = 0
    signed: dict[tuple[int, VoteKind], bytes] = field(default_factory=dict)
    justified: int = 0
    promises: dict[str, bytes] = field(default_factory=dict)


def block_of(height: int) -> StoredBlock:
    return StoredBlock(height, b"block %d" % height * 300, b"certificate", b"validators")


def vote_of(height: int, kind: VoteKind, life: int) -> bytes:
    """A validator that was restarted would vote for something else, if it were let."""
    return content_digest(b"%d %d %d" % (height, kind, life))


def live(disk: FaultDisk, promised: Promised, life: int) -> None:
    """One life of a validator, from opening its files to the last height."""
    store = ChainStore(HOME / "chain.sqlite", genesis_hash=GENESIS, files=disk)
    journal = Journal(HOME / "journal.sqlite", files=disk)
    check(store, journal, promised)
    for height in range(store.height() + 1, HEIGHTS + 1):
        store.save_pending_block(height, content_digest(b"b"), b"proposed")
        for kind in VoteKind:
            store.log.note(height, LoggedInput(LoggedKind.VOTE, b"of others %d %d" % (height, kind)))
            store.log.flush()
            block_id = vote_of(height, kind, life)
            step = Step(int(kind))
            try:
                safety = SafetyState(height, 0, step, -1, bytes(32), -1, bytes(32))
                store.guard.allow_and_record(Signed(height, 0, step, block_id, -1), safety, logged=store.log.count)
            except DoubleSignRefused:
                continue
            assert promised.signed.setdefault((height, kind), block_id) == block_id
            promised.justified = store.log.count if height == store.height() + 1 else 0
        journal.put(f"salt {height}", b"%d" % life)
        promised.promises[f"salt {height}"] = b"%d" % life
        store.save_block(block_of(height), [NewReceipt("reward", bytes(20), bytes(32), b"r")], snapshot=b"s" * 5000)
        promised.height, promised.justified = height, 0
    store.close()
    journal.close()


def check(store: ChainStore, journal: Journal, promised: Promised) -> None:
    height = store.height()
    assert height in {promised.height, promised.height + 1}
    assert store.blocks(1, HEIGHTS) == [block_of(at) for at in range(1, height + 1)]
    assert len(store.receipts()) == height
    assert store.snapshot() == ((height, b"s" * 5000) if height else None)
    for key, value in promised.promises.items():
        found = journal.get(key)
        assert found is not None
        assert int(found) >= int(value)
    recalled = store.log.resume(height + 1, store.guard.logged(height + 1))
    assert recalled.fault is None
    if height == promised.height:
        assert len(recalled.entries) >= promised.justified
    promised.height = height


@pytest.mark.clause("9.7/1")
@pytest.mark.parametrize("mode", list(Crash))
def test_power_lost_at_every_operation_breaks_no_promise(mode: Crash) -> None:
    point = 0
    while True:
        point += 1
        disk, promised = FaultDisk(random.Random(point)), Promised()
        disk.crash_at = point
        try:
            live(disk, promised, 0)
            break
        except PowerLoss:
            disk.crash(mode)
            disk.reopen()
        live(disk, promised, 1)
        assert promised.height == HEIGHTS
    assert point > 150
