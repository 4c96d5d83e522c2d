"""`deepshard light` as people run it: a process of its own, peers over loopback, a home that outlives kills."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from light_peers import ALICE, VALIDATORS, grow, make_genesis, real_node, shown_chain

from deepshard.cli.main import app
from deepshard.consensus.types import Block
from deepshard.disk.chain import ChainStore
from deepshard.encoding import decode
from deepshard.errors import UsageError
from deepshard.ledger.genesis import dump_genesis
from deepshard.ledger.params import Genesis
from deepshard.limits import BLOCK_BYTES_MAX
from deepshard.primitives import format_address
from deepshard.wire.messages import LightAttackReport

Json = dict[str, Any]
DAY_MS = 24 * 3600 * 1000
HEIGHT = 60


class Client:
    """The command with its home, and the genesis file beside it."""

    def __init__(self, folder: Path, genesis: Genesis) -> None:
        self.home = folder / "reader"
        self.genesis = folder / "genesis.json"
        self.genesis.write_text(dump_genesis(genesis))

    def arguments(self, *arguments: str, peers: Sequence[str] = ()) -> list[str]:
        named = ["--genesis", str(self.genesis), "--peers", ",".join(peers)] if peers else []
        return [sys.executable, "-m", "deepshard.cli.main", "light", *arguments, "--home", str(self.home), *named]

    async def __call__(self, *arguments: str, peers: Sequence[str] = ()) -> tuple[int, str, str]:
        done = await trio.run_process(
            self.arguments(*arguments, peers=peers), capture_stdout=True, capture_stderr=True, check=False
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    async def events(self, *arguments: str, peers: Sequence[str] = ()) -> list[Json]:
        code, out, err = await self(*arguments, "--json", peers=peers)
        assert code == 0, err
        return [json.loads(line) for line in out.splitlines()]

    async def answer(self, *arguments: str, peers: Sequence[str] = ()) -> Json:
        code, out, err = await self(*arguments, "--json", peers=peers)
        assert code == 0, err
        answer: Json = json.loads(out)
        return answer


async def start(
    command: Sequence[str], *, check: bool, task_status: trio.TaskStatus[trio.Process] = trio.TASK_STATUS_IGNORED
) -> None:
    await trio.run_process(command, stdout=subprocess.PIPE, check=check, task_status=task_status)


def headers(events: Sequence[Json]) -> list[Json]:
    return [event for event in events if event["event"] == "header"]


def block_ids(chain: Path, genesis: Genesis) -> dict[int, str]:
    """What the chain in a folder really is."""
    store = ChainStore(chain / "chain.sqlite", genesis_hash=genesis.hash())
    found = {}
    for height in range(1, store.height() + 1):
        stored = store.block(height)
        assert stored is not None
        found[height] = decode(stored.block, Block, bytes_max=BLOCK_BYTES_MAX).header.block_id().hex()
    store.close()
    return found


def complaint(result: tuple[int, str, str], code: int) -> str:
    """The last line of a run that had to end so."""
    returncode, _, err = result
    assert returncode == code, err
    assert "Traceback" not in err
    line = err.splitlines()[-1]
    assert line.startswith("deepshard: ")
    return line


@pytest.fixture(scope="module")
def genesis() -> Genesis:
    return make_genesis()


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, genesis: Genesis) -> Path:
    """A chain of four validators; not to be written to."""
    return grow(tmp_path_factory.mktemp("light") / "chain", genesis, height=HEIGHT)


@pytest.fixture
def client(tmp_path: Path, genesis: Genesis) -> Client:
    return Client(tmp_path, genesis)


@asynccontextmanager
async def peers_of(tmp_path: Path, genesis: Genesis, *chains: Path) -> AsyncIterator[list[str]]:
    """A peer for each chain; gives where they listen."""
    async with AsyncExitStack() as stack:
        listening = []
        for number, chain in enumerate(chains):
            copy = shutil.copytree(chain, tmp_path / f"peer-{number}")
            listening.append((await stack.enter_async_context(shown_chain(copy, genesis))).listen)
        yield listening


async def test_it_follows_real_nodes_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    genesis = make_genesis(VALIDATORS[:1])
    client = Client(tmp_path, genesis)
    solo, follower = tmp_path / "solo", tmp_path / "follower"
    async with (
        real_node(solo, genesis, VALIDATORS[0], roles="validator") as validator,
        real_node(follower, genesis, VALIDATORS[1], roles="informant", peers=[validator.listen]) as other,
    ):
        await other.logged("peer.up")
        peers = [validator.listen, other.listen]
        command = client.arguments("follow", "--json", peers=peers)
        printed: list[Json] = []
        async with trio.open_nursery() as nursery:
            reader = await nursery.start(partial(start, command, check=False))
            assert reader.stdout is not None
            rest = b""
            async for data in reader.stdout:
                *lines, rest = (rest + data).split(b"\n")
                printed += [json.loads(line) for line in lines]
                if len(headers(printed)) >= 3:
                    reader.send_signal(signal.SIGKILL)
        before = headers(printed)
        events = await client.events("follow", "--once")
        after = headers(events)
        assert events[0]["event"] == "started"
        assert events[0]["height"] >= before[-1]["height"]
        committed = {
            entry["height"]: entry["state_root"] for entry in validator.events if entry["event"] == "block.committed"
        }
    both = before + after
    assert {one["height"]: one["state_root"] for one in both}.items() <= committed.items()
    heights = [one["height"] for one in both]
    assert heights == sorted(set(heights))
    assert heights[len(before) :] == [] or heights[len(before)] > events[0]["height"]
    assert {one["proof"] for one in both} <= {"certificate", "parent"}
    for one in both:
        assert one["proof"] == "parent" or one["signed_power"] * 3 > one["total_power"] * 2
        assert len(one["witnesses"]) == 1


async def test_headers_are_lines_and_records_are_proven(
    tmp_path: Path, client: Client, chain: Path, genesis: Genesis
) -> None:
    truth = block_ids(chain, genesis)
    async with peers_of(tmp_path, genesis, chain, chain) as peers:
        code, out, err = await client("follow", "--once", peers=peers)
        assert code == 0, err
        newest = out.splitlines()[-1]
        assert newest.startswith(f"height {HEIGHT}  id {truth[HEIGHT][:16]}  ")
        assert newest.endswith("signed 100% by 4 of 4  peers 2")
        proof = {"height": HEIGHT, "block_id": truth[HEIGHT]}
        account = await client.answer("balance", format_address(ALICE.address))
        assert (account["exists"], account["balance"], account["bonded"]) == (True, 5000 * 10**9, 0)
        assert account["proven_in"].items() >= proof.items()
        bonded = await client.answer("balance", format_address(VALIDATORS[0].address))
        assert (bonded["exists"], bonded["bonded"]) == (False, 1000 * 10**9)
        licence = await client.answer("licence", format_address(ALICE.address))
        assert (licence["licensed"], licence["current_version"]) == (False, 0)
        weights = await client.answer("manifest")
        assert (weights["version"], weights["manifest"]) == (0, genesis.manifest.hex())
        assert weights["proven_in"].items() >= proof.items()


async def test_a_second_peer_can_be_insisted_on(tmp_path: Path, client: Client, chain: Path, genesis: Genesis) -> None:
    async with peers_of(tmp_path, genesis, chain) as peers:
        line = complaint(await client("follow", "--once", "--need-witness", "--timeout", "2", peers=peers), 3)
        assert "only one peer is linked" in line
        events = await client.events("follow", "--once")
    assert next(event["event"] for event in events if event["event"] in {"unwitnessed", "header"}) == "unwitnessed"
    assert headers(events)[-1]["witnesses"] == []


async def test_expired_trust_and_how_a_person_renews_it(tmp_path: Path) -> None:
    genesis = make_genesis(age_ms=9 * DAY_MS)
    client = Client(tmp_path, genesis)
    chain = grow(tmp_path / "chain", genesis, height=9, interval_ms=DAY_MS - 1000)
    truth = block_ids(chain, genesis)
    async with peers_of(tmp_path, genesis, chain, chain) as peers:
        assert "--trust HEIGHT:ID" in complaint(await client("follow", "--once", peers=peers), 4)
        wrong = f"8:{'ab' * 32}"
        line = complaint(await client("follow", "--once", "--trust", wrong, "--timeout", "3"), 3)
        assert f"{truth[8]}, not {'ab' * 32}" in line
        assert "--trust HEIGHT:ID" in complaint(await client("follow", "--once", "--trust", f"1:{truth[1]}"), 4)
        events = await client.events("follow", "--once", "--trust", f"8:{truth[8]}")
        assert [one["height"] for one in headers(events)] == [8, 9]
        assert (await client.answer("manifest"))["proven_in"]["block_id"] == truth[9]


async def test_what_cannot_be_done_is_one_line(tmp_path: Path, client: Client) -> None:
    assert "--genesis FILE" in complaint(await client("follow"), 2)
    assert "is not an address" in complaint(await client("balance", "ds1nonsense"), 2)
    elsewhere, other = make_genesis(VALIDATORS[:1]), tmp_path / "other.json"
    other.write_text(dump_genesis(elsewhere))
    (tmp_path / "elsewhere").mkdir()
    async with shown_chain(tmp_path / "elsewhere", elsewhere) as stranger:
        line = complaint(await client("follow", "--timeout", "1", peers=["127.0.0.1:1", stranger.listen]), 3)
    assert "127.0.0.1:1: all attempts to connect" in line
    assert f"{stranger.listen}: handshake refused by " in line
    assert ", genesis-mismatch: ours " in line
    for arguments, part in {
        ("manifest", "--trust", "7:abc"): "HEIGHT:ID",
        ("follow", "--peers", "127.0.0.1:0"): "nobody can be dialled",
        ("follow", "--peers", ","): "--peers names nobody",
        ("follow", "--genesis", str(tmp_path / "none")): "cannot read the genesis file",
        ("follow", "--genesis", str(other)): "use another --home",
    }.items():
        with pytest.raises(UsageError, match=part):
            app(["light", *arguments, "--home", str(client.home)], standalone_mode=False)


@pytest.mark.clause("10.5/11")
async def test_an_attack_is_written_down_reported_and_remembered(
    tmp_path: Path, client: Client, chain: Path, genesis: Genesis
) -> None:
    fork = shutil.copytree(grow(tmp_path / "common", genesis, height=40), tmp_path / "fork")
    grow(fork, genesis, height=HEIGHT, interval_ms=1010)
    truth, lies = block_ids(chain, genesis), block_ids(fork, genesis)
    assert (truth[40], truth[41] == lies[41]) == (lies[40], False)
    shutil.copytree(chain, tmp_path / "honest" / "home")
    async with (
        real_node(tmp_path / "honest", genesis, ALICE, roles="informant") as one,
        shown_chain(fork, genesis) as liar,
    ):
        code, out, err = await client("follow", "--json", peers=[one.listen, liar.listen])
        assert code == 5, err
        assert all(address in err for address in map(format_address, (key.address for key in VALIDATORS)))
        [attack] = [event for event in map(json.loads, out.splitlines()) if event["event"] == "attack"]
        assert sorted(attack["convicted"]) == sorted(format_address(key.address) for key in VALIDATORS)
        assert attack["block_ids"] == sorted(ids[attack["height"]] for ids in (truth, lies))
        [file] = (client.home / "evidence").iterdir()
        assert attack["evidence"] == str(file)
        reports = {message for message in liar.heard if isinstance(message, LightAttackReport)}
        common = attack["common_height"]
        assert {(report.common_height, report.evidence) for report in reports} == {(common, file.read_bytes())}
        judged = await one.logged("attack.reported")
        assert [false["block_id"] for false in judged["false"]] == [lies[attack["height"]]]
        assert (one.home / "evidence" / file.name).read_bytes() == file.read_bytes()
        verify = ["evidence", "verify", str(file), "--genesis", str(client.genesis), "--json"]
        checked = await trio.run_process([sys.executable, "-m", "deepshard.cli.main", *verify], capture_stdout=True)
        assert sorted(json.loads(checked.stdout)["convicted"]) == sorted(attack["convicted"])
        assert str(file) in complaint(await client("follow", "--once"), 5)
    named = f"{HEIGHT - 5}:{truth[HEIGHT - 5]}"
    async with peers_of(tmp_path, genesis, chain, chain) as peers:
        events = await client.events("follow", "--once", "--trust", named, peers=peers)
    assert headers(events)[-1]["height"] == HEIGHT


async def test_a_damaged_home_is_refused_and_a_busy_one(
    tmp_path: Path, client: Client, chain: Path, genesis: Genesis
) -> None:
    async with peers_of(tmp_path, genesis, chain, chain) as peers:
        await client.events("follow", "--once", peers=peers)
        async with trio.open_nursery() as nursery:
            reader = await nursery.start(partial(start, client.arguments("follow", "--json"), check=True))
            assert reader.stdout is not None
            await reader.stdout.receive_some()
            assert "another light client is running" in complaint(await client("manifest"), 2)
            reader.send_signal(signal.SIGINT)  # and ends with 0: run_process checks
        file = client.home / "light.sqlite"
        data = bytearray(file.read_bytes())
        data[data.index(bytes.fromhex(block_ids(chain, genesis)[HEIGHT])) + 5] ^= 1
        file.write_bytes(data)
        line = complaint(await client("follow", "--once"), 1)
        assert "does not match its checksum" in line
        assert "move" in line
