"""`deepshard trace export`: the log of a node tells what its core took in, in order, restarts included."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
import trio
import trio.testing
from typer.testing import CliRunner

from deepshard.chunk_tree import NO_CHUNKS
from deepshard.cli import trace as command
from deepshard.cli.trace_export import export_height
from deepshard.consensus import core
from deepshard.consensus.events import (
    CastVote,
    Input,
    ProposalReceived,
    StartHeight,
    TimeoutElapsed,
    ValueBuilt,
    VoteReceived,
)
from deepshard.consensus.replay import Trace, decode_trace, replay
from deepshard.disk.chain import ChainStore
from deepshard.disk.input_log import LoggedInput, LoggedKind
from deepshard.errors import DiskCorruption, UsageError
from deepshard.identity import SecretKey, write_key_file
from deepshard.ledger.genesis import dump_genesis
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import Genesis, GenesisAccount, GenesisValidator
from deepshard.primitives import UNITS_PER_TOKEN, content_digest
from deepshard.testing.builders import SMALL_PARAMS
from deepshard.testing.chain_cluster import ChainCluster, FullNode
from deepshard.wire.messages import BlockProposal, Message

KEYS = [SecretKey(content_digest(f"validator {number}".encode())) for number in range(4)]
ONIONS = {key.address: OnionChain(key.seed, 200) for key in KEYS}
IN_ORDER = sorted(KEYS, key=lambda key: key.address)
GENESIS = Genesis(
    chain_id="trace-test",
    time_ms=1_700_000_000_000,
    params=SMALL_PARAMS,
    validators=tuple(GenesisValidator(key.public, 1000 * UNITS_PER_TOKEN, ONIONS[key.address].tip) for key in IN_ORDER),
    accounts=tuple(GenesisAccount(key.address, 1000 * UNITS_PER_TOKEN) for key in IN_ORDER),
    manifest=content_digest(b"manifest"),
    weights_root=content_digest(b"weights"),
    chunks_root=NO_CHUNKS,
    shard_count=0,
    heldout=(content_digest(b"h"),),
    general=(content_digest(b"g"),),
    canaries=(content_digest(b"c"),),
)


@contextmanager
def watched() -> Iterator[dict[bytes | None, list[Input]]]:
    """By validator, what its core took in; inputs that changed nothing are left out."""
    seen: dict[bytes | None, list[Input]] = {key.address: [] for key in KEYS}
    apply, start_height = core.apply, core.start_height

    def watched_apply(state: core.State, event: Input) -> core.Transition:
        transition = apply(state, event)
        if transition.state is not state:
            seen[state.me].append(event)
        return transition

    def watched_start(start: StartHeight) -> core.Transition:
        seen[start.me].append(start)
        return start_height(start)

    with patch.object(core, "apply", watched_apply), patch.object(core, "start_height", watched_start):
        yield seen


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[tuple[ChainCluster, list[FullNode]]]:
    async with trio.open_nursery() as nursery:
        running = ChainCluster(GENESIS, ONIONS, folder, nursery)
        nodes = [running.start(f"v{number}", key) for number, key in enumerate(KEYS)]
        running.connect(*nodes)
        yield running, nodes
        nursery.cancel_scope.cancel()


def no_proposals(_: str, __: str, message: Message, attachment: bytes) -> tuple[Message, bytes] | None:
    """No proposal reaches anybody: heights stay undecided, and rounds go by."""
    return None if isinstance(message, BlockProposal) else (message, attachment)


@pytest.fixture
def genesis(tmp_path: Path) -> Path:
    path = tmp_path / "genesis.json"
    path.write_text(dump_genesis(GENESIS), encoding="utf-8")
    for number, key in enumerate(KEYS):
        (tmp_path / f"v{number}").mkdir()
        (tmp_path / f"v{number}" / "key.json").write_text(write_key_file(key, "pass", ops=1, memory_bytes=8192))
        (tmp_path / f"v{number}" / "key.json").chmod(0o600)
    return path


def of_height(inputs: list[Input], height: int) -> list[Input]:
    begins = [number for number, event in enumerate(inputs) if isinstance(event, StartHeight)]
    ends = [*begins[1:], len(inputs)]
    return [
        event
        for begin, end in zip(begins, ends, strict=True)
        if isinstance(start := inputs[begin], StartHeight) and start.height == height
        for event in inputs[begin:end]
    ]


def votes_cast(trace: Trace) -> list[tuple[int, int, bytes]]:
    """Round, kind and block of each vote that the trace casts, once, in order."""
    cast = [
        (effect.round, int(effect.kind), effect.block_id)
        for step in trace.steps
        for effect in step.effects or ()
        if isinstance(effect, CastVote)
    ]
    return list(dict.fromkeys(cast))


def votes_signed(home: Path, height: int) -> list[tuple[int, int, bytes]]:
    store = ChainStore(home / "chain.sqlite", genesis_hash=GENESIS.hash())
    try:
        return [(one.round, int(one.step), one.block_id) for one in store.guard.signed(height) if one.step]
    finally:
        store.close()


async def wait(seconds: float, running: ChainCluster, node: FullNode) -> None:
    with trio.move_on_after(seconds):
        await running.reach(10_000, [node], within_s=10_000)


async def test_the_log_gives_back_what_the_core_took_in(
    tmp_path: Path, genesis: Path, autojump_clock: trio.testing.MockClock
) -> None:
    home = tmp_path / "v0"
    with watched() as seen:
        async with cluster(tmp_path) as (running, nodes):
            inputs = seen[KEYS[0].address]
            await running.reach(2, nodes)
            running.network.tamper = no_proposals
            await wait(60, running, nodes[0])
            await running.stop("v0")
            stuck = nodes[0].view.height + 1
            before = of_height(inputs, stuck)
            first = export_height(home, genesis, None)
            inputs.clear()
            again = running.start("v0", KEYS[0])
            running.connect(again, *nodes[1:])
            await wait(60, running, again)
            await running.stop("v0")
            after = of_height(inputs, stuck)
            second = export_height(home, genesis, stuck)
    taken = [step.input for step in first.trace.steps]
    assert taken == before[: len(taken)]  # what was taken in after the last signature wasn't written
    assert {type(event) for event in taken} >= {StartHeight, VoteReceived, TimeoutElapsed, ValueBuilt, ProposalReceived}
    assert (first.fault, second.fault) == (None, None)
    # After the restart the order of what is recalled is that of the log, and what was lost is not there.
    resumed = [step.input for step in second.trace.steps]
    assert resumed[: len(taken)] == taken
    assert resumed[len(taken)] == after[0]
    assert isinstance(after[0], StartHeight)
    assert after[0].safety is not None
    assert set(map(repr, resumed[len(taken) :])) <= set(map(repr, after)) | set(map(repr, taken))
    assert votes_cast(second.trace) == votes_signed(home, stuck)
    assert len(votes_cast(second.trace)) > len(votes_cast(first.trace)) > 4
    assert list(replay(second.trace)) == []


async def test_the_last_decided_height_ends_with_its_decision(
    tmp_path: Path, genesis: Path, autojump_clock: trio.testing.MockClock
) -> None:
    with watched() as seen:
        async with cluster(tmp_path) as (running, nodes):
            await running.reach(3, nodes)
            await running.stop("v1")
    tip = nodes[1].view.height
    trace = export_height(tmp_path / "v1", genesis, tip).trace
    assert [step.input for step in trace.steps] == of_height(seen[KEYS[1].address], tip)
    last = trace.steps[-1].state
    assert last is not None
    assert last.decision is not None
    assert last.safety.height == tip
    assert any(isinstance(step.input, ProposalReceived) for step in trace.steps)
    assert trace.me == KEYS[1].address


async def stopped(tmp_path: Path) -> Path:
    """The home of a node that has decided two heights."""
    async with cluster(tmp_path) as (running, nodes):
        await running.reach(2, nodes)
        await running.stop("v0")
    return tmp_path / "v0"


async def test_the_command_writes_what_replay_reads(
    tmp_path: Path, genesis: Path, autojump_clock: trio.testing.MockClock
) -> None:
    home, out = await stopped(tmp_path), tmp_path / "trace.json"
    arguments = ["export", "--home", str(home), "--genesis", str(genesis), "--height", "2", str(out)]
    done = CliRunner().invoke(command.app, arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    trace = decode_trace(out.read_bytes())
    last = trace.steps[-1].state
    assert last is not None
    assert last.decision is not None
    assert done.stdout == f"height 2: {len(trace.steps)} steps, decided {last.decision.hex()}\n"
    assert CliRunner().invoke(command.app, ["replay", str(out)]).exit_code == 0


async def test_what_the_log_lacks_is_said(
    tmp_path: Path, genesis: Path, autojump_clock: trio.testing.MockClock
) -> None:
    home, out = await stopped(tmp_path), tmp_path / "trace.json"
    database = sqlite3.connect(home / "chain.sqlite")
    database.execute("UPDATE inputs SET data = x'00' WHERE height = 2 AND seq = 1")
    database.commit()
    database.close()
    arguments = ["export", "--home", str(home), "--genesis", str(genesis), "--height", "2", str(out)]
    done = CliRunner().invoke(command.app, arguments)
    assert done.exit_code == 0
    assert done.stderr == "deepshard: warning: the trace is incomplete: 1 entries are gone or damaged\n"
    assert decode_trace(out.read_bytes()).source.endswith("; 1 entries are gone or damaged")


async def test_a_running_node_and_what_is_no_home_are_refused(
    tmp_path: Path, genesis: Path, autojump_clock: trio.testing.MockClock
) -> None:
    other = tmp_path / "other.json"
    other.write_text(dump_genesis(GENESIS).replace("trace-test", "other-test"), encoding="utf-8")
    async with cluster(tmp_path) as (running, nodes):
        await running.reach(2, nodes)
        with pytest.raises(UsageError, match=r"a node is running in .*v1: stop it first$"):
            export_height(tmp_path / "v1", genesis, None)
        await running.stop("v0")
    home, empty = tmp_path / "v0", tmp_path / "empty"
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: export_height(empty, genesis, None), "has no chain.sqlite"),
        (lambda: export_height(home, other, None), "was made with genesis"),
        (lambda: export_height(home, tmp_path / "nothing", None), "cannot read genesis file"),
        (lambda: export_height(home, genesis, 99), "the log has nothing of height 99: it keeps heights "),
    ]
    for export, words in refused:
        with pytest.raises(UsageError, match=words):
            export()
    assert not empty.exists()


async def test_an_entry_that_is_not_what_it_says_is_refused(
    tmp_path: Path, genesis: Path, autojump_clock: trio.testing.MockClock
) -> None:
    home = await stopped(tmp_path)
    store = ChainStore(home / "chain.sqlite", genesis_hash=GENESIS.hash())
    wanted = store.height() + 1
    store.log.resume(wanted, 0)
    store.log.note(wanted, LoggedInput(LoggedKind.VALUE, b"\x01"))
    store.log.flush()
    store.close()
    with pytest.raises(DiskCorruption, match="has an entry that isn't what it says"):
        export_height(home, genesis, wanted)
