"""A network of one real validator process, the lightest target for the suite: no model, no compute, blocks in seconds.

The genesis gives one account to the suite, and the validator holds one blob, so that every case finds what it needs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio
from nacl.pwhash import argon2id

from deepshard.chunk_tree import NO_CHUNKS
from deepshard.identity import SecretKey, write_key_file
from deepshard.ledger.genesis import dump_genesis
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import Genesis, GenesisAccount, GenesisValidator
from deepshard.primitives import UNITS_PER_TOKEN as TOKEN
from deepshard.primitives import content_digest, expand, tagged_hash
from deepshard.testing.builders import SMALL_PARAMS
from deepshard.testing.chain_history import grow_chain

VALIDATOR = SecretKey(expand(b"validator", "conformance test", 32))
ACCOUNT = SecretKey(expand(b"account", "conformance test", 32))
TEXTS = {name: f"A probe text of the pool {name}. ".encode() * 20_000 for name in ("heldout", "general", "canaries")}
PATIENCE_S = 120.0


def solo_genesis() -> Genesis:
    """One validator, one account."""
    return Genesis(
        chain_id="conformance",
        time_ms=1_700_000_000_000,
        params=SMALL_PARAMS,
        validators=(
            GenesisValidator(VALIDATOR.public, 1000 * TOKEN, OnionChain(tagged_hash("onion seed", VALIDATOR.seed)).tip),
        ),
        accounts=(GenesisAccount(ACCOUNT.address, 5000 * TOKEN), GenesisAccount(VALIDATOR.address, 500 * TOKEN)),
        manifest=content_digest(b"manifest"),
        weights_root=content_digest(b"weights"),
        chunks_root=NO_CHUNKS,
        shard_count=0,
        heldout=(content_digest(TEXTS["heldout"]),),
        general=(content_digest(TEXTS["general"]),),
        canaries=(content_digest(TEXTS["canaries"]),),
    )


@dataclass(frozen=True, slots=True)
class SoloNode:
    """A running validator: where it listens, and the files that the suite is given."""

    listen: str
    genesis: Path
    account: Path
    log: list[bytes]


def prepare(folder: Path) -> list[str]:
    """Write home, genesis and keys; gives the node's command line."""
    home = folder / "home"
    home.mkdir(parents=True)
    key = write_key_file(VALIDATOR, "sesame", ops=argon2id.OPSLIMIT_MIN, memory_bytes=argon2id.MEMLIMIT_MIN)
    for name, text in {"home/key.json": key, "passphrase": "sesame\n", "account": ACCOUNT.seed.hex()}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    (folder / "genesis.json").write_text(dump_genesis(solo_genesis()))
    for probe in TEXTS.values():
        name = content_digest(probe).hex()
        place = home / "chunks" / name[:2] / name[2:]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(probe)
    options = {
        "home": home,
        "listen": "127.0.0.1:0",
        "http": "127.0.0.1:0",
        "genesis": folder / "genesis.json",
        "roles": "validator",
        "passphrase-file": folder / "passphrase",
        "log-format": "json",
    }
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


@asynccontextmanager
async def solo_node(
    folder: Path, *, blocks: int = 2, history: int = 0, command: Sequence[str] = ("-m", "deepshard.node")
) -> AsyncIterator[SoloNode]:
    """A validator in a process of its own, with so many blocks made; `command` may start a broken one.

    Of these it finds `history` on its disk: enough of them, and it has a state to hand over.
    """
    arguments = [sys.executable, *command, *prepare(folder)]
    if history:
        onions = {VALIDATOR.address: OnionChain(tagged_hash("onion seed", VALIDATOR.seed))}
        grow_chain(folder / "home", solo_genesis(), [VALIDATOR], onions, height=history)
    process = await trio.lowlevel.open_process(arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    log: list[bytes] = []
    try:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(PATIENCE_S):
                listen = await nursery.start(_read_log, process, log, blocks)
            yield SoloNode(listen, folder / "genesis.json", folder / "account", log)
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def _read_log(
    process: trio.Process,
    log: list[bytes],
    blocks: int,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep the log read, so that the node never waits for it; started when it is ready and has its blocks."""
    assert process.stderr is not None
    listen, height, rest, is_started = "", 0, b"", False
    async for data in process.stderr:
        *lines, rest = (rest + data).split(b"\n")
        log += lines
        for line in lines if not is_started else ():
            entry = json.loads(line) if line.startswith(b"{") else {}
            if entry.get("event") == "node.ready":
                listen = entry["listen"]
            if entry.get("event") == "block.committed":
                height = entry["height"]
        if not is_started and listen and height >= blocks:
            is_started = True
            task_status.started(listen)
    assert is_started, f"the node has ended: {log[-5:]} {rest!r}"
