"""One node that exchanges blobs, as a process of its own: `python shards_process.py CONFIG`, CONFIG in JSON.

A seller drops every answer with data beyond `answers_max`, having printed `stalled`, until its standard input says `go
on`; where `licences` is given it sells the chunks of version 1 of `keeper_network.model` by the rules of the ledger.
A buyer prints `done N` after each blob and one line of JSON at the end.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog
import trio
from keeper_network import model

from deepshard.chunk_tree import NO_CHUNKS
from deepshard.disk.chunks import ChunkStore
from deepshard.identity.keys import SecretKey
from deepshard.ledger import genesis_state, keys
from deepshard.ledger.params import Genesis, GenesisValidator
from deepshard.ledger.records import Licence
from deepshard.net.network import Network
from deepshard.net.types import PeerInfo, PeerUp
from deepshard.primitives import UNITS_PER_TOKEN, content_digest
from deepshard.services.shards import FetchIncomplete, ShardExchange
from deepshard.services.weights import WeightsRegistry
from deepshard.shards.rules import manifest_digest
from deepshard.testing.builders import SMALL_PARAMS
from deepshard.wire.messages import Message


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a process is to do; `number` gives its key."""

    number: int
    folder: str
    dial: tuple[str, ...] = ()
    wanted: dict[str, int] = {}
    timeout_s: float = 60.0
    answers_max: int | None = None
    licences: dict[int, int] | None = None
    """Number of a buyer to the last version of its licence."""


def key_of(number: int) -> SecretKey:
    return SecretKey(bytes([number]) * 32)


class _Stalling(Network):
    """A network whose answers with data are lost beyond so many, the link staying up."""

    answers_left: float = float("inf")

    async def send(
        self, peer: bytes, message: Message, attachment: bytes = b"", attachment_digest: bytes | None = None
    ) -> bool:
        if attachment:
            if self.answers_left <= 0:
                if self.answers_left == 0:
                    self.answers_left = -1
                    _say("stalled")
                return True
            self.answers_left -= 1
        return await super().send(peer, message, attachment, attachment_digest)


async def _live(config: Config) -> None:
    store = ChunkStore(Path(config.folder))
    network = _Stalling(
        key=key_of(config.number),
        chain_id="test",
        genesis_hash=bytes(32),
        roles=(),
        listen="127.0.0.1:0",
        dial=config.dial,
    )
    if config.answers_max is not None:
        network.answers_left = config.answers_max
    registry = WeightsRegistry(lambda: exchange, lambda: None)
    if config.licences is not None:
        registry = _registry(config.licences, lambda: exchange)

    def may_fetch(peer: PeerInfo, digest: bytes) -> bool:
        return config.licences is None or registry.may_fetch(peer, digest)

    exchange = ShardExchange(network, store, may_fetch)
    came: list[float] = []
    first = trio.Event()

    async def route() -> None:
        async for event in network.events:
            if isinstance(event, PeerUp):
                came.append(trio.current_time())
                first.set()
            await exchange.mailbox.put(event)

    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        nursery.start_soon(exchange.run)
        nursery.start_soon(route)
        _say(network.listening)
        if config.wanted:
            await first.wait()
            _say(json.dumps(await _fetched(exchange, config)))
            nursery.cancel_scope.cancel()
        async for line in trio.wrap_file(sys.stdin):
            assert line == "go on\n"
            network.answers_left = float("inf")


async def _fetched(exchange: ShardExchange, config: Config) -> dict[str, object]:
    wanted: dict[bytes, int | None] = {bytes.fromhex(digest): size for digest, size in config.wanted.items()}
    began = trio.current_time()
    try:
        report = await exchange.fetch(
            wanted, progress=lambda done, _all, _peer, _size: _say(f"done {done}"), timeout_s=config.timeout_s
        )
    except FetchIncomplete as error:
        return {"error": str(error), "unlicensed": error.unlicensed, "missing": len(error.missing)}
    return {
        "seconds": trio.current_time() - began,
        "bytes": {key.hex(): size for key, size in report.bytes_by_peer.items()},
        "present": report.present,
        "resumed_bytes": report.resumed_bytes,
        "wasted_bytes": report.wasted_bytes,
    }


def _registry(licences: dict[int, int], exchange: Callable[[], ShardExchange]) -> WeightsRegistry:
    manifest, _ = model(1)
    validator = key_of(200)
    genesis = Genesis(
        chain_id="test",
        time_ms=0,
        params=SMALL_PARAMS,
        validators=(GenesisValidator(validator.public, 1000 * UNITS_PER_TOKEN, bytes(32)),),
        accounts=(),
        manifest=content_digest(b"of version 0"),
        weights_root=bytes(32),
        chunks_root=NO_CHUNKS,
        shard_count=0,
        heldout=(),
        general=(),
        canaries=(),
    )
    state = genesis_state(genesis).changed(
        {
            keys.licence_key(key_of(number).address): Licence(key_of(number).public, 0, last_version, 1, 1)
            for number, last_version in licences.items()
        }
    )
    registry = WeightsRegistry(exchange, lambda: state)
    registry.register(manifest_digest(manifest), manifest, 1)
    return registry


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    trio.run(_live, msgspec.json.decode(sys.argv[1], type=Config))
