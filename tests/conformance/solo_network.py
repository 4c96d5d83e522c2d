"""A network of one real validator process, the lightest target for the suite: no model, no compute, blocks in seconds.

The genesis gives one account to the suite, and the validator holds one blob, so that every case finds what it needs.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nacl.pwhash import argon2id

from deepshard.identity import SecretKey, write_key_file
from deepshard.ledger.genesis import dump_genesis
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import Genesis, GenesisAccount, GenesisValidator
from deepshard.primitives import UNITS_PER_TOKEN as TOKEN
from deepshard.primitives import content_digest, expand, tagged_hash
from deepshard.testing.builders import SMALL_PARAMS

VALIDATOR = SecretKey(expand(b"validator", "conformance test", 32))
ACCOUNT = SecretKey(expand(b"account", "conformance test", 32))
TEXTS = {name: f"A probe text of the pool {name}. ".encode() * 2000 for name in ("heldout", "general", "canaries")}
PATIENCE_S = 60.0


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
    process: subprocess.Popen[bytes]


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


@contextmanager
def solo_node(folder: Path, command: Sequence[str] = (sys.executable, "-m", "deepshard.node")) -> Iterator[SoloNode]:
    """A validator in a process of its own, with a few blocks made; `command` may start a broken one."""
    arguments = [*command, *prepare(folder)]
    log = (folder / "node.log").open("w+b")
    process = subprocess.Popen(
        arguments,
        stderr=subprocess.PIPE,
        stdout=log,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        listen = _wait_until_ready(process, log)
        yield SoloNode(listen, folder / "genesis.json", folder / "account", process)
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
        log.close()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Any, *, blocks: int = 2) -> str:
    """Read the log until the node has made a few blocks; from then on somebody must go on reading it."""
    assert process.stderr is not None
    listen, rest = "", b""
    lines: list[bytes] = []
    while True:
        ready, _, _ = select.select([process.stderr], [], [], PATIENCE_S)
        data = os.read(process.stderr.fileno(), 1 << 16) if ready else b""
        assert data, f"the node is not ready after {PATIENCE_S} s, or has ended: {lines[-5:]} {rest!r}"
        log.write(data)
        *whole, rest = (rest + data).split(b"\n")
        lines += whole
        for line in whole:
            entry = json.loads(line) if line.startswith(b"{") else {}
            if entry.get("event") == "node.ready":
                listen = entry["listen"]
            if entry.get("event") == "block.committed" and entry["height"] >= blocks:
                threading.Thread(target=_drain, args=(process, log), daemon=True).start()
                return listen


def _drain(process: subprocess.Popen[bytes], log: Any) -> None:
    assert process.stderr is not None
    try:
        while data := os.read(process.stderr.fileno(), 1 << 16):
            log.write(data)
            log.flush()
    except (OSError, ValueError):
        return  # the test has ended
