"""The shard exchange among nodes in memory: honest, corrupt, vanishing, stalling, unlicensed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
from shards_cluster import Node, running, when
from trio.testing import MockClock

from deepshard.errors import DiskCorruption, LocalError, MalformedMessage
from deepshard.net.types import PeerInfo
from deepshard.primitives import content_digest
from deepshard.services.shards import FetchIncomplete
from deepshard.shards.errors import CorruptChunk
from deepshard.testing.virtual_time import pass_time
from deepshard.wire.messages import BlobReply, BlobRequest, BlobStatus, HaveReply, HaveRequest, Message

BLOBS = [bytes([number]) * 3000 + b"blob" for number in range(20)]
DIGESTS = [content_digest(data) for data in BLOBS]
WANTED: dict[bytes, int | None] = {digest: len(data) for digest, data in zip(DIGESTS, BLOBS, strict=True)}


def _flip(message: BlobReply, attachment: bytes) -> tuple[Message, bytes]:
    return message, attachment and bytes([attachment[0] ^ 1]) + attachment[1:]


@pytest.fixture(name="logs", autouse=True)
def _logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as logs:
        yield logs


async def test_blobs_come_from_several_peers_and_are_stored(tmp_path: Path) -> None:
    async with running(tmp_path, disk_threads=4) as cluster:
        seeds = [cluster.node(name, BLOBS) for name in ("a", "b", "c")]
        buyer = cluster.node("buyer", BLOBS[:5])
        cluster.network.connect("buyer", "a", "b", "c")
        seen: list[tuple[int, int]] = []

        def progress(done: int, total: int, peer: bytes, size: int) -> None:
            assert peer in {seed.key for seed in seeds}
            assert size == 3004
            seen.append((done, total))

        report = await buyer.exchange.fetch(WANTED, progress=progress)
        assert (report.verified, report.present, report.refetched, report.corrupt_from) == (15, 5, 0, ())
        assert sum(report.bytes_by_peer.values()) == 15 * 3004
        assert set(report.bytes_by_peer) == {seed.key for seed in seeds}
        assert seen == [(done, 20) for done in range(6, 21)]
        assert [buyer.store.get(digest) for digest in DIGESTS] == BLOBS
        assert buyer.exchange.stats.fetched_bytes == report.bytes_by_peer
        for seed in seeds:
            assert seed.exchange.stats.served_bytes == {buyer.key: report.bytes_by_peer[seed.key]}
        again = await buyer.exchange.fetch(WANTED)
        assert (again.verified, again.present) == (0, 20)


@pytest.mark.parametrize("is_complete", [True, False])
async def test_what_was_fetched_is_durable_when_the_fetch_ends(
    tmp_path: Path,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    is_complete: bool,  # noqa: FBT001  # a case
) -> None:
    synced: list[int] = []
    async with running(tmp_path) as cluster:
        cluster.node("seed", BLOBS if is_complete else BLOBS[:10])
        buyer = cluster.node("buyer")
        cluster.network.connect("buyer", "seed")
        original = os.fsync

        def record(descriptor: int) -> None:
            synced.append(os.fstat(descriptor).st_ino)
            original(descriptor)

        monkeypatch.setattr(os, "fsync", record)
        if is_complete:
            await buyer.exchange.fetch(WANTED)
        else:
            with pytest.raises(FetchIncomplete):
                await buyer.exchange.fetch(WANTED, timeout_s=5.0)
        brought = BLOBS if is_complete else BLOBS[:10]
        names = [content_digest(data).hex() for data in brought]
        files = [buyer.store.root / name[:2] / name[2:] for name in names]
        assert {path.stat().st_ino for file in files for path in (file, file.parent)} <= set(synced)
        assert len(synced) == len(files) + len({file.parent for file in files})


@pytest.mark.clause("8.1/3", "8.6/7", "8.8/5", "6.4/24")
async def test_a_corrupt_peer_is_named_banned_and_its_blobs_come_from_others(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as cluster:
        liar, _ = cluster.node("liar", BLOBS), cluster.node("honest", BLOBS)
        buyer = cluster.node("buyer")
        cluster.network.tamper = when("liar", BlobReply, _flip)
        cluster.network.connect("buyer", "liar", "honest")
        report = await buyer.exchange.fetch(WANTED)
        assert report.verified == 20
        assert report.corrupt_from == (liar.key,)
        assert liar.key not in report.bytes_by_peer
        assert 1 <= report.refetched <= 8
        assert report.wasted_bytes == report.refetched * 3004
        assert {name for name, _ in buyer.port.penalties} == {"liar"}
        assert all(isinstance(error, CorruptChunk) for _, error in buyer.port.penalties)
        assert buyer.port.banned == {"liar"}
        assert [buyer.store.get(digest) for digest in DIGESTS] == BLOBS


@pytest.mark.clause("8.6/8")
async def test_four_peers_one_corrupt_one_vanishing_one_stalling(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as cluster:
        for name in ("corrupt", "vanishing", "stalling", "honest"):
            cluster.node(name, BLOBS)
        buyer = cluster.node("buyer")
        replies = 0

        def tamper(source: str, _target: str, message: Message, attachment: bytes) -> tuple[Message, bytes] | None:
            nonlocal replies
            if not isinstance(message, BlobReply):
                return message, attachment
            if source == "corrupt":
                return _flip(message, attachment)
            if source == "vanishing":
                replies += 1
                if replies == 3:
                    cluster.network.vanish("vanishing")
            return None if source == "stalling" else (message, attachment)

        cluster.network.tamper = tamper
        cluster.network.connect("buyer", "corrupt", "vanishing", "stalling", "honest")
        started = trio.current_time()
        report = await buyer.exchange.fetch(WANTED)
        assert report.verified == 20
        assert [cluster.network.name_of(peer) for peer in report.corrupt_from] == ["corrupt"]
        assert {cluster.network.name_of(peer) for peer in report.bytes_by_peer} <= {"vanishing", "honest"}
        assert trio.current_time() - started <= 10.0
        assert {name for name, _ in buyer.port.penalties} == {"corrupt"}
        assert [buyer.store.get(digest) for digest in DIGESTS] == BLOBS


async def test_the_vanishing_peer_alone_leaves_a_resumable_download(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as cluster:
        cluster.node("a", BLOBS)
        cluster.node("b", BLOBS)
        buyer = cluster.node("buyer")
        cluster.network.connect("buyer", "a")

        def progress(done: int, _total: int, _peer: bytes, _size: int) -> None:
            if done == 10:
                cluster.network.vanish("a")

        with pytest.raises(
            FetchIncomplete, match=r"of 20 blobs are missing after 20 s \(a:0: disconnected\)$"
        ) as caught:
            await buyer.exchange.fetch(WANTED, progress=progress, timeout_s=20.0)
        stored = len(buyer.store.digests())
        assert 10 <= stored < 20
        assert set(caught.value.missing) == set(DIGESTS) - set(buyer.store.digests())
        cluster.network.connect("buyer", "b")
        report = await buyer.exchange.fetch(WANTED)
        assert (report.verified, report.present) == (20 - stored, stored)


async def test_a_peer_that_comes_later_and_a_blob_that_appears_later_are_found(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as cluster:
        early, late = cluster.node("early", BLOBS[:3]), cluster.node("late", BLOBS[3:6])
        buyer = cluster.node("buyer")
        cluster.network.connect("buyer", "early")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(buyer.exchange.fetch, dict.fromkeys(DIGESTS[:8]))
            await pass_time(3.0)
            assert buyer.store.digests() == sorted(DIGESTS[:3])
            cluster.network.connect("buyer", "late")
            await pass_time(0.5)
            assert buyer.store.digests() == sorted(DIGESTS[:6])
            early.store.put(BLOBS[6])
            late.store.put(BLOBS[7])
        assert buyer.store.digests() == sorted(DIGESTS[:8])


@pytest.mark.clause("8.6/8")
async def test_an_unlicensed_buyer_is_told_so_and_gets_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    licensed: set[bytes] = set()

    def may_fetch(peer: PeerInfo, digest: bytes) -> bool:
        return peer.public_key in licensed or digest == DIGESTS[0]

    async with running(tmp_path) as cluster:
        for name in ("a", "b"):
            cluster.node(name, BLOBS, may_fetch=may_fetch)
        buyer = cluster.node("buyer")
        cluster.network.connect("buyer", "a", "b")
        with pytest.raises(
            FetchIncomplete, match=r"19 of 20 blobs are missing after 5 s \(.*a:0: not licensed.*\); buy a licence"
        ) as caught:
            await buyer.exchange.fetch(WANTED, timeout_s=5.0)
        assert caught.value.unlicensed
        assert buyer.store.digests() == [DIGESTS[0]]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(buyer.exchange.fetch, WANTED)
            await pass_time(3.0)
            assert buyer.store.digests() == [DIGESTS[0]]
            licensed.add(buyer.key)
        assert len(buyer.store.digests()) == 20
        assert buyer.port.penalties == []


async def test_nobody_there_is_said_and_filters_are_kept(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as cluster:
        a, b = cluster.node("a", BLOBS[:2]), cluster.node("b", BLOBS[:2])
        buyer = cluster.node("buyer")
        with pytest.raises(
            FetchIncomplete, match=r"1 of 1 blobs are missing after 2 s \(no suitable peer is connected\)"
        ):
            await buyer.exchange.fetch({DIGESTS[0]: None}, timeout_s=2.0)
        cluster.network.connect("buyer", "a", "b")
        with pytest.raises(FetchIncomplete, match=r"a:0: not found, b:0: not found|b:0: not found, a:0: not found"):
            await buyer.exchange.fetch({DIGESTS[9]: None}, timeout_s=2.0)
        report = await buyer.exchange.fetch(
            dict.fromkeys(DIGESTS[:2]), from_peers=lambda peer: peer.public_key == b.key
        )
        assert report.bytes_by_peer == {b.key: 6008}
        assert a.exchange.stats.served_bytes == {}


@pytest.mark.clause("8.1/3", "8.6/3")
async def test_what_rots_on_disk_is_not_served_and_mended_from_peers(
    tmp_path: Path, autojump_clock: MockClock, logs: list[Any]
) -> None:
    async with running(tmp_path) as cluster:
        rotten, _ = cluster.node("rotten", BLOBS[:1]), cluster.node("whole", BLOBS[:1])
        buyer = cluster.node("buyer")
        name = DIGESTS[0].hex()
        (rotten.store.root / name[:2] / name[2:]).write_bytes(b"rot")
        cluster.network.connect("buyer", "rotten")
        with pytest.raises(FetchIncomplete, match="not found"):
            await buyer.exchange.fetch({DIGESTS[0]: None}, timeout_s=3.0)
        cluster.network.connect("rotten", "whole")
        report = await buyer.exchange.fetch({DIGESTS[0]: None})
        assert report.bytes_by_peer == {rotten.key: 3004}
        assert rotten.store.get(DIGESTS[0]) == BLOBS[0]
        assert rotten.exchange.stats.repaired == 1
        events = [entry["event"] for entry in logs]
        assert events.count("chunk.corrupt") == events.count("chunk.repaired") == 1


async def test_a_blob_that_nobody_can_mend_is_given_up(
    tmp_path: Path, autojump_clock: MockClock, logs: list[Any]
) -> None:
    async with running(tmp_path) as cluster:
        node = cluster.node("node", repair_attempts=2, repair_timeout_s=5.0, repair_pause_s=1.0)
        node.exchange.repair(DIGESTS[0])
        await pass_time(20.0)
        assert [entry["event"] for entry in logs if entry["event"].startswith("chunk")] == [
            "chunk.repair_failed",
            "chunk.repair_failed",
            "chunk.lost",
        ]


async def test_fetch_blob_replaces_a_local_copy_that_is_corrupt(tmp_path: Path) -> None:
    async with running(tmp_path, disk_threads=4) as cluster:
        cluster.node("seed", BLOBS[:2])
        buyer = cluster.node("buyer", BLOBS[:1])
        cluster.network.connect("buyer", "seed")
        assert await buyer.exchange.fetch_blob(DIGESTS[0]) == BLOBS[0]
        assert buyer.exchange.stats.fetched_bytes == {}
        name = DIGESTS[0].hex()
        (buyer.store.root / name[:2] / name[2:]).write_bytes(b"rot")
        assert await buyer.exchange.fetch_blob(DIGESTS[0]) == BLOBS[0]
        assert await buyer.exchange.fetch_blob(DIGESTS[1]) == BLOBS[1]
        assert list(buyer.exchange.stats.fetched_bytes.values()) == [6008]


async def test_a_full_disk_ends_the_fetch_with_the_disks_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, disk_threads=4) as cluster:
        cluster.node("seed", BLOBS)
        buyer = cluster.node("buyer")
        cluster.network.connect("buyer", "seed")

        def full(*_arguments: Any, **_options: Any) -> bytes:
            raise LocalError("the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(buyer.store, "put", full)
            with pytest.raises(LocalError, match="the disk is full"):
                await buyer.exchange.fetch(WANTED)
        assert buyer.port.penalties == []
        assert (await buyer.exchange.fetch(WANTED)).verified == 20


NONSENSE: dict[str, tuple[type[Message], Callable[[Any, bytes], tuple[Message, bytes]], str]] = {
    "short bitmap": (HaveReply, lambda m, _: (HaveReply(m.request, b""), b""), "bitmap of 0 bytes for 1 digests"),
    "long bitmap": (HaveReply, lambda m, _: (HaveReply(m.request, b"\1\0"), b""), "bitmap of 2 bytes"),
    "bits beyond": (HaveReply, lambda m, _: (HaveReply(m.request, b"\3"), b""), "bitmap of 1 bytes"),
    "another digest": (
        BlobReply,
        lambda m, data: (BlobReply(m.request, DIGESTS[9], m.status), data),
        f"got {DIGESTS[9].hex()}",
    ),
    "refusal with data": (
        BlobReply,
        lambda m, data: (BlobReply(m.request, m.digest, BlobStatus.BUSY), data),
        "BUSY with an attachment of 3004 bytes",
    ),
    "another kind": (
        BlobReply,
        lambda m, _: (HaveReply(m.request, b"\1"), b""),
        "HaveReply answers a request of another",
    ),
}


@pytest.mark.clause("6.4/22", "6.4/23", "6.4/24")
@pytest.mark.clause("8.5/2", "8.6/5", "8.6/6", "6.4/22", "6.4/23")
@pytest.mark.parametrize("case", NONSENSE)
async def test_nonsense_is_penalised_and_gets_nowhere(case: str, tmp_path: Path, autojump_clock: MockClock) -> None:
    kind, change, fact = NONSENSE[case]
    async with running(tmp_path) as cluster:
        cluster.node("seed", BLOBS[:1])
        buyer = cluster.node("buyer")
        cluster.network.tamper = when("seed", kind, change)
        cluster.network.connect("buyer", "seed")
        with pytest.raises(FetchIncomplete):
            await buyer.exchange.fetch({DIGESTS[0]: None}, timeout_s=2.5)
        name, error = buyer.port.penalties[0]
        assert name == "seed"
        assert isinstance(error, MalformedMessage)
        assert fact in str(error)
        assert buyer.store.digests() == []


@pytest.mark.clause("6.1/4")
@pytest.mark.clause("6.1/4")
async def test_unasked_answers_change_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as cluster:
        seed, buyer = cluster.node("seed"), cluster.node("buyer")
        cluster.network.connect("buyer", "seed")
        await seed.port.send(buyer.key, BlobReply(77, DIGESTS[0], BlobStatus.FOUND), BLOBS[0])
        await seed.port.send(buyer.key, HaveReply(78, b"\xff"))
        await pass_time(1.0)
        assert buyer.store.digests() == []
        assert buyer.port.penalties == []


async def _expect_incomplete(buyer: Node, digest: bytes) -> None:
    with pytest.raises(FetchIncomplete):
        await buyer.exchange.fetch({digest: None}, timeout_s=3.0)


async def test_only_the_peer_that_was_asked_can_answer(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as cluster:
        cluster.node("seed", BLOBS[:1])
        thief = cluster.network.join("thief")
        buyer = cluster.node("buyer")
        cluster.network.tamper = lambda source, _target, message, attachment: (
            None if source == "seed" and isinstance(message, BlobReply) else (message, attachment)
        )
        cluster.network.connect("buyer", "seed")
        cluster.network.connect("buyer", "thief")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_incomplete, buyer, DIGESTS[0])
            await pass_time(1.0)
            for number in range(1, 10):
                await thief.send(buyer.key, BlobReply(number, DIGESTS[9], BlobStatus.FOUND), BLOBS[9])
        assert {name for name, _ in buyer.port.penalties} <= {"thief"}


async def test_a_peer_that_comes_back_is_asked_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as cluster:
        cluster.node("seed", BLOBS[:1])
        buyer = cluster.node("buyer")
        cluster.network.tamper = when("seed", HaveReply, lambda _message, _attachment: None)
        cluster.network.connect("buyer", "seed")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(buyer.exchange.fetch, {DIGESTS[0]: None})
            await pass_time(0.5)
            cluster.network.vanish("seed")
            cluster.network.tamper = None
            await pass_time(0.5)
            cluster.network.connect("buyer", "seed")
        assert trio.current_time() == 1.0
        assert buyer.store.digests() == [DIGESTS[0]]


@pytest.mark.clause("8.6/4")
async def test_a_silent_peer_gets_busy_beyond_its_share_and_others_are_served(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as cluster:
        seed = cluster.node("seed", BLOBS[:1], uploads_per_peer=1, waiting_per_peer=3)
        greedy = cluster.network.join("greedy", queue_messages=1)  # it doesn't read what it asks for
        buyer = cluster.node("buyer")
        cluster.network.connect("seed", "greedy")
        cluster.network.connect("seed", "buyer")
        for number in range(30):
            await greedy.send(seed.key, BlobRequest(number, DIGESTS[0]))
        await pass_time(1.0)
        assert (await buyer.exchange.fetch({DIGESTS[0]: None}, timeout_s=5.0)).verified == 1
        statuses = []
        with trio.move_on_after(5.0):
            async for event in greedy.events:
                message = getattr(event, "message", None)
                if isinstance(message, BlobReply):
                    statuses.append(message.status)
        assert statuses.count(BlobStatus.FOUND) == 4
        assert statuses.count(BlobStatus.BUSY) == 4  # and the rest was dropped


@pytest.mark.clause("8.5/1", "6.4/22")
async def test_have_answers_only_what_would_be_served(tmp_path: Path) -> None:
    async with running(tmp_path, disk_threads=4) as cluster:
        seed = cluster.node("seed", BLOBS[:9], may_fetch=lambda _peer, digest: digest != DIGESTS[1])
        asker = cluster.network.join("asker")
        cluster.network.connect("seed", "asker")
        await asker.send(seed.key, HaveRequest(5, tuple(DIGESTS[:10])))
        async for event in asker.events:
            message = getattr(event, "message", None)
            if message is not None:
                assert message == HaveReply(5, bytes([0b11111101, 0b1]))
                break


async def test_serving_survives_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, disk_threads=4) as cluster:
        seed = cluster.node("seed", BLOBS[:1])
        asker = cluster.network.join("asker")
        cluster.network.connect("seed", "asker")

        def broken(_digest: bytes) -> bytes:
            raise LocalError("cannot read")

        monkeypatch.setattr(seed.store, "get", broken)
        await asker.send(seed.key, BlobRequest(5, DIGESTS[0]))
        async for event in asker.events:
            message = getattr(event, "message", None)
            if message is not None:
                assert message == BlobReply(5, DIGESTS[0], BlobStatus.BUSY)
                break


def test_disk_corruption_is_ours_not_the_peers() -> None:
    assert issubclass(DiskCorruption, LocalError)
    assert issubclass(FetchIncomplete, LocalError)
