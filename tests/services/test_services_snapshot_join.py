"""Joining by a snapshot under the virtual clock: with liars, slow and vanishing peers, and over a restart."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from msgspec.structs import replace
from test_services_chain import ALICE, GENESIS, ONIONS, VALIDATORS, folder, same_state

from deepshard.consensus.types import Block
from deepshard.encoding import decode, encode
from deepshard.ledger import state as state_module
from deepshard.ledger.trie_chunks import InvalidStateChunk, StateChunk, chunk_at
from deepshard.limits import BLOCK_BYTES_MAX, BODY_BYTES_MAX
from deepshard.net.types import Received
from deepshard.services.catching_up import SnapshotPolicy
from deepshard.testing.chain_cluster import ChainCluster, FullNode
from deepshard.testing.chain_history import grow_chain
from deepshard.testing.memory_network import Tamper
from deepshard.testing.virtual_time import pass_time
from deepshard.wire.messages import Blocks, Message, SnapshotChunk, Snapshots, Status

__all__ = ["folder"]
HEIGHT = 420
NETWORK = ("v0", "v1", "v2", "v3")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state of some kilobytes makes a dozen chunks."""
    monkeypatch.setattr(state_module, "chunk_at", partial(chunk_at, bytes_max=400))


@asynccontextmanager
async def grown(folder: Path, names: tuple[str, ...] = NETWORK) -> AsyncIterator[tuple[ChainCluster, list[FullNode]]]:
    """A network that has decided some hundred blocks and goes on; the clock is past the last block's time."""
    await pass_time(HEIGHT + 5)
    async with trio.open_nursery() as nursery:
        running = ChainCluster(GENESIS, ONIONS, folder, nursery)
        first = running.folder_of(names[0])
        grow_chain(first, GENESIS, VALIDATORS, ONIONS, height=HEIGHT)
        for name in names[1:]:
            shutil.copytree(first, folder / name)
        nodes = [running.start(name, key) for name, key in zip(names, VALIDATORS, strict=True)]
        running.connect(*nodes)
        yield running, nodes
        nursery.cancel_scope.cancel()


def chunks_to(name: str, sent: Counter[str], inner: Tamper | None = None) -> Tamper:
    """Counts the chunks that reach a node, by sender."""

    def tamper(sender: str, receiver: str, message: Message, attachment: bytes) -> tuple[Message, bytes] | None:
        arrived = (message, attachment) if inner is None else inner(sender, receiver, message, attachment)
        if arrived is not None and receiver.startswith(name) and isinstance(arrived[0], SnapshotChunk):
            sent[sender.partition("#")[0]] += arrived[0].chunk is not None
        return arrived

    return tamper


