"""The scrubber: what rots at rest is found without anybody asking for it, and fetched anew from a peer."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from shards_cluster import Cluster, Node, running
from trio.testing import MockClock

from deepshard.disk.chunks import ChunkStore
from deepshard.primitives import content_digest
from deepshard.services.scrubber import Scrubber

BLOBS = [bytes([number]) * 1000 for number in range(20)]


async def pass_time(seconds: float) -> None:
    """Virtual seconds."""
    await trio.sleep_until(trio.current_time() + seconds)


def path_of(store: ChunkStore, digest: bytes) -> Path:
    return store.root / digest.hex()[:2] / digest.hex()[2:]


def flip(store: ChunkStore, digest: bytes) -> None:
    path = path_of(store, digest)
    data = bytearray(path.read_bytes())
    data[500] ^= 4
    path.write_bytes(data)


def scrubber_of(cluster: Cluster, node: Node, **options: float) -> Scrubber:
    scrubber = Scrubber(
        node.store, node.exchange.repair, bytes_per_s=1000, pause_s=options.get("pause_s", 1e6), disk_threads=0
    )
    cluster.nursery.start_soon(scrubber.run)
    return scrubber


@pytest.mark.clause("8.10/7")
async def test_what_rots_is_found_and_fetched_from_a_peer(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as cluster:
        node, peer = cluster.node("node", BLOBS), cluster.node("peer", BLOBS)
        cluster.network.connect("node", "peer")
        rotten = [content_digest(BLOBS[number]) for number in (3, 11)]
        for digest in rotten:
            flip(node.store, digest)
        scrubber = scrubber_of(cluster, node)
        await pass_time(60.0)
        assert (scrubber.stats.passes, scrubber.stats.corrupt) == (1, 2)
        assert scrubber.stats.bytes >= 18 * 1000
        assert node.exchange.stats.repaired == 2
        assert [node.store.get(digest) for digest in rotten] == [BLOBS[3], BLOBS[11]]
        assert sum(peer.exchange.stats.served_bytes.values()) == 2000
        assert sorted(file.name for file in (node.store.root / "corrupt").iterdir()) == sorted(
            digest.hex() for digest in rotten
        )


async def test_it_reads_at_its_rate_and_begins_again_after_its_pause(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as cluster:
        node = cluster.node("node", BLOBS)
        scrubber = scrubber_of(cluster, node, pause_s=100.0)
        await pass_time(9.5)
        assert scrubber.stats.bytes == 10_000
        await pass_time(20.0)
        assert (scrubber.stats.passes, scrubber.stats.bytes) == (1, 20_000)
        await pass_time(115.0)
        assert (scrubber.stats.passes, scrubber.stats.bytes) == (2, 40_000)


async def test_it_begins_where_it_is_told_to(tmp_path: Path, autojump_clock: MockClock) -> None:
    store = ChunkStore(tmp_path / "store")
    digests = sorted(store.put(data) for data in BLOBS)
    for digest in digests:
        flip(store, digest)
    found: list[bytes] = []
    scrubber = Scrubber(store, found.append, first=digests[15], disk_threads=0)
    with trio.move_on_after(1.0):
        await scrubber.run()
    assert found == digests[15:] + digests[:15]


async def test_what_is_deleted_meanwhile_and_a_refusing_disk_do_not_stop_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    store = ChunkStore(tmp_path / "store")
    digests = sorted(store.put(data) for data in BLOBS)
    scrubber = Scrubber(store, lambda _: None, bytes_per_s=1000, pause_s=10.0, disk_threads=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrubber.run)
        await pass_time(0.5)
        store.delete(digests[5])
        path_of(store, digests[7]).unlink()
        path_of(store, digests[7]).mkdir()  # can't be read
        await pass_time(29.0)
        assert (scrubber.stats.passes, scrubber.stats.corrupt) == (0, 0)
        path_of(store, digests[7]).rmdir()
        await pass_time(40.0)
        assert scrubber.stats.passes > 0
        nursery.cancel_scope.cancel()
