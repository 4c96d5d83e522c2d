"""Caps on what a node serves and fetches, under virtual time: kept to, shared fairly, and no hindrance to questions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio
from shards_cluster import Cluster, running
from trio.testing import MockClock

from deepshard.limits import MIB
from deepshard.primitives import content_digest, expand
from deepshard.testing.virtual_time import pass_time
from deepshard.wire.messages import BlobStatus, HaveReply, HaveRequest, Message, RangeReply, RangeRequest

CHUNKS = [expand(b"chunk", str(number), 2 * MIB) for number in range(4)]
WANTED: dict[bytes, int | None] = {content_digest(data): len(data) for data in CHUNKS}


class Log:
    """When what travelled, from whom."""

    def __init__(self, cluster: Cluster) -> None:
        self.travelled: list[tuple[float, str, Message]] = []
        cluster.network.tamper = self.tamper

    def tamper(self, source: str, _target: str, message: Message, attachment: bytes) -> tuple[Message, bytes]:
        self.travelled.append((trio.current_time(), source, message))
        return message, attachment

    def times(self, kind: type[Message]) -> list[float]:
        return [at for at, _, message in self.travelled if isinstance(message, kind)]


@pytest.mark.parametrize(("bytes_per_s", "least_s", "most_s"), [(0.0, 0.0, 0.0), (MIB, 6.4, 7.6), (4 * MIB, 1.25, 2.0)])
@pytest.mark.parametrize("way", ["upload_bytes_per_s", "download_bytes_per_s"])
async def test_eight_mebibytes_take_as_long_as_the_cap_says(
    way: str, bytes_per_s: float, least_s: float, most_s: float, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as cluster:
        options: dict[str, Any] = {way: bytes_per_s}
        cluster.node("seed", CHUNKS, **(options if way.startswith("up") else {}))
        buyer = cluster.node("buyer", **(options if way.startswith("down") else {}))
        cluster.network.connect("buyer", "seed")
        began = autojump_clock.current_time()
        report = await buyer.exchange.fetch(WANTED)
        assert least_s <= autojump_clock.current_time() - began <= most_s
        assert (report.verified, report.wasted_bytes) == (4, 0)


async def test_questions_are_answered_at_once_while_ranges_wait_for_the_cap(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    assert autojump_clock is not None
    async with running(tmp_path) as cluster:
        cluster.node("seed", CHUNKS, upload_bytes_per_s=MIB)
        buyer, other = cluster.node("buyer"), cluster.node("other")
        cluster.network.connect("buyer", "seed")
        log = Log(cluster)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(buyer.exchange.fetch, WANTED)
            await pass_time(2.5)
            cluster.network.connect("other", "seed")
            asked_at = trio.current_time()
            await other.port.send(other.port.peers()[0].public_key, HaveRequest(1, tuple(WANTED)))
        assert asked_at in log.times(HaveReply)
        assert max(log.times(RangeReply)) > asked_at + 4


async def test_who_would_wait_too_long_is_told_busy_and_gets_it_in_the_end(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as cluster:
        cluster.node("seed", CHUNKS[:2], upload_bytes_per_s=MIB / 16)
        buyer = cluster.node("buyer", request_timeout_s=30.0)
        cluster.network.connect("buyer", "seed")
        log = Log(cluster)
        began = autojump_clock.current_time()
        report = await buyer.exchange.fetch({digest: WANTED[digest] for digest in list(WANTED)[:2]})
        assert (report.verified, report.wasted_bytes) == (2, 0)
        assert 47.0 <= autojump_clock.current_time() - began <= 50.0
        said = Counter(message.status for _, _, message in log.travelled if isinstance(message, RangeReply))
        assert said[BlobStatus.FOUND] == 4
        assert said[BlobStatus.BUSY] > 0


async def test_a_capped_buyer_asks_for_no_more_than_it_may_and_of_all_alike(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    assert autojump_clock is not None
    async with running(tmp_path) as cluster:
        for name in ("a", "b"):
            cluster.node(name, CHUNKS)
        buyer = cluster.node("buyer", download_bytes_per_s=MIB)
        cluster.network.connect("buyer", "a", "b")
        log = Log(cluster)
        began = trio.current_time()
        first, second = list(WANTED)[:2], list(WANTED)[2:]
        async with trio.open_nursery() as nursery:
            for part in (first, second):
                nursery.start_soon(buyer.exchange.fetch, {digest: WANTED[digest] for digest in part})
        asked = [at - began for at in log.times(RangeRequest)]
        assert len(asked) == 8
        for number, at in enumerate(asked):
            assert number * 1.0 <= at + 1.5  # a range of one mebibyte a second, half a second's burst, one beyond it
        assert set(Counter(source for _, source, message in log.travelled if isinstance(message, RangeReply))) == {
            "a",
            "b",
        }


async def test_a_buyer_relays_the_chunks_it_has_while_it_fetches_the_others(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    assert autojump_clock is not None
    async with running(tmp_path) as cluster:
        seed = cluster.node("seed", CHUNKS, upload_bytes_per_s=MIB)
        first, second = cluster.node("first"), cluster.node("second")
        cluster.network.connect("first", "seed")
        cluster.network.connect("second", "first")
        log = Log(cluster)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.exchange.fetch, WANTED)
            nursery.start_soon(second.exchange.fetch, WANTED)
        of_seed = [at for at, source, message in log.travelled if source == "seed" and isinstance(message, RangeReply)]
        relayed = [at for at, source, message in log.travelled if source == "first" and isinstance(message, RangeReply)]
        assert min(relayed) < of_seed[3]  # less than half of the model has come
        assert max(relayed) < max(of_seed) + 1.5
        assert seed.exchange.stats.served_bytes == {first.key: 8 * MIB}
        assert second.exchange.stats.fetched_bytes == {first.key: 8 * MIB}