@pytest.mark.clause("6.4/26", "6.4/29")
async def test_a_fresh_node_joins_by_a_snapshot_while_the_network_moves(
    folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with grown(folder) as (running, nodes):
        sent: Counter[str] = Counter()
        running.network.tamper = chunks_to("late", sent)
        late = running.start("late", ALICE)
        running.connect(late, *nodes)
        await running.reach(HEIGHT + 5, [late, *nodes], within_s=60)
        assert late.store.base == 400
        assert late.store.block(399) is None
        assert same_state([late, *nodes], 400)
        assert same_state([late, *nodes], HEIGHT + 5)
        assert len(sent) >= 3, "several peers are asked"
        assert late.view.caught_up
        assert [name for name, _ in late.port.penalties] == []


@pytest.mark.clause("6.4/28", "10.8/4")
async def test_a_liar_a_slow_peer_and_one_that_vanishes_stop_nobody(
    folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with grown(folder) as (running, nodes):
        liar, slow, leaving, _ = (node.port.name for node in nodes)
        vanished: list[str] = []

        def misbehave(sender: str, receiver: str, message: Message, attachment: bytes) -> tuple[Message, bytes] | None:
            if not receiver.startswith("late") or not isinstance(message, SnapshotChunk) or message.chunk is None:
                return message, attachment
            if sender == slow:
                return None
            if sender == leaving:
                vanished.append(sender)
                running.network.disconnect(sender, receiver)
                return None
            if sender == liar:
                chunk = decode(message.chunk, StateChunk, bytes_max=BODY_BYTES_MAX)
                (key, value), *rest = chunk.entries
                forged = replace(chunk, entries=((key, value + b"!"), *rest))
                return replace(message, chunk=encode(forged)), attachment
            return message, attachment

        sent: Counter[str] = Counter()
        running.network.tamper = chunks_to("late", sent, misbehave)
        late = running.start("late", ALICE)
        running.connect(late, *nodes)
        await running.reach(HEIGHT + 5, [late], within_s=200)
        assert late.store.base >= 400
        assert same_state([late, *nodes], late.store.base)
        assert vanished
        assert {(name, type(error)) for name, error in late.port.penalties} == {(liar, InvalidStateChunk)}
        assert sent["v0"] <= 2, "a liar isn't asked again"


async def test_killed_in_the_middle_it_goes_on_with_the_chunks_that_it_has(
    folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with grown(folder) as (running, nodes):
        sent: Counter[str] = Counter()

        def only_a_few(sender: str, receiver: str, message: Message, attachment: bytes) -> tuple[Message, bytes] | None:
            cut = receiver.startswith("late") and isinstance(message, SnapshotChunk) and sent.total() >= 5
            return None if cut else (message, attachment)

        running.network.tamper = chunks_to("late", sent, only_a_few)
        late = running.start("late", ALICE)
        running.connect(late, *nodes)
        await pass_time(3.0)
        assert late.view.height == 0
        assert late.store.part_heights() == [400]
        await running.stop("late")
        first, sent_again = sent.total(), Counter[str]()
        running.network.tamper = chunks_to("late", sent_again)
        late = running.start("late", ALICE)
        running.connect(late, *nodes)
        await running.reach(HEIGHT + 5, [late], within_s=60)
        assert late.store.base == 400
        assert late.store.part_heights() == []
        whole = Counter[str]()
        running.network.tamper = chunks_to("other", whole)
        other = running.start("other", VALIDATORS[0])
        running.connect(other, *nodes)
        await running.reach(HEIGHT + 8, [other], within_s=60)
        assert sent_again.total() <= whole.total() - first + 1, "what was verified isn't asked for again"


async def test_claims_and_offers_that_nobody_can_prove_cost_little(
    folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with grown(folder) as (running, nodes):
        liar = nodes[0].port.name

        def boast(sender: str, receiver: str, message: Message, attachment: bytes) -> tuple[Message, bytes]:
            if sender == liar and receiver.startswith("late") and isinstance(message, Snapshots):
                return replace(message, heights=(50_000, 60_000)), attachment
            if sender == liar and receiver.startswith("late") and isinstance(message, Status):
                return Status(2**40), attachment
            return message, attachment

        running.network.tamper = boast
        late = running.start("late", ALICE)
        running.connect(late, *nodes)
        await running.reach(HEIGHT + 5, [late], within_s=60)
        assert late.store.base == 400


async def test_without_offers_or_with_snapshots_off_all_blocks_are_fetched(
    folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with grown(folder) as (running, nodes):

        def nothing_offered(sender: str, receiver: str, message: Message, attachment: bytes) -> tuple[Message, bytes]:
            return (replace(message, heights=()) if isinstance(message, Snapshots) else message), attachment

        running.network.tamper = nothing_offered
        unlucky = running.start("unlucky", ALICE)
        never = running.start("never", ALICE, snapshots=SnapshotPolicy(gap_blocks=0))
        for node in (unlucky, never):
            running.connect(node, *nodes)
        await running.reach(HEIGHT + 5, [unlucky, never], within_s=60)
        for node in (unlucky, never):
            assert node.store.base == 1
            assert node.store.block(1) is not None


async def test_expired_trust_is_said_and_the_blocks_are_executed_instead(
    folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with grown(folder) as (running, nodes):
        late = running.start("late", ALICE, snapshots=SnapshotPolicy(trusting_period_ms=1000))
        running.connect(late, *nodes)
        await running.reach(HEIGHT + 5, [late], within_s=60)
        assert late.store.base == 1


def named(node: FullNode, height: int) -> tuple[int, bytes]:
    """A block as a person would name it."""
    stored = node.store.block(height)
    assert stored is not None
    return height, decode(stored.block, Block, bytes_max=BLOCK_BYTES_MAX).header.block_id()


@pytest.mark.clause("10.5/8")
@pytest.mark.parametrize("height", [380, 400, 417])
async def test_a_named_block_leads_to_a_state_below_it_at_it_and_above_it(
    folder: Path, autojump_clock: trio.testing.MockClock, height: int
) -> None:
    async with grown(folder) as (running, nodes):
        policy = SnapshotPolicy(trusting_period_ms=100_000, named=named(nodes[0], height))
        late = running.start("late", ALICE, snapshots=policy)
        running.connect(late, *nodes)
        await running.reach(HEIGHT + 5, [late], within_s=60)
        assert late.store.base == 400
        assert same_state([late, *nodes], HEIGHT + 5)
        assert late.port.penalties == []


@pytest.mark.clause("10.3/9", "10.5/8")
@pytest.mark.parametrize("gap", [0, 200])
async def test_a_chain_without_the_named_block_is_followed_up_to_it_and_nobody_is_blamed(
    folder: Path, autojump_clock: trio.testing.MockClock, gap: int
) -> None:
    async with grown(folder) as (running, nodes):
        policy = SnapshotPolicy(gap_blocks=gap, named=(390, bytes(32)))
        late = running.start("late", ALICE, snapshots=policy)
        running.connect(late, *nodes)
        await running.reach(389, [late], within_s=60)
        await pass_time(30)
        assert (late.view.height, late.store.base) == (389, 1)
        assert sum(error.penalty for _, error in late.port.penalties) == 0


@pytest.mark.clause("6.4/16")
async def test_blocks_come_from_several_peers_past_one_that_forges_and_one_that_is_slow(
    folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with grown(folder) as (running, nodes):
        forger, slow = nodes[0].port.name, nodes[1].port.name
        sent: Counter[str] = Counter()

        def tamper(sender: str, receiver: str, message: Message, attachment: bytes) -> tuple[Message, bytes] | None:
            if not receiver.startswith("late") or not isinstance(message, Blocks) or not message.blocks:
                return message, attachment
            sent[sender] += len(message.blocks)
            if sender == slow:
                return None
            if sender == forger:
                (block, certificate), *rest = message.blocks
                damaged = bytearray(certificate)
                damaged[-1] ^= 1
                return replace(message, blocks=((block, bytes(damaged)), *rest)), attachment
            return message, attachment

        running.network.tamper = tamper
        late = running.start("late", ALICE, snapshots=SnapshotPolicy(gap_blocks=0))
        running.connect(late, *nodes)
        await running.reach(HEIGHT + 5, [late], within_s=60)
        assert same_state([late, *nodes], HEIGHT)
        assert {name for name, _ in late.port.penalties} == {forger}
        assert min(sent[nodes[2].port.name], sent[nodes[3].port.name]) > 100, "the work is shared"


@pytest.mark.clause("6.4/25")
async def test_a_state_that_is_being_fetched_stays_on_offer_when_newer_ones_have_come(
    folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with grown(folder) as (running, nodes):
        under_way: list[Received] = []

        def slowly(sender: str, receiver: str, message: Message, attachment: bytes) -> tuple[Message, bytes] | None:
            if not receiver.startswith("late") or not isinstance(message, SnapshotChunk) or message.chunk is None:
                return message, attachment
            info = next(node.port.info for node in nodes if node.port.name == sender)
            under_way.append(Received(info, message, attachment))
            return None

        async def arrive() -> None:
            """One chunk in three seconds reaches the joining node, in the order in which they were sent."""
            while True:
                await pass_time(3)
                if under_way:
                    late.port.notify(under_way.pop(0))

        running.network.tamper = slowly
        late = running.start("late", ALICE)
        running.connect(late, *nodes)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(arrive)
            await running.reach(400, [late], within_s=600)
            nursery.cancel_scope.cancel()
        assert late.store.base == 400
        assert nodes[0].view.height > 500  # 400 wasn't among the newest two any more
