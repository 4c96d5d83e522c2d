"""The JavaScript light client against real nodes: two validators with a small model, and a licence that was bought."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import trio

from deepshard.chunk_tree import NO_CHUNKS
from deepshard.devnet.client import NodeClient
from deepshard.devnet.plans import LICENCE_PRICE_MAX, params_for, plan_for
from deepshard.devnet.processes import Processes
from deepshard.devnet.roster import Participant, Role, free_ports, node_command, write_home
from deepshard.disk.chunks import ChunkStore
from deepshard.encoding import encode
from deepshard.identity import SecretKey
from deepshard.ledger.genesis import dump_genesis
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import Genesis, GenesisAccount, GenesisValidator
from deepshard.primitives import UNITS_PER_TOKEN, ZERO_DIGEST, content_digest, tagged_hash
from deepshard.shards.codec import encode_entry
from deepshard.shards.manifest import Manifest, TensorEntry, TensorSlice
from deepshard.shards.rules import weights_root

FOLDER = Path(__file__).parents[2] / "protocol-spec/examples/light-client-js"
PATIENCE_S = 120.0
HEIGHT_MIN = 4
"""From where on there is something to skip."""
TENSORS = (
    TensorEntry("layer", "bf16", (1024, 1024)),
    TensorEntry("norm", "f32", (1000,)),
    TensorEntry("codes", "i8", (37,)),
)
CUTS = ((TensorSlice(0, 0, 1024),), (TensorSlice(1, 0, 1000), TensorSlice(2, 0, 37)))


def node() -> str:
    """Node.js, if it is here and new enough."""
    found = shutil.which("node")
    if found is None or shutil.which("npm") is None:
        pytest.skip("Node.js is not here")
    version = subprocess.run([found, "--version"], capture_output=True, check=True, text=True).stdout
    if tuple(int(part) for part in version.strip().lstrip("v").split(".")[:2]) < (20, 19):
        pytest.skip(f"Node.js {version.strip()} is older than 20.19")
    return found


@pytest.fixture(scope="module")
def program() -> list[str]:
    """Command that starts the client, its packages installed."""
    command = [node(), str(FOLDER / "client.js")]
    if not (FOLDER / "node_modules").is_dir():
        subprocess.run(["npm", "ci"], cwd=FOLDER, check=True, capture_output=True)
    return command


def weights() -> tuple[Manifest, list[bytes]]:
    """A manifest of two shards, and every blob of it; the larger chunk takes more than one range."""
    draw = np.random.default_rng(7)
    layer = draw.normal(0, 0.02, (1024, 1024)).astype("<f4").view("<u4") >> 16
    parts = (
        layer.astype("<u2").tobytes(),
        draw.normal(1, 0.1, 1000).astype("<f4").tobytes() + draw.integers(0, 256, 37, "u1").tobytes(),
    )
    made = [encode_entry(TENSORS, cut, part) for cut, part in zip(CUTS, parts, strict=True)]
    entries = tuple(entry for entry, _ in made)
    manifest = Manifest(1, ZERO_DIGEST, weights_root(TENSORS, entries), TENSORS, entries, ())
    return manifest, [encode(manifest), *(chunk for _, chunk in made)]


@dataclass(frozen=True)
class Chain:
    """A running network, and what the client needs to know of it."""

    folder: Path
    peer: str
    genesis: Path
    manifest: Manifest
    buyer: SecretKey


def participants(folder: Path) -> tuple[Participant, ...]:
    places: tuple[tuple[str, Role], ...] = (("first", "validator"), ("second", "validator"), ("buyer", "inference"))
    ports = free_ports(2 * len(places))
    return tuple(
        Participant(
            name=name,
            role=role,
            key=SecretKey(tagged_hash("test seed", name.encode())),
            home=folder / name,
            listen=f"127.0.0.1:{ports[2 * place]}",
            http=f"127.0.0.1:{ports[2 * place + 1]}",
        )
        for place, (name, role) in enumerate(places)
    )


def write_genesis(folder: Path, everyone: tuple[Participant, ...], manifest: Manifest) -> Path:
    genesis = Genesis(
        chain_id="light-client-test",
        time_ms=time.time_ns() // 1_000_000,
        params=params_for(plan_for("tiny")),
        validators=tuple(
            GenesisValidator(
                each.key.public, stake * UNITS_PER_TOKEN, OnionChain(tagged_hash("onion seed", each.key.seed)).tip
            )
            for each, stake in zip(everyone[:2], (1000, 600), strict=True)
        ),
        accounts=tuple(GenesisAccount(each.key.address, 5000 * UNITS_PER_TOKEN) for each in everyone),
        manifest=content_digest(encode(manifest)),
        weights_root=manifest.weights_root,
        chunks_root=NO_CHUNKS,
        shard_count=0,
        heldout=(content_digest(b"h"),),
        general=(content_digest(b"g"),),
        canaries=(content_digest(b"c"),),
    )
    path = folder / "genesis.json"
    path.write_text(dump_genesis(genesis), encoding="utf-8")
    return path


async def buy(clients: tuple[NodeClient, ...]) -> None:
    """Wait until all nodes answer, and buy a licence for the last one."""
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(client.connect)
        await clients[-1].buy_licence(LICENCE_PRICE_MAX)
        for client in clients:
            await client.close()


@pytest.fixture(scope="module")
def chain(program: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Two validators that make blocks and hold the weights, as long as the tests of this module run."""
    folder = tmp_path_factory.mktemp("light-client")
    everyone = participants(folder)
    manifest, blobs = weights()
    genesis = write_genesis(folder, everyone, manifest)
    for each in everyone:
        write_home(each)
    for each in everyone[:2]:
        store = ChunkStore(each.home / "chunks")
        for blob in blobs:
            store.put(blob)
    processes = Processes()
    try:
        for each in everyone:
            command = node_command(each, everyone, python=sys.executable, genesis=genesis, threads=1, leases=())
            processes.start(each.name, command, role=each.role, log_path=folder / f"{each.name}.log")
        trio.run(buy, tuple(NodeClient(each.name, each.home) for each in everyone))
        trio.run(processes.kill, processes.every[-1])  # its key is the light client's now
        options = ["--peer", everyone[0].listen, "--genesis", str(genesis), "--follow", "0", "--json"]
        lines_of(run(program, *options, "--headers", str(HEIGHT_MIN)))  # waits for them
        yield Chain(folder, everyone[0].listen, genesis, manifest, everyone[-1].key)
    finally:
        trio.run(processes.end_all)


