"""States handed over to nodes that join: from memory, from disk after a restart, and installed by who has them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import structlog
import trio
import trio.testing
from test_services_chain import GENESIS, ONIONS, VALIDATORS, folder

from deepshard.consensus.types import Block
from deepshard.disk.chain import ChainStore
from deepshard.encoding import decode
from deepshard.errors import DiskCorruption, LocalError
from deepshard.ledger.genesis import genesis_state
from deepshard.ledger.state import State
from deepshard.ledger.trie_chunks import StateChunk, assemble, verify_chunk
from deepshard.limits import BLOCK_BYTES_MAX, BODY_BYTES_MAX
from deepshard.net.types import Received
from deepshard.services.executor import ChainExecutor, handed_over_heights
from deepshard.services.view import ChainView
from deepshard.testing.chain_cluster import ChainCluster
from deepshard.testing.chain_history import grow_chain
from deepshard.testing.memory_network import MemoryPort
from deepshard.wire.messages import Message, SnapshotChunk, SnapshotChunkRequest, Snapshots, SnapshotsRequest

__all__ = ["folder"]


async def answer(port: MemoryPort, peer: bytes, question: Message) -> Message:
    """What the peer answers to a question about snapshots."""
    await port.send(peer, question)
    with trio.fail_after(60):
        async for event in port.events:
            if isinstance(event, Received) and isinstance(event.message, Snapshots | SnapshotChunk):
                return event.message
    raise AssertionError("the network has ended")


def open_executor(path: Path) -> tuple[ChainStore, ChainExecutor]:
    store = ChainStore(path / "chain.sqlite", genesis_hash=GENESIS.hash())
    return store, ChainExecutor(GENESIS, store, ChainView(genesis_state(GENESIS), None))


@pytest.mark.clause("6.4/25", "6.4/27")
async def test_a_restarted_node_hands_over_its_states_and_no_others(
    folder: Path,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        running = ChainCluster(GENESIS, {}, folder, nursery)
        grow_chain(running.folder_of("server"), GENESIS, VALIDATORS, ONIONS, height=130)
        node = running.start("server", VALIDATORS[0])
        port = running.network.join("asker", roles=("inference",))
        running.network.connect("asker", node.port.name)
        peer = node.port.info.public_key
        await trio.testing.wait_all_tasks_blocked()
        assert await answer(port, peer, SnapshotsRequest(1)) == Snapshots(1, (50, 100))
        for height in (50, 100):
            reply = await answer(port, peer, SnapshotChunkRequest(2, height, bytes(32)))
            assert isinstance(reply, SnapshotChunk)
            assert reply.chunk is not None
            stored = node.store.block(height)
            assert stored is not None
            root = decode(stored.block, Block, bytes_max=BLOCK_BYTES_MAX).header.state_root
            chunk = decode(reply.chunk, StateChunk, bytes_max=BODY_BYTES_MAX)
            assert verify_chunk(root, chunk).stop == 1 << 256
            assert assemble([chunk]).root == root
        for height in (0, 49, 130, 150, 2**40):
            assert await answer(port, peer, SnapshotChunkRequest(3, height, bytes(32))) == SnapshotChunk(3, None)
        nursery.cancel_scope.cancel()


def test_a_chain_goes_on_from_an_installed_state_and_restores_from_it(folder: Path) -> None:
    (folder / "old").mkdir()
    (folder / "new").mkdir()
    grow_chain(folder / "old", GENESIS, VALIDATORS, ONIONS, height=120)
    source, _ = open_executor(folder / "old")
    base, snapshot = source.block(100), source.snapshot_at(100)
    assert base is not None
    assert snapshot is not None
    store, executor = open_executor(folder / "new")
    executor.install(base, State.load(snapshot))
    assert (executor.height, store.base, store.height()) == (100, 100, 100)
    for stored in source.blocks(101, 15):
        executor.apply_synced(stored.block, stored.certificate)
    with pytest.raises(LocalError, match="not above block 115"):
        executor.install(base, State.load(snapshot))
    store.close()
    store, executor = open_executor(folder / "new")
    executor.restore()
    assert (executor.height, store.base) == (115, 100)
    for stored in source.blocks(116, 5):
        executor.apply_synced(stored.block, stored.certificate)
    last = source.block(120)
    assert last is not None
    assert executor.state.root == decode(last.block, Block, bytes_max=BLOCK_BYTES_MAX).header.state_root
    assert (store.block(99), store.blocks(50, 64), store.blocks(1, 200)) == (None, [], [])
    assert [each.height for each in store.blocks(100, 2)] == [100, 101]
    store.close()
    source.close()
    damage = sqlite3.connect(folder / "new" / "chain.sqlite")
    damage.execute("UPDATE snapshots SET data = x'00'")
    damage.commit()
    damage.close()
    store, executor = open_executor(folder / "new")
    with pytest.raises(DiskCorruption, match="begins at height 100"):
        executor.restore()
    store.close()


@pytest.mark.parametrize("damage", ["UPDATE snapshots SET data = x'00'", "DELETE FROM snapshots"])
def test_a_damaged_snapshot_is_reported_and_the_blocks_since_an_older_one_lead_to_the_same_state(
    folder: Path, damage: str
) -> None:
    (folder / "node").mkdir()
    grow_chain(folder / "node", GENESIS, VALIDATORS, ONIONS, height=120)
    database = sqlite3.connect(folder / "node" / "chain.sqlite")
    database.execute(f"{damage} WHERE height = 100")
    database.commit()
    database.close()
    store, executor = open_executor(folder / "node")
    with structlog.testing.capture_logs() as logs:
        executor.restore()
    last = store.block(120)
    assert last is not None
    assert executor.state.root == decode(last.block, Block, bytes_max=BLOCK_BYTES_MAX).header.state_root
    damaged = [(log["height"], log["instead"]) for log in logs if log["event"] == "snapshot.damaged"]
    assert damaged == [(100, 50)]
    store.close()


def test_parts_are_kept_by_root_and_damaged_ones_are_left_out(tmp_path: Path) -> None:
    store = ChainStore(tmp_path / "chain.sqlite", genesis_hash=bytes(32))
    root, other = b"r" * 32, b"o" * 32
    store.save_part(50, root, b"2", b"second")
    store.save_part(50, root, b"1", b"first")
    store.save_part(100, other, b"1", b"of another state")
    assert store.part_heights() == [50, 100]
    store.close()
    damage = sqlite3.connect(tmp_path / "chain.sqlite")
    damage.execute("UPDATE parts SET data = x'00' WHERE first = ?", (b"2",))
    damage.commit()
    damage.close()
    store = ChainStore(tmp_path / "chain.sqlite", genesis_hash=bytes(32))
    assert store.parts(root) == [b"first"]
    assert store.part_heights() == [50], "parts of other states are dropped"
    store.close()


@pytest.mark.parametrize(("height", "expected"), [(0, []), (49, []), (50, [50]), (149, [50, 100]), (160, [100, 150])])
def test_the_two_newest_states_at_multiples_are_handed_over(height: int, expected: list[int]) -> None:
    assert handed_over_heights(height, 50) == expected
