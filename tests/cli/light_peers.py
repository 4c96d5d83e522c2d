"""Peers of a stand-alone light client: whole nodes in processes of their own, and peers that show a chain of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from msgspec.structs import replace
from nacl.pwhash import argon2id

from deepshard.chunk_tree import NO_CHUNKS
from deepshard.disk.chain import ChainStore
from deepshard.identity import SecretKey, write_key_file
from deepshard.ledger.genesis import dump_genesis, genesis_state
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import Genesis, GenesisAccount, GenesisValidator
from deepshard.net.network import Network
from deepshard.net.types import PeerUp, Received
from deepshard.primitives import UNITS_PER_TOKEN as TOKEN
from deepshard.primitives import content_digest, tagged_hash
from deepshard.services.executor import ChainExecutor
from deepshard.services.light_server import LightServer
from deepshard.services.view import ChainView
from deepshard.testing.builders import SMALL_PARAMS
from deepshard.testing.chain_history import grow_chain
from deepshard.wire.messages import HeadersRequest, Message, ProofRequest, Status

VALIDATORS = [SecretKey(content_digest(b"light validator %d" % number)) for number in range(4)]
ALICE = SecretKey(content_digest(b"alice"))
ONIONS = {key.address: OnionChain(tagged_hash("onion seed", key.seed)) for key in VALIDATORS}
PARAMS = replace(SMALL_PARAMS, trusting_period_ms=7 * 24 * 3600 * 1000, unbonding_blocks=70_000_000)
PATIENCE_S = 120.0
# The node's own command; it asks no worker for anything here, and one that loads torch costs five seconds of a core.
NODE = (
    "from deepshard.compute.client import ComputeClient; from deepshard.node.__main__ import app; "
    "ComputeClient.prewarm = lambda self: None; app(prog_name='node')"
)


def make_genesis(validators: Sequence[SecretKey] = VALIDATORS, *, age_ms: int = 600_000) -> Genesis:
    """A network of these validators that began a while ago by the real clock."""
    return Genesis(
        chain_id="light-test",
        time_ms=time.time_ns() // 1_000_000 - age_ms,
        params=PARAMS,
        validators=tuple(GenesisValidator(key.public, 1000 * TOKEN, ONIONS[key.address].tip) for key in validators),
        accounts=(GenesisAccount(ALICE.address, 5000 * TOKEN),),
        manifest=content_digest(b"manifest"),
        weights_root=content_digest(b"weights"),
        chunks_root=NO_CHUNKS,
        shard_count=0,
        heldout=(content_digest(b"h"),),
        general=(content_digest(b"g"),),
        canaries=(content_digest(b"c"),),
    )


def grow(folder: Path, genesis: Genesis, *, height: int, interval_ms: int = 1000) -> Path:
    """A chain in a folder, signed by all; another interval makes another history."""
    folder.mkdir(parents=True, exist_ok=True)
    grow_chain(folder, genesis, VALIDATORS, ONIONS, height=height, interval_ms=interval_ms)
    return folder


@dataclass
class ShownChain:
    """A peer that shows the chain in a folder to light clients, as a whole node does.

    Attributes:
        listen: where it listens.
        heard: all that came, but for what the network itself deals with.
    """

    listen: str
    heard: list[Message]


@asynccontextmanager
async def shown_chain(folder: Path, genesis: Genesis, *, claim: int | None = None) -> AsyncIterator[ShownChain]:
    """Serve headers and proofs over a real socket; `claim` is the height it says it has, its own if None."""
    store = ChainStore(folder / "chain.sqlite", genesis_hash=genesis.hash())
    view = ChainView(genesis_state(genesis), None)
    ChainExecutor(genesis, store, view).restore()
    network = Network(
        key=SecretKey(os.urandom(32)),
        chain_id=genesis.chain_id,
        genesis_hash=genesis.hash(),
        roles=("informant",),
        listen="127.0.0.1:0",
        dial=(),
    )
    server = LightServer(view=view, store=store, network=network)
    peer = ShownChain("", [])

    async def route() -> None:
        async for event in network.events:
            match event:
                case PeerUp(peer=newcomer):
                    height = view.height if claim is None else claim
                    await network.send(newcomer.public_key, Status(height))
                case Received(message=HeadersRequest() | ProofRequest()):
                    await server.mailbox.put(event)
                case Received(message=message):
                    peer.heard.append(message)
                case _:
                    pass

    try:
        async with trio.open_nursery() as nursery:
            peer.listen = await nursery.start(network.run)
            nursery.start_soon(server.run)
            nursery.start_soon(route)
            yield peer
            nursery.cancel_scope.cancel()
    finally:
        store.close()


@dataclass
class RealNode:
    """A running node process: where it listens, its home, and its log so far."""

    listen: str
    home: Path
    process: trio.Process
    events: list[dict[str, Any]]
    news: trio.Event

    async def logged(self, event: str, **facts: object) -> dict[str, Any]:
        """Wait for an event of its log."""
        return await self.when(lambda entry: entry.get("event") == event and facts.items() <= entry.items())

    async def when(self, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for an entry of its log."""
        with trio.fail_after(PATIENCE_S):
            while True:
                for entry in self.events:
                    if fits(entry):
                        return entry
                await self.news.wait()


@asynccontextmanager
async def real_node(
    folder: Path, genesis: Genesis, key: SecretKey, *, roles: str, peers: Sequence[str] = (), trust: str = ""
) -> AsyncIterator[RealNode]:
    """`python -m deepshard.node` with its home in a folder; a chain that lies there is its own."""
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    text = write_key_file(key, "sesame", ops=argon2id.OPSLIMIT_MIN, memory_bytes=argon2id.MEMLIMIT_MIN)
    for name, content in {"home/key.json": text, "passphrase": "sesame\n"}.items():
        (folder / name).write_text(content)
        (folder / name).chmod(0o600)
    (folder / "genesis.json").write_text(dump_genesis(genesis))
    options: dict[str, object] = {
        "home": home,
        "listen": "127.0.0.1:0",
        "http": "127.0.0.1:0",
        "genesis": folder / "genesis.json",
        "roles": roles,
        "passphrase-file": folder / "passphrase",
        "log-format": "json",
        "peers": ",".join(peers),
        "trust": trust,
    }
    arguments = [part for name, value in options.items() if value for part in (f"--{name}", str(value))]
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", NODE, *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    node = RealNode("", home, process, [], trio.Event())
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_read_log, node)
            node.listen = str((await node.logged("node.ready"))["listen"])
            yield node
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def _read_log(node: RealNode) -> None:
    assert node.process.stderr is not None
    rest = b""
    async for data in node.process.stderr:
        *lines, rest = (rest + data).split(b"\n")
        node.events += [json.loads(line) for line in lines if line.startswith(b"{")]
        node.news.set()
        node.news = trio.Event()
    raise AssertionError(f"the node has ended: {node.events[-3:]} {rest!r}")
