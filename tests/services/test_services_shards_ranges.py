"""Large blobs in verified ranges: shared among peers, resumed, and a corrupt sender known at its first range."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
import trio
from shards_cluster import Cluster, Node, running, when
from trio.testing import MockClock

import deepshard.ranges
from deepshard.disk.chunks import ChunkStore
from deepshard.disk.leaves import Leaves
from deepshard.errors import LocalError, MalformedMessage
from deepshard.limits import RANGE_BLOCKS_MAX
from deepshard.net.types import PeerInfo
from deepshard.primitives import CONTENT_BLOCK_BYTES, block_hashes, content_address, content_digest, expand
from deepshard.ranges import range_proof
from deepshard.services.shards import FetchIncomplete
from deepshard.services.shards_intake import keep_range
from deepshard.services.shards_requests import RangeAnswer
from deepshard.shards.errors import CorruptChunk
from deepshard.shards.swarm import Part
from deepshard.testing.virtual_time import pass_time
from deepshard.wire.messages import BlobReply, BlobStatus, HaveReply, HaveRequest, Message, RangeReply, RangeRequest

RANGE_BYTES = RANGE_BLOCKS_MAX * CONTENT_BLOCK_BYTES
DATA = expand(b"a chunk", "range exchange tests", 3 * RANGE_BYTES + 5)
DIGEST = content_digest(DATA)
LEAVES = block_hashes(DATA)
RANGES = 4
Change = Callable[[Any, bytes], "tuple[Message, bytes] | None"]


@pytest.fixture(name="logs", autouse=True)
def _logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as logs:
        yield logs


class Arrivals:
    """Counts what arrives in ranges, by sender; `change` may alter it."""

    def __init__(self, cluster: Cluster) -> None:
        self.bytes: Counter[str] = Counter()
        self.ranges: list[tuple[str, int]] = []
        self.change: dict[str, Change] = {}
        cluster.network.tamper = self.tamper

    def tamper(self, source: str, _target: str, message: Message, attachment: bytes) -> tuple[Message, bytes] | None:
        assert not (isinstance(message, BlobReply) and attachment)
        if not isinstance(message, RangeReply):
            return message, attachment
        arrived = self.change[source](message, attachment) if source in self.change else (message, attachment)
        if arrived is not None:
            self.bytes[source] += len(arrived[1])
            self.ranges.append((source, message.first_block))
        return arrived


def _flip(message: Message, attachment: bytes) -> tuple[Message, bytes]:
    return message, attachment and bytes([attachment[0] ^ 1]) + attachment[1:]


def _stops_after(cluster: Cluster, name: str, ranges: int) -> Change:
    """The peer vanishes with the range after so many."""
    sent = 0

    def change(message: Message, attachment: bytes) -> tuple[Message, bytes] | None:
        nonlocal sent
        sent += 1
        if sent <= ranges:
            return message, attachment
        if sent == ranges + 1:
            cluster.network.vanish(name)
        return None

    return change


def _partial(node: Node) -> Path:
    return node.store.root / "partial" / DIGEST.hex()


@pytest.mark.clause("8.8/2")
async def test_several_peers_bring_the_ranges_of_one_blob(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as cluster:
        a, b = cluster.node("a", [DATA]), cluster.node("b", [DATA])
        buyer = cluster.node("buyer", in_flight_per_peer=1)  # so that neither brings all before the other has answered
        cluster.network.connect("buyer", "a", "b")
        arrivals = Arrivals(cluster)
        seen: list[tuple[int, int, int]] = []
        report = await buyer.exchange.fetch(
            {DIGEST: len(DATA)}, progress=lambda done, total, _peer, size: seen.append((done, total, size))
        )
        assert (report.verified, report.wasted_bytes, report.resumed_bytes) == (1, 0, 0)
        assert seen == [(1, 1, len(DATA))]
        assert sum(arrivals.bytes.values()) == len(DATA)
        assert set(arrivals.bytes) == {"a", "b"}
        assert report.bytes_by_peer == {a.key: arrivals.bytes["a"], b.key: arrivals.bytes["b"]}
        for seed in (a, b):
            assert seed.exchange.stats.served_bytes == {buyer.key: report.bytes_by_peer[seed.key]}
        assert buyer.store.get(DIGEST) == DATA
        assert not _partial(buyer).exists()


@pytest.mark.clause("8.7/1", "8.8/2")
@pytest.mark.parametrize("size", [RANGE_BYTES, RANGE_BYTES + 1, 8 << 20, None])
async def test_blobs_of_a_range_or_unknown_size_come_whole_and_a_wrong_size_does_no_harm(
    size: int | None, tmp_path: Path
) -> None:
    blobs = [DATA, DATA[:100], b""]
    async with running(tmp_path, disk_threads=4) as cluster:
        seed = cluster.node("seed", blobs)
        buyer = cluster.node("buyer")
        cluster.network.connect("buyer", "seed")
        kinds: list[type[Message]] = []

        def tamper(_source: str, _target: str, message: Message, attachment: bytes) -> tuple[Message, bytes]:
            kinds.append(type(message))
            return message, attachment

        cluster.network.tamper = tamper
        await buyer.exchange.fetch({content_digest(data): size for data in blobs})
        assert (RangeReply in kinds, BlobReply in kinds) == (
            (False, True) if size in {None, RANGE_BYTES} else (True, False)
        )
        assert sorted(buyer.store.digests()) == sorted(content_digest(data) for data in blobs)
        assert seed.port.penalties == buyer.port.penalties == []


@pytest.mark.clause("8.8/3")
@pytest.mark.parametrize("came", [1, 2, 3])
async def test_when_a_sender_vanishes_mid_chunk_the_next_goes_on_and_no_byte_comes_twice(
    came: int, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as cluster:
        cluster.node("a", [DATA])
        cluster.node("b", [DATA])
        buyer = cluster.node("buyer", in_flight_per_peer=1)
        arrivals = Arrivals(cluster)
        arrivals.change["a"] = _stops_after(cluster, "a", came)
        cluster.network.connect("buyer", "a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(buyer.exchange.fetch, {DIGEST: len(DATA)})
            await pass_time(3.0)
            assert arrivals.bytes == {"a": came * RANGE_BYTES}
            assert _partial(buyer).exists()
            cluster.network.connect("buyer", "b")
        assert arrivals.bytes == {"a": came * RANGE_BYTES, "b": len(DATA) - came * RANGE_BYTES}
        assert sorted(first for _, first in arrivals.ranges) == [0, 64, 128, 192]
        assert buyer.store.get(DIGEST) == DATA
        assert buyer.port.penalties == []


@pytest.mark.clause("8.8/3")
@pytest.mark.parametrize("size", [len(DATA), None])
async def test_a_download_goes_on_after_a_restart_and_no_byte_comes_twice(
    size: int | None, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as cluster:
        cluster.node("a", [DATA])
        buyer = cluster.node("buyer", in_flight_per_peer=1)
        arrivals = Arrivals(cluster)
        arrivals.change["a"] = _stops_after(cluster, "a", 2)
        cluster.network.connect("buyer", "a")
        with pytest.raises(FetchIncomplete):
            await buyer.exchange.fetch({DIGEST: len(DATA)}, timeout_s=5.0)
        assert arrivals.bytes == {"a": 2 * RANGE_BYTES}
    async with running(tmp_path) as cluster:
        cluster.node("a")
        buyer = cluster.node("buyer", in_flight_per_peer=1)
        arrivals = Arrivals(cluster)
        cluster.network.connect("buyer", "a")
        report = await buyer.exchange.fetch({DIGEST: size})
        assert arrivals.bytes == {"a": len(DATA) - 2 * RANGE_BYTES}
        assert (report.verified, report.resumed_bytes) == (1, 2 * RANGE_BYTES)
        assert buyer.store.get(DIGEST) == DATA


@pytest.mark.clause("8.8/1", "8.8/5")
async def test_a_corrupt_sender_is_known_at_its_first_corrupt_range_and_the_rest_is_kept(
    tmp_path: Path, autojump_clock: MockClock, logs: list[Any]
) -> None:
    async with running(tmp_path) as cluster:
        liar = cluster.node("liar", [DATA])
        cluster.node("honest", [DATA])
        buyer = cluster.node("buyer", in_flight_per_peer=1)
        arrivals = Arrivals(cluster)
        arrivals.change["liar"] = lambda message, data: _flip(message, data) if message.first_block else (message, data)
        cluster.network.connect("buyer", "liar")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(buyer.exchange.fetch, {DIGEST: len(DATA)})
            await pass_time(3.0)
            (penalty,) = buyer.port.penalties
            assert penalty[0] == "liar"
            assert isinstance(penalty[1], CorruptChunk)
            assert "blocks 64 to 127" in str(penalty[1])
            state = buyer.store.partial(DIGEST)
            assert state is not None
            assert state.held_bytes == RANGE_BYTES
            cluster.network.connect("buyer", "honest")
        assert arrivals.bytes == {"liar": 2 * RANGE_BYTES, "honest": len(DATA) - RANGE_BYTES}
        assert buyer.store.get(DIGEST) == DATA
        assert buyer.exchange.stats.fetched_bytes[liar.key] == RANGE_BYTES
        assert [entry["first_block"] for entry in logs if entry["event"] == "peer.corrupt"] == [64]


REPLACED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "another blob": ({"digest": bytes(32)}, MalformedMessage, f"got {bytes(32).hex()} from block 0 on"),
    "another place": ({"first_block": 1}, MalformedMessage, "from block 1 on"),
    "no proof": ({"proof": ()}, MalformedMessage, "range proof of 0 hashes, 2 of 32 bytes are needed"),
    "a longer proof": ({"proof": (bytes(32),) * 3}, MalformedMessage, "range proof of 3 hashes"),
    "a wrong proof": ({"proof": (bytes(32),) * 2}, CorruptChunk, "blocks 0 to 63"),
    "a size one less": ({"size": len(DATA) - 1}, CorruptChunk, "blocks 0 to 63"),
    "a size of fewer blocks": ({"size": RANGE_BYTES}, MalformedMessage, "range proof of 2 hashes, 0 of"),
    "a size of one block": ({"size": 1}, MalformedMessage, "range proof of 2 hashes, 0 of"),
    "refusal with data": ({"status": BlobStatus.BUSY}, MalformedMessage, "BUSY with an attachment of 1048576 bytes"),
}


@pytest.mark.clause("8.6/5", "8.6/6", "8.7/4", "8.7/5", "1.5/7")
@pytest.mark.parametrize("case", REPLACED)
async def test_malformed_range_replies_are_penalised_and_nothing_is_kept(
    case: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    changes, kind, fact = REPLACED[case]
    await _expect_blame(tmp_path, lambda message, data: (msgspec.structs.replace(message, **changes), data), kind, fact)


TAMPERED: dict[str, tuple[Change, type[Exception], str]] = {
    "a block less": (lambda m, data: (m, data[:-CONTENT_BLOCK_BYTES]), MalformedMessage, "range of 1032192 bytes"),
    "a block more": (lambda m, data: (m, data + bytes(CONTENT_BLOCK_BYTES)), MalformedMessage, "range of 1064960"),
    "a byte less": (lambda m, data: (m, data[:-1]), MalformedMessage, "range of 1048575 bytes"),
    "nothing": (lambda m, _: (m, b""), MalformedMessage, "range of 0 bytes"),
    "a changed byte": (_flip, CorruptChunk, "blocks 0 to 63"),
    "refusal with a size": (
        lambda m, _: (RangeReply(m.request, m.digest, BlobStatus.NOT_FOUND, 5, m.first_block, ()), b""),
        MalformedMessage,
        "NOT_FOUND with an attachment of 0 bytes, size 5",
    ),
    "refusal with a proof": (
        lambda m, _: (RangeReply(m.request, m.digest, BlobStatus.BUSY, 0, m.first_block, m.proof), b""),
        MalformedMessage,
        "size 0 and a proof of 2 hashes",
    ),
    "another kind": (
        lambda m, data: (BlobReply(m.request, m.digest, BlobStatus.FOUND), data),
        MalformedMessage,
        "BlobReply answers a request of another kind",
    ),
    "a kind that asks for nothing": (
        lambda m, _: (HaveReply(m.request, b"\1"), b""),
        MalformedMessage,
        "HaveReply answers a request of another kind",
    ),
}


@pytest.mark.clause("8.6/5", "8.6/6", "8.7/4", "8.7/5", "1.5/7")
@pytest.mark.parametrize("case", TAMPERED)
async def test_range_replies_of_wrong_form_are_penalised_and_nothing_is_kept(
    case: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    await _expect_blame(tmp_path, *TAMPERED[case])


async def _expect_blame(root: Path, change: Change, kind: type[Exception], fact: str) -> None:
    async with running(root) as cluster:
        cluster.node("seed", [DATA])
        buyer = cluster.node("buyer")
        cluster.network.tamper = when("seed", RangeReply, change)
        cluster.network.connect("buyer", "seed")
        with pytest.raises(FetchIncomplete):
            await buyer.exchange.fetch({DIGEST: len(DATA)}, timeout_s=0.5)
        (penalty,) = buyer.port.penalties
        assert penalty[0] == "seed"
        assert type(penalty[1]) is kind
        assert fact in str(penalty[1])
        assert buyer.store.digests() == []
        assert buyer.store.partial(DIGEST) is None


@pytest.mark.clause("6.1/4")
async def test_unasked_ranges_change_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as cluster:
        seed, buyer = cluster.node("seed"), cluster.node("buyer")
        cluster.network.connect("buyer", "seed")
        reply = RangeReply(77, DIGEST, BlobStatus.FOUND, len(DATA), 0, range_proof(LEAVES, 0, 64))
        await seed.port.send(buyer.key, reply, DATA[:RANGE_BYTES])
        await pass_time(1.0)
        assert buyer.store.partial(DIGEST) is None
        assert buyer.port.penalties == []


async def _ask(
    cluster: Cluster, seed: Node, *requests: RangeRequest, name: str = "asker"
) -> list[tuple[RangeReply, bytes]]:
    asker = cluster.network.join(name)
    cluster.network.connect(seed.port.name, name)
    for request in requests:
        await asker.send(seed.key, request)
    replies: list[tuple[RangeReply, bytes]] = []
    with trio.move_on_after(5.0):
        async for event in asker.events:
            message = getattr(event, "message", None)
            if isinstance(message, RangeReply):
                replies.append((message, event.attachment))  # type: ignore[union-attr]  # a Received
    return replies


@pytest.mark.clause("8.6/1", "8.7/3")
async def test_ranges_are_served_with_their_proof_and_cut_at_the_end(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as cluster:
        seed = cluster.node("seed", [DATA, b""])
        requests = [
            RangeRequest(1, DIGEST, 0, 1),
            RangeRequest(2, DIGEST, 100, 3),
            RangeRequest(3, DIGEST, 190, 64),
            RangeRequest(4, content_digest(b""), 0, 64),
        ]
        answered = await _ask(cluster, seed, *requests)
        replies = {reply.request: (reply, data) for reply, data in answered}
        assert len(answered) == len(replies) == 4
        for number, first, count in ((1, 0, 1), (2, 100, 3), (3, 190, 3)):
            proof = range_proof(LEAVES, first, count)
            expected = RangeReply(number, DIGEST, BlobStatus.FOUND, len(DATA), first, proof)
            data = DATA[first * CONTENT_BLOCK_BYTES : (first + count) * CONTENT_BLOCK_BYTES]
            assert replies[number] == (expected, data)
        assert replies[4] == (RangeReply(4, content_digest(b""), BlobStatus.FOUND, 0, 0, ()), b"")


@pytest.mark.clause("8.7/2")
async def test_who_asks_beyond_the_end_is_penalised_and_not_answered(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as cluster:
        seed = cluster.node("seed", [DATA])
        assert await _ask(cluster, seed, RangeRequest(1, DIGEST, 193, 1), RangeRequest(2, DIGEST, 2**31 - 1, 64)) == []
        assert [(name, str(error)) for name, error in seed.port.penalties] == [
            ("asker", "asks for block 193 of a blob that has 193"),
            ("asker", "asks for block 2147483647 of a blob that has 193"),
        ]
        assert all(isinstance(error, MalformedMessage) for _, error in seed.port.penalties)


@pytest.mark.clause("8.5/1")
async def test_a_blob_that_has_come_in_part_isnt_offered(tmp_path: Path) -> None:
    async with running(tmp_path, disk_threads=4) as cluster:
        seed = cluster.node("seed", [DATA[:5]])
        seed.store.put_range(DIGEST, DATA[:RANGE_BYTES], size=len(DATA), first=0)
        asker = cluster.network.join("asker")
        cluster.network.connect("seed", "asker")
        await asker.send(seed.key, HaveRequest(5, (DIGEST, content_digest(DATA[:5]))))
        async for event in asker.events:
            message = getattr(event, "message", None)
            if message is not None:
                assert message == HaveReply(5, b"\2")
                break


@pytest.mark.clause("8.6/2", "8.6/5")
async def test_ranges_are_refused_as_blobs_are(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def may_fetch(peer: PeerInfo, _digest: bytes) -> bool:
        return not peer.remote.startswith("stranger")

    async with running(tmp_path) as cluster:
        seed = cluster.node("seed", [DATA], may_fetch=may_fetch)
        absent = RangeReply(1, bytes(32), BlobStatus.NOT_FOUND, 0, 7, ())
        assert await _ask(cluster, seed, RangeRequest(1, bytes(32), 7, 1)) == [(absent, b"")]
        assert await _ask(cluster, seed, RangeRequest(1, bytes(32), 7, 1), name="stranger") == [(absent, b"")]
        # Not even whether there is such a block is said to who has no licence.
        refused = RangeReply(1, DIGEST, BlobStatus.NOT_LICENSED, 0, 999, ())
        assert await _ask(cluster, seed, RangeRequest(1, DIGEST, 999, 1), name="stranger 2") == [(refused, b"")]

        def broken(_digest: bytes, _first: int, _count: int) -> tuple[Leaves, bytes]:
            raise LocalError("cannot read")

        monkeypatch.setattr(seed.store, "get_range", broken)
        busy = RangeReply(1, DIGEST, BlobStatus.BUSY, 0, 3, ())
        assert await _ask(cluster, seed, RangeRequest(1, DIGEST, 3, 1), name="third") == [(busy, b"")]
        assert seed.port.penalties == []


@pytest.mark.clause("8.5/4", "8.6/3", "8.6/8")
async def test_what_rots_between_two_ranges_isnt_served_and_is_repaired(
    tmp_path: Path, autojump_clock: MockClock, logs: list[Any]
) -> None:
    async with running(tmp_path) as cluster:
        rotten = cluster.node("rotten", [DATA])
        cluster.node("whole", [DATA])
        buyer = cluster.node("buyer", in_flight_per_peer=1)
        arrivals = Arrivals(cluster)

        def rot(message: Message, attachment: bytes) -> tuple[Message, bytes]:
            place = rotten.store.root / DIGEST.hex()[:2] / DIGEST.hex()[2:]
            if place.exists():
                place.write_bytes(_flip(message, DATA[: 2 * RANGE_BYTES])[1])
            return message, attachment

        arrivals.change["rotten"] = rot
        cluster.network.connect("buyer", "rotten")
        with pytest.raises(FetchIncomplete, match="not found"):
            await buyer.exchange.fetch({DIGEST: len(DATA)}, timeout_s=3.0)
        cluster.network.tamper = None
        cluster.network.connect("rotten", "whole")
        report = await buyer.exchange.fetch({DIGEST: None})
        assert report.resumed_bytes == arrivals.bytes["rotten"] > 0
        assert rotten.store.get(DIGEST) == DATA
        assert buyer.port.penalties == []
        assert {"chunk.corrupt", "chunk.repaired"} <= {entry["event"] for entry in logs}


@pytest.mark.clause("8.8/4")
async def test_a_partial_that_rots_is_fetched_again_without_blaming_the_peer(
    tmp_path: Path, autojump_clock: MockClock, logs: list[Any]
) -> None:
    async with running(tmp_path) as cluster:
        cluster.node("seed", [DATA])
        buyer = cluster.node("buyer", in_flight_per_peer=1)
        arrivals = Arrivals(cluster)
        rotted = 0

        def rot(message: Message, attachment: bytes) -> tuple[Message, bytes]:
            nonlocal rotted
            assert isinstance(message, RangeReply)
            if message.first_block == 192 and rotted < 2:
                rotted += 1
                with _partial(buyer).open("r+b") as file:
                    file.write(b"rot")
                os.utime(_partial(buyer), ns=(0, 0))  # a coarse clock might not show that it was written to
            return message, attachment

        arrivals.change["seed"] = rot
        cluster.network.connect("buyer", "seed")
        report = await buyer.exchange.fetch({DIGEST: len(DATA)})
        assert arrivals.bytes == {"seed": 3 * len(DATA)}
        assert report.verified == 1
        assert buyer.store.get(DIGEST) == DATA
        assert buyer.port.penalties == []
        assert [entry["event"] for entry in logs].count("partial.corrupt") == 2

        buyer.store.delete(DIGEST)
        rotted = -10
        with pytest.raises(LocalError, match=f"partial {DIGEST.hex()} was corrupt on disk"):
            await buyer.exchange.fetch({DIGEST: len(DATA)})
        assert buyer.port.penalties == []


def test_blocks_that_the_link_has_hashed_arent_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_data: bytes) -> tuple[bytes, ...]:
        raise AssertionError

    store = ChunkStore(tmp_path)
    part = Part(DIGEST, 64, 64)
    answer = RangeAnswer(
        BlobStatus.FOUND, DATA[RANGE_BYTES : 2 * RANGE_BYTES], len(DATA), range_proof(LEAVES, 64, 64), LEAVES[64:128]
    )
    monkeypatch.setattr(deepshard.ranges, "block_hashes", never)
    assert keep_range(store, part, answer).held_bytes == RANGE_BYTES
    # Leaves that don't belong to as many bytes are no proof of anything.
    short = RangeAnswer(answer.status, answer.data[:-1], answer.size, answer.proof, answer.leaves)
    with pytest.raises(MalformedMessage, match="range of 1048575 bytes"):
        keep_range(store, part, short)
    assert content_address(len(DATA), LEAVES) == DIGEST