def run(program: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*program, *options], capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def lines_of(done: subprocess.CompletedProcess[str]) -> dict[str, list[dict[str, Any]]]:
    """What the client told, by step."""
    assert done.returncode == 0, done.stdout + done.stderr
    steps: dict[str, list[dict[str, Any]]] = {}
    for line in done.stdout.splitlines():
        facts = json.loads(line)
        steps.setdefault(facts.pop("step"), []).append(facts)
    return steps


def test_it_follows_the_chain_and_verifies_a_shard(program: list[str], chain: Chain) -> None:
    seed = chain.folder / "seed"
    seed.write_text(chain.buyer.seed.hex() + "\n")
    options = ["--peer", chain.peer, "--genesis", str(chain.genesis), "--key", str(seed), "--shard", "0", "--json"]
    steps = lines_of(run(program, *options, "--headers", "2", "--follow", "2"))
    headers = steps["header"]
    assert [(each["height"], each["how"]) for each in headers[:2]] == [(1, "sequential"), (2, "sequential")]
    assert headers[2]["how"] == "skipping"
    assert headers[2]["height"] >= HEIGHT_MIN
    assert [each["height"] for each in headers[-2:]] == [headers[-1]["height"] - 1, headers[-1]["height"]]
    assert {(each["power"], each["totalPower"], each["signers"]) for each in headers} == {
        (1600 * 10**9, 1600 * 10**9, 2)
    }
    assert steps["model"][0]["manifest"] == content_digest(encode(chain.manifest)).hex()
    assert steps["licence"][0]["lastVersion"] >= 0
    entry = chain.manifest.shards[0]
    manifest, chunk = steps["blob"]
    assert (chunk["digest"], chunk["bytes"]) == (entry.chunk.hex(), entry.chunk_bytes)
    assert (chunk["blocks"], chunk["requests"]) == (-(-entry.chunk_bytes // 16_384), 2)
    assert (manifest["blocks"], manifest["requests"]) == (1, 1)
    assert steps["shard"] == [
        {
            "shard": 0,
            "codec": "planes",
            "decodedBytes": entry.decoded_bytes,
            "decodedDigest": entry.decoded_digest.hex(),
        }
    ]
    assert steps["done"] == [{"height": headers[-1]["height"]}]


def test_it_begins_from_a_header_that_a_person_names(program: list[str], chain: Chain) -> None:
    options = ["--peer", chain.peer, "--genesis", str(chain.genesis), "--json", "--headers", "1", "--follow", "0"]
    first = lines_of(run(program, *options))["header"][0]
    steps = lines_of(run(program, *options, "--trust", f"{first['height']}:{first['blockId']}"))
    assert [(each["height"], each["how"]) for each in steps["header"][:2]] == [
        (1, "trusted by its id"),
        (2, "sequential"),
    ]
    wrong = run(program, *options, "--trust", f"1:{'ab' * 32}")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)
    assert "InvalidLightBlock" in wrong.stderr


def test_without_a_licence_it_gets_no_weights_and_says_so(program: list[str], chain: Chain) -> None:
    done = run(program, "--peer", chain.peer, "--genesis", str(chain.genesis), "--headers", "0", "--shard", "1")
    assert done.returncode == 1
    assert "licence: proven absent" in done.stdout
    assert done.stderr.startswith("light-client: ")
    assert "NOT_LICENSED" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_node_of_another_network_refuses_it_and_it_says_why(program: list[str], chain: Chain) -> None:
    genesis = msgspec.json.decode(chain.genesis.read_bytes(), type=Genesis)
    other = chain.folder / "other.json"
    other.write_text(dump_genesis(msgspec.structs.replace(genesis, time_ms=genesis.time_ms + 1)))
    done = run(program, "--peer", chain.peer, "--genesis", str(other))
    assert done.returncode == 1
    assert "genesis-mismatch" in done.stderr


def test_a_persons_mistake_is_one_line_and_exit_code_2(program: list[str], tmp_path: Path) -> None:
    genesis = tmp_path / "genesis.json"
    genesis.write_text("[]")
    seed = tmp_path / "seed"
    seed.write_text("12")
    mistakes = [
        ([], "--peer"),
        (["--peer", "127.0.0.1"], "--genesis"),
        (["--peer", "127.0.0.1", "--genesis", "x"], "HOST:PORT"),
        (["--peer", "127.0.0.1:70000", "--genesis", "x"], "HOST:PORT"),
        (["--peer", "h:1", "--genesis", str(tmp_path / "none")], "cannot read the genesis file"),
        (["--peer", "h:1", "--genesis", str(genesis)], "not a genesis file"),
        (["--peer", "h:1", "--genesis", "x", "--headers", "-1"], "--headers"),
        (["--peer", "h:1", "--genesis", "x", "--headers", "many"], "--headers many"),
        (["--peer", "h:1", "--genesis", "x", "--shard", "1.5"], "--shard 1.5"),
        (["--peer", "h:1", "--genesis", "x", "--trust", "5"], "--trust 5"),
        (["--peer", "h:1", "--genesis", "x", "--key", str(seed)], "64 hexadecimal digits"),
        (["--surprise"], "--surprise"),
        (["surprise"], "surprise"),
    ]
    for options, expected in mistakes:
        done = run(program, *options)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), (options, done.stderr)
        assert expected in done.stderr


def test_a_peer_that_is_not_there_is_one_line_and_exit_code_1(program: list[str], chain: Chain) -> None:
    [port] = free_ports(1)
    done = run(program, "--peer", f"127.0.0.1:{port}", "--genesis", str(chain.genesis))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"127.0.0.1:{port}" in done.stderr
