"""Validators as real processes on loopback: homes, a genesis, and what the operating system says of them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
from nacl.pwhash import argon2id

from deepshard.chunk_tree import NO_CHUNKS
from deepshard.devnet.genesis import chunk_path
from deepshard.devnet.roster import free_ports
from deepshard.identity import SecretKey, write_key_file
from deepshard.ledger.genesis import dump_genesis
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import Genesis, GenesisAccount, GenesisValidator
from deepshard.primitives import UNITS_PER_TOKEN as TOKEN
from deepshard.primitives import content_digest, expand, tagged_hash
from deepshard.testing.builders import SMALL_PARAMS

CHAIN_ID: Final = "bench"
START_S_MAX: Final = 60.0
PROBES: Final = {name: f"A probe text, {name}.".encode() for name in ("heldout", "general", "canary")}


def key_of(kind: str, number: int) -> SecretKey:
    """The key of a validator or of an account of the load."""
    return SecretKey(expand(f"{kind} {number}".encode(), "bench consensus", 32))


def onion_of(key: SecretKey) -> OnionChain:
    """The hash onion that a node with this key uses."""
    return OnionChain(tagged_hash("onion seed", key.seed))


def genesis_of(validators: Sequence[SecretKey], accounts: Sequence[SecretKey], *, time_ms: int) -> Genesis:
    """Equal validators, rich accounts."""
    return Genesis(
        chain_id=CHAIN_ID,
        time_ms=time_ms,
        params=SMALL_PARAMS,
        validators=tuple(
            GenesisValidator(key.public, 1000 * TOKEN, onion_of(key).tip)
            for key in sorted(validators, key=lambda key: key.address)
        ),
        accounts=tuple(
            GenesisAccount(key.address, 1_000_000 * TOKEN) for key in sorted(accounts, key=lambda key: key.address)
        ),
        manifest=content_digest(b"no model"),
        weights_root=content_digest(b"no weights"),
        chunks_root=NO_CHUNKS,
        shard_count=0,
        heldout=(content_digest(PROBES["heldout"]),),
        general=(content_digest(PROBES["general"]),),
        canaries=(content_digest(PROBES["canary"]),),
    )


@dataclass(slots=True)
class NodeProcess:
    """A validator: its home, where it listens, and its process while it runs."""

    key: SecretKey
    home: Path
    listen: str
    http: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    log_read: int = field(default=0)

    def start(self) -> None:
        """Start the process; its log goes to a file in its home."""
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # ours

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    @property
    def statistics(self) -> psutil.Process:
        """What the operating system says of the process."""
        assert self.process is not None
        return psutil.Process(self.process.pid)

    def news(self) -> Iterator[dict[str, Any]]:
        """Events in the log since the last call, but for a line that isn't complete yet."""
        with (self.home / "log").open("rb") as log:
            log.seek(self.log_read)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self.log_read += len(line)
                if line.startswith(b"{"):
                    yield json.loads(line)

    def wait_for(self, event: str, **facts: object) -> dict[str, Any]:
        """The next event in the log with these facts.

        Raises:
            RuntimeError: the node has ended, or it takes more than `START_S_MAX`.
        """
        assert self.process is not None
        deadline = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline and self.process.poll() is None:
            for entry in self.news():
                if entry.get("event") == event and all(entry.get(name) == value for name, value in facts.items()):
                    return entry
            time.sleep(0.002)
        raise RuntimeError(f"no {event} from {self.home}: {(self.home / 'log').read_text()[-2000:]}")


def prepare(
    folder: Path, validators: Sequence[SecretKey], accounts: Sequence[SecretKey], *, age_ms: int = 0
) -> list[NodeProcess]:
    """Homes, keys and the genesis of a network that began `age_ms` ago; nothing is started."""
    genesis = folder / "genesis.json"
    time_ms = time.time_ns() // 1_000_000 - age_ms
    genesis.write_text(dump_genesis(genesis_of(validators, accounts, time_ms=time_ms)))
    ports = free_ports(2 * len(validators))
    listens = [f"127.0.0.1:{port}" for port in ports[: len(validators)]]
    https = [f"127.0.0.1:{port}" for port in ports[len(validators) :]]
    nodes = []
    for number, (key, listen, http) in enumerate(zip(validators, listens, https, strict=True)):
        home = folder / f"validator-{number}"
        home.mkdir()
        text = write_key_file(key, "sesame", ops=argon2id.OPSLIMIT_MIN, memory_bytes=argon2id.MEMLIMIT_MIN)
        for name, content in {"key.json": text, "passphrase": "sesame\n"}.items():
            (home / name).touch(mode=0o600)
            (home / name).write_text(content)
        for probe in PROBES.values():
            place = chunk_path(home / "chunks", content_digest(probe))
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(probe)
        options = {
            "home": home,
            "listen": listen,
            "peers": ",".join(other for other in listens if other != listen),
            "http": http,
            "genesis": genesis,
            "roles": "validator",
            "passphrase-file": home / "passphrase",
            "log-format": "json",
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        nodes.append(NodeProcess(key, home, listen, http, [sys.executable, "-m", "deepshard.node", *arguments]))
    return nodes


@contextmanager
def running(nodes: Sequence[NodeProcess]) -> Iterator[None]:
    """Start the nodes and wait until each has committed a block; none is left at the end."""
    with ExitStack() as stack:
        for node in nodes:
            stack.callback(_end, node)
            node.start()
        for node in nodes:
            node.wait_for("block.committed")
        yield


def _end(node: NodeProcess) -> None:
    if node.process is not None:
        node.kill()
