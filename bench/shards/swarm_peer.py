"""One process of a swarm over loopback, told what to do line by line on its standard input.

`seed FOLDER NUMBER` prints where it listens; then `corrupt` flips a bit in every range it serves from now on, and
`memory` prints the peak of its resident memory in bytes.

`leech FOLDER DIGESTS BYTES ADDRESS...` connects to all addresses, fetches the blobs of BYTES bytes each whose content
addresses lie in the file DIGESTS, prints `done N` after each, and then one line of JSON with what that took.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from bench.wire.peer import silence
from deepshard.disk.chunks import ChunkStore
from deepshard.identity.keys import SecretKey
from deepshard.net.allocation import keep_freed_memory
from deepshard.net.network import Network
from deepshard.net.types import PeerUp
from deepshard.services.shards import ShardExchange
from deepshard.wire.messages import Message, RangeReply

LEECH: Final = 0
"""Number of the one who fetches."""
_DIGEST_BYTES: Final = 32


def key_of(number: int) -> SecretKey:
    """The key of a process of the swarm."""
    return SecretKey(bytes([number + 1]) * 32)


class _Corruptible(Network):
    """A network that sends wrong bytes when told to, addressed as what they are: only the proof gives them away."""

    is_corrupt = False

    async def send(
        self, peer: bytes, message: Message, attachment: bytes = b"", attachment_digest: bytes | None = None
    ) -> bool:
        if self.is_corrupt and isinstance(message, RangeReply) and attachment:
            attachment, attachment_digest = bytes([attachment[0] ^ 1]) + attachment[1:], None
        return await super().send(peer, message, attachment, attachment_digest)


@asynccontextmanager
async def _node(
    number: int, store: ChunkStore, *dial: str
) -> AsyncIterator[tuple[_Corruptible, ShardExchange, trio.Event]]:
    """A network with an exchange; the event is set when as many peers are up as were dialled."""
    network = _Corruptible(
        key=key_of(number), chain_id="bench", genesis_hash=bytes(32), roles=(), listen="127.0.0.1:0", dial=dial
    )
    exchange = ShardExchange(network, store, lambda _peer, _digest: True)
    connected = trio.Event()

    async def route() -> None:
        async for event in network.events:
            await exchange.mailbox.put(event)
            if isinstance(event, PeerUp) and len(network.peers()) >= len(dial):
                connected.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        nursery.start_soon(exchange.run)
        nursery.start_soon(route)
        yield network, exchange, connected
        nursery.cancel_scope.cancel()


async def _seed(folder: Path, number: int) -> None:
    async with _node(number, ChunkStore(folder)) as (network, _, _):
        _say(network.listening)
        async for line in trio.wrap_file(sys.stdin):
            match line.strip():
                case "corrupt":
                    network.is_corrupt = True
                case "memory":
                    _say(str(_memory()))


async def _leech(folder: Path, wanted: dict[bytes, int | None], *dial: str) -> None:
    store = ChunkStore(folder)
    async with _node(LEECH, store, *dial) as (network, exchange, connected):
        await connected.wait()
        started = trio.current_time()
        report = await exchange.fetch(wanted, progress=lambda done, _all, _peer, _size: _say(f"done {done}"))
        seconds = trio.current_time() - started
        connected_keys = {peer.public_key for peer in network.peers()}
        _say(
            json.dumps(
                {
                    "seconds": seconds,
                    "verified": report.verified,
                    "received": sum(stats.bytes_in for stats in network.stats().values()),
                    "wasted": report.wasted_bytes,
                    "corrupt": [key.hex() for key in report.corrupt_from],
                    "connected": sorted(key.hex() for key in connected_keys),
                    "by_peer": {key.hex(): size for key, size in report.bytes_by_peer.items()},
                    "memory": _memory(),
                }
            )
        )


def _memory() -> int:
    """Peak of the resident memory of this process, in bytes."""
    status = Path("/proc/self/status").read_text("ascii")  # getrusage counts the process that forked as well
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def _say(line: str) -> None:
    print(line, flush=True)


def _main() -> None:
    role, folder, *arguments = sys.argv[1:]
    silence()
    keep_freed_memory()
    if role == "seed":
        trio.run(_seed, Path(folder), int(arguments[0]))
        return
    digests, size = Path(arguments[0]).read_bytes(), int(arguments[1])
    wanted: dict[bytes, int | None] = {
        digests[start : start + _DIGEST_BYTES]: size for start in range(0, len(digests), _DIGEST_BYTES)
    }
    trio.run(_leech, Path(folder), wanted, *arguments[2:])


if __name__ == "__main__":
    _main()
