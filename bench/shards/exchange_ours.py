"""Our side: `seed FOLDER BLOBS` prints where it listens, `leech FOLDER BLOBS ADDRESS` how many seconds it took."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import trio

from bench.wire.peer import silence
from deepshard.disk.chunks import ChunkStore
from deepshard.identity.keys import SecretKey
from deepshard.net.allocation import keep_freed_memory
from deepshard.net.network import Network
from deepshard.net.types import PeerDown, PeerUp, Received
from deepshard.primitives import content_digest
from deepshard.services.shards import ShardExchange

from .exchange import BLOB_BYTES, noise

_KEYS: Final = {"seed": SecretKey(bytes([1]) * 32), "leech": SecretKey(bytes([2]) * 32)}


async def _live(role: str, folder: Path, blobs: int, dial: tuple[str, ...]) -> None:
    store = ChunkStore(folder / "store")
    network = Network(
        key=_KEYS[role], chain_id="bench", genesis_hash=bytes(32), roles=(), listen="127.0.0.1:0", dial=dial
    )
    exchange = ShardExchange(network, store, lambda _peer, _digest: True)
    connected = trio.Event()

    async def route() -> None:
        async for event in network.events:
            if isinstance(event, PeerUp | PeerDown | Received):
                await exchange.mailbox.put(event)
            if isinstance(event, PeerUp):
                connected.set()

    async with trio.open_nursery() as nursery:
        listening = await nursery.start(network.run)
        nursery.start_soon(exchange.run)
        nursery.start_soon(route)
        if role == "seed":
            print(listening, flush=True)
            await trio.sleep_forever()
        wanted: dict[bytes, int | None] = {content_digest(noise(number)): BLOB_BYTES for number in range(blobs)}
        await connected.wait()
        started = trio.current_time()
        report = await exchange.fetch(wanted)
        seconds = trio.current_time() - started
        assert report.verified == blobs
        print(seconds, flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    silence()
    keep_freed_memory()
    trio.run(_live, sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), tuple(sys.argv[4:5]))
