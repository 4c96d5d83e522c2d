"""Whole chain services over the in-memory network: agreement, catching up, restarts, light clients, bad peers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
import trio
import trio.testing
from msgspec.structs import replace

from deepshard.ballots import Proposal, Vote, VoteKind
from deepshard.chunk_tree import NO_CHUNKS
from deepshard.consensus.types import Block
from deepshard.disk.journal import Journal
from deepshard.encoding import decode, encode
from deepshard.errors import RemoteError, UsageError
from deepshard.identity import SecretKey
from deepshard.ledger.keys import account_key
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import (
    Genesis,
    GenesisAccount,
    GenesisValidator,
)
from deepshard.ledger.records import Account
from deepshard.ledger.transactions import Transfer, sign_transaction
from deepshard.limits import BLOCK_BYTES_MAX
from deepshard.net.types import Received
from deepshard.primitives import UNITS_PER_TOKEN, content_digest
from deepshard.services.executor import SNAPSHOT_BLOCKS
from deepshard.services.pacing import Pacing
from deepshard.services.wallet import IN_FLIGHT, Wallet
from deepshard.testing.builders import SMALL_PARAMS as PARAMS
from deepshard.testing.chain_cluster import ChainCluster, FullNode, until
from deepshard.testing.virtual_time import pass_time
from deepshard.wire.messages import (
    BlockProposal,
    Blocks,
    BlocksRequest,
    Message,
    ProofReply,
    Status,
    Transactions,
    Votes,
)

TOKEN = UNITS_PER_TOKEN
VALIDATORS = [SecretKey(content_digest(f"validator {i}".encode())) for i in range(4)]
ALICE, BOB = SecretKey(content_digest(b"alice")), SecretKey(content_digest(b"bob"))
ONIONS = {key.address: OnionChain(key.seed, 2000) for key in VALIDATORS}
GENESIS = Genesis(
    chain_id="chain-test",
    time_ms=1_700_000_000_000,
    params=PARAMS,
    validators=tuple(
        GenesisValidator(key.public, 1000 * TOKEN, ONIONS[key.address].tip)
        for key in sorted(VALIDATORS, key=lambda key: key.address)
    ),
    accounts=tuple(
        GenesisAccount(key.address, 1000 * TOKEN) for key in sorted((ALICE, BOB), key=lambda key: key.address)
    ),
    manifest=content_digest(b"manifest"),
    weights_root=content_digest(b"weights"),
    chunks_root=NO_CHUNKS,
    shard_count=0,
    heldout=(content_digest(b"h"),),
    general=(content_digest(b"g"),),
    canaries=(content_digest(b"c"),),
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: what is tested is what is written, not how long a disk takes."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[tuple[ChainCluster, list[FullNode]]]:
    async with trio.open_nursery() as nursery:
        running = ChainCluster(GENESIS, ONIONS, folder, nursery)
        nodes = [running.start(f"v{i}", key) for i, key in enumerate(VALIDATORS)]
        running.connect(*nodes)
        yield running, nodes
        nursery.cancel_scope.cancel()


def same_state(nodes: list[FullNode], height: int) -> bool:
    blocks = [node.store.block(height) for node in nodes]
    return None not in blocks and len({block.block for block in blocks if block is not None}) == 1


async def test_validators_agree_and_a_transfer_is_applied(folder: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with cluster(folder) as (running, nodes):
        alice = running.start("alice", ALICE)
        running.connect(alice, nodes[0], nodes[1])
        await alice.wallet.send(Transfer(BOB.address, 7 * TOKEN))
        await running.reach(alice.view.height, nodes)
        await running.reach(6, [*nodes, alice])
        assert same_state([*nodes, alice], 6)
        state = nodes[2].view.state
        assert state.account(BOB.address).balance == 1007 * TOKEN
        assert state.account(ALICE.address).balance == 993 * TOKEN - PARAMS.transaction_fee
        assert state.money() == state.supply().genesis


@pytest.mark.clause("9.6/3", "10.3/1")
async def test_blocks_keep_the_networks_distance_and_do_not_run_ahead_of_the_clock(
    folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    genesis = replace(GENESIS, params=replace(PARAMS, block_interval_ms=700))
    hasty = Pacing(block_interval_s=0.05, empty_block_interval_s=0.05)
    async with trio.open_nursery() as nursery:
        running = ChainCluster(genesis, ONIONS, folder, nursery)
        nodes = [running.start(f"v{i}", key, pacing=hasty) for i, key in enumerate(VALIDATORS)]
        running.connect(*nodes)
        await running.reach(12, nodes)
        assert nodes[0].view.header is not None
        assert nodes[0].view.header.time_ms <= running.now_ms()
        blocks = [nodes[0].store.block(height) for height in range(1, 13)]
        nursery.cancel_scope.cancel()
    times = [decode(one.block, Block, bytes_max=BLOCK_BYTES_MAX).header.time_ms for one in blocks if one is not None]
    apart = [later - earlier for earlier, later in pairwise(times)]
    assert min(apart) >= 700
    assert max(apart) < 1500


@pytest.mark.clause("6.4/6")
async def test_an_impossible_transfer_is_refused_with_its_reason(
    folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with cluster(folder) as (running, nodes):
        alice = running.start("alice", ALICE)
        running.connect(alice, *nodes)
        with pytest.raises(UsageError):
            await alice.wallet.send(Transfer(BOB.address, 2000 * TOKEN))
        await alice.wallet.send(Transfer(BOB.address, 1 * TOKEN))
        assert alice.view.state.account(BOB.address).balance == 1001 * TOKEN


@pytest.mark.clause("6.4/16")
async def test_one_validator_down_and_back(folder: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with cluster(folder) as (running, nodes):
        await running.reach(3, nodes)
        await running.stop("v3")
        rest = nodes[:3]
        reached = max(node.view.height for node in rest)
        await running.reach(reached + 80, rest, within_s=1000)
        back = running.start("v3", VALIDATORS[3])
        running.connect(back, *rest)
        await running.reach(rest[0].view.height + 3, [back, *rest])
        assert back.view.caught_up
        assert same_state([back, *rest], rest[0].view.height - 1)
        proposers = {
            decode(stored.block, Block, bytes_max=BLOCK_BYTES_MAX).header.proposer
            for stored in back.store.blocks(reached + 81, 1000)
        }
        await running.reach(back.view.height + 8, [back, *rest])
        proposers |= {
            decode(stored.block, Block, bytes_max=BLOCK_BYTES_MAX).header.proposer
            for stored in back.store.blocks(reached + 81, 1000)
        }
        assert back.key.address in proposers


async def test_two_of_four_down_decide_nothing_until_one_is_back(
    folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with cluster(folder) as (running, nodes):
        await running.reach(2, nodes)
        await running.stop("v2")
        await running.stop("v3")
        with trio.move_on_after(1.0):
            await running.reach(10_000, nodes[:1], within_s=2000)
        stuck = [node.view.height for node in nodes[:2]]
        with trio.move_on_after(120.0):
            await running.reach(10_000, nodes[:1], within_s=2000)
        assert [node.view.height for node in nodes[:2]] == stuck
        back = running.start("v2", VALIDATORS[2])
        running.connect(back, *nodes[:2])
        await running.reach(max(stuck) + 5, [back, *nodes[:2]], within_s=1000)
        assert same_state([back, *nodes[:2]], max(stuck) + 5)


@pytest.mark.clause("9.7/2")
async def test_all_stop_and_go_on_from_disk(folder: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with cluster(folder) as (running, nodes):
        await running.reach(SNAPSHOT_BLOCKS + 7, nodes, within_s=1000)
        for name in list(running.nodes):
            await running.stop(name)
        heights = {node.name: node.view.height for node in nodes}
        again = [running.start(f"v{i}", key) for i, key in enumerate(VALIDATORS)]
        running.connect(*again)
        await running.reach(max(heights.values()) + 5, again, within_s=1000)
        for node in again:
            assert node.view.height > heights[node.name]
        assert same_state(again, max(heights.values()) + 5)


async def test_restoring_again_leads_to_the_same_tip(folder: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with cluster(folder) as (running, nodes):
        await running.reach(5, nodes)
        executor = nodes[0].chain._executor
        before = (executor.height, executor.tip, executor.state.root, executor.certificate)
        executor.restore()
        assert (executor.height, executor.tip, executor.state.root, executor.certificate) == before
        await running.reach(8, nodes)
        assert same_state(nodes, 8)


async def test_a_light_client_follows_and_reads_proven_records(
    folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with cluster(folder) as (running, nodes):
        light = running.light("light", BOB)
        running.connect(light, nodes[0])
        running.connect(light, nodes[1])
        await light.wallet.send(Transfer(ALICE.address, 3 * TOKEN))
        assert (await light.client.account(ALICE.address)).balance == 1003 * TOKEN
        assert await light.client.licence(BOB.address) is None
        assert (await light.client.current_model()).manifest == GENESIS.manifest
        trusted = light.client.trusted
        assert trusted.header is not None
        await running.reach(trusted.height, nodes)
        stored = nodes[3].store.block(trusted.height)
        assert stored is not None
        assert decode(stored.block, Block, bytes_max=BLOCK_BYTES_MAX).header == trusted.header


@pytest.mark.clause("6.4/18", "6.4/20")
async def test_a_light_client_does_not_believe_a_lying_peer(
    folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with cluster(folder) as (running, nodes):
        liar = nodes[0].port.name

        def lie(sender: str, receiver: str, message: Message, attachment: bytes) -> tuple[Message, bytes]:
            if sender == liar and isinstance(message, ProofReply) and message.value is not None:
                rich = msgspec.structs.replace(
                    decode(message.value, Account, bytes_max=1000), balance=1_000_000 * TOKEN
                )
                return msgspec.structs.replace(message, value=encode(rich)), attachment
            return message, attachment

        running.network.tamper = lie
        light = running.light("light", BOB)
        running.connect(light, nodes[0])
        running.connect(light, nodes[1])
        record = await light.client.record(account_key(ALICE.address), Account)
        for _ in range(3):
            record = await light.client.record(account_key(ALICE.address), Account)
            assert record is not None
            assert record.balance == 1000 * TOKEN


@pytest.mark.clause("6.4/9", "6.4/10", "6.4/13", "13.1/2")
async def test_forged_votes_and_swapped_blocks_cost_the_sender_and_stop_nobody(
    folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with cluster(folder) as (running, nodes):
        await running.reach(2, nodes)
        mallory = running.network.join("mallory")
        running.network.connect("mallory", nodes[0].port.name)
        key = nodes[0].port.info.public_key
        height = nodes[0].view.height + 1
        vote = Vote(
            kind=VoteKind.PREVOTE,
            height=height,
            round=0,
            valid_round=-1,
            block_id=bytes(32),
            validator=VALIDATORS[1].address,
            signature=bytes(64),
        )
        await mallory.send(key, Votes((encode(vote),)))
        await mallory.send(key, Votes((b"\xc1garbage",)))
        proposal = Proposal(height, 0, -1, bytes(32), VALIDATORS[1].address, bytes(64))
        await mallory.send(key, BlockProposal(encode(proposal), b"\x90"))
        await mallory.send(key, Blocks(1, ((b"a", b"b"),)))
        await running.reach(height + 4, nodes)
        penalised = [(name, type(error).__mro__) for name, error in nodes[0].port.penalties]
        assert penalised
        assert {name for name, _ in penalised} == {"mallory"}
        assert all(RemoteError in lineage for _, lineage in penalised)
        assert "mallory" in nodes[0].port.banned
        assert same_state(nodes, height + 4)


@pytest.mark.clause("6.4/4")
async def test_a_peer_that_claims_the_sky_delays_nobody(folder: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with cluster(folder) as (running, nodes):
        await running.reach(3, nodes)
        liar = running.network.join("liar")
        late = running.start("late", ALICE)
        running.network.connect("liar", late.port.name)
        await liar.send(late.port.info.public_key, Status(2**40))
        running.connect(late, nodes[0])

        async def insist(event: object) -> None:
            if isinstance(event, Received) and isinstance(event.message, BlocksRequest):
                await liar.send(event.peer.public_key, Blocks(event.message.request, ()))
                await liar.send(event.peer.public_key, Status(2**40))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(liar.deliver, insist)
            await running.reach(nodes[0].view.height + 3, [late])
            await until(lambda: late.view.caught_up, late.view, within_s=30)
            nursery.cancel_scope.cancel()
        assert same_state([late, *nodes], 3)


async def test_a_transaction_that_was_lost_travels_again(folder: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with cluster(folder) as (running, nodes):
        lost: list[bytes] = []

        def lose_the_first(
            sender: str, receiver: str, message: Message, attachment: bytes
        ) -> tuple[Message, bytes] | None:
            if isinstance(message, Transactions) and len(lost) < 2:
                lost.extend(message.transactions)
                return None
            return message, attachment

        running.network.tamper = lose_the_first
        light = running.light("light", BOB)
        running.connect(light, nodes[0])
        running.connect(light, nodes[1])
        await light.wallet.send(Transfer(ALICE.address, 3 * TOKEN))
        assert len(lost) == 2
        assert (await light.client.account(ALICE.address)).balance == 1003 * TOKEN


async def test_what_was_in_flight_is_settled_before_anything_else(
    folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with cluster(folder) as (running, nodes):
        await running.reach(2, nodes)
        journal = Journal(folder / "wallet.sqlite")
        journal.put(IN_FLIGHT, sign_transaction(ALICE, GENESIS.chain_id, 0, Transfer(BOB.address, 5 * TOKEN)))
        wallet = Wallet(ALICE, GENESIS.chain_id, nodes[0].chain, journal=journal)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wallet.run)
            await wallet.send(Transfer(BOB.address, 1 * TOKEN))
            nursery.cancel_scope.cancel()
        state = nodes[0].view.state
        assert state.account(BOB.address).balance == 1006 * TOKEN
        assert state.account(ALICE.address).nonce == 2
        assert journal.get(IN_FLIGHT) == b""
        # One that was included before the restart is not sent again.
        journal.put(IN_FLIGHT, sign_transaction(ALICE, GENESIS.chain_id, 0, Transfer(BOB.address, 5 * TOKEN)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Wallet(ALICE, GENESIS.chain_id, nodes[0].chain, journal=journal).run)
            await running.reach(nodes[0].view.height + 3, nodes)
            nursery.cancel_scope.cancel()
        assert nodes[0].view.state.account(BOB.address).balance == 1006 * TOKEN
        journal.close()


async def test_a_follower_that_only_hears_one_node_keeps_up(
    folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with cluster(folder) as (running, nodes):
        follower = running.start("follower", ALICE)
        running.connect(follower, nodes[2])
        await running.reach(12, [follower, *nodes])
        await until(lambda: follower.view.caught_up, follower.view)
        assert same_state([follower, *nodes], 12)


async def test_who_missed_the_last_block_of_all_still_learns_of_it(
    folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with cluster(folder) as (running, nodes):
        follower = running.start("follower", ALICE)
        running.connect(follower, nodes[0])
        await running.reach(3, [follower])

        def lose_all(sender: str, receiver: str, message: Message, attachment: bytes) -> tuple[Message, bytes] | None:
            return None if receiver == follower.port.name else (message, attachment)

        running.network.tamper = lose_all
        await running.reach(follower.view.height + 1, [nodes[0]])
        await running.stop("v2")
        await running.stop("v3")  # nobody decides from now on
        await pass_time(5)
        missed = nodes[0].view.height
        assert follower.view.height < missed
        running.network.tamper = None
        await running.reach(missed, [follower], within_s=30)
