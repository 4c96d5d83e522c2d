"""The shard exchange over real links: what the link has hashed isn't hashed again, on either side."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

import deepshard.ranges
import deepshard.services.shards_intake
import deepshard.wire.frames
from deepshard.disk.chunks import ChunkStore
from deepshard.identity.keys import SecretKey
from deepshard.net.network import Network
from deepshard.primitives import CONTENT_BLOCK_BYTES, content_digest, expand
from deepshard.services.shards import ShardExchange

LARGE = expand(b"large", "sockets", 200 * CONTENT_BLOCK_BYTES + 17)
SMALL = expand(b"small", "sockets", 5 * CONTENT_BLOCK_BYTES)
WANTED: dict[bytes, int | None] = {content_digest(data): len(data) for data in (LARGE, SMALL, b"")}


@asynccontextmanager
async def _node(root: Path, number: int, *dial: str) -> AsyncIterator[tuple[Network, ChunkStore, ShardExchange]]:
    network = Network(
        key=SecretKey(bytes([number]) * 32),
        chain_id="test",
        genesis_hash=bytes(32),
        roles=("validator",),
        listen="127.0.0.1:0",
        dial=dial,
    )
    store = ChunkStore(root / str(number))
    exchange = ShardExchange(network, store, lambda _peer, _digest: True)

    async def route() -> None:
        async for event in network.events:
            await exchange.mailbox.put(event)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            nursery.start_soon(route)
            nursery.start_soon(exchange.run)
            yield network, store, exchange
            nursery.cancel_scope.cancel()


async def test_ranges_and_blobs_over_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(data: bytes) -> bytes:
        assert not data
        return content_digest(data)

    async with _node(tmp_path, 1) as (seed, seeds, _), _node(tmp_path, 2, seed.listening) as (_, store, exchange):
        for data in (LARGE, SMALL, b""):
            seeds.put(data)
        for module in (deepshard.ranges, deepshard.services.shards_intake, deepshard.wire.frames):
            for name in ("block_hashes", "content_digest"):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, never)
        report = await exchange.fetch(WANTED)
        assert report.verified == 3
        assert sum(report.bytes_by_peer.values()) == len(LARGE) + len(SMALL)
        assert report.wasted_bytes == 0
        assert [store.get(digest) for digest in WANTED] == [LARGE, SMALL, b""]
