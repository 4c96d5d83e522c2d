"""Messages that a node has no service for, and gossip that reaches a light client."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from deepshard.chunk_tree import NO_CHUNKS
from deepshard.disk.journal import Journal
from deepshard.identity import SecretKey
from deepshard.ledger.params import Genesis, GenesisValidator
from deepshard.net.types import NetworkEvent
from deepshard.primitives import UNITS_PER_TOKEN
from deepshard.services.light import LightClient
from deepshard.services.router import Router
from deepshard.testing.builders import SMALL_PARAMS
from deepshard.testing.memory_network import MemoryNetwork
from deepshard.wire.messages import (
    BlockProposal,
    BlocksRequest,
    Graft,
    IDontWant,
    IHave,
    IWant,
    Prune,
    Status,
    Transactions,
    Votes,
)

GENESIS = Genesis(
    chain_id="router-test",
    time_ms=1,
    params=SMALL_PARAMS,
    validators=(GenesisValidator(SecretKey(b"v" * 32).public, 1000 * UNITS_PER_TOKEN, bytes(32)),),
    accounts=(),
    manifest=bytes(32),
    weights_root=bytes(32),
    chunks_root=NO_CHUNKS,
    shard_count=0,
    heldout=(),
    general=(),
    canaries=(),
)


@pytest.mark.clause("6.1/6", "6.3/2")
async def test_what_nobody_answers_costs_a_point_and_not_the_link(autojump_clock: trio.testing.MockClock) -> None:
    network = MemoryNetwork()
    port, peer = network.join("us"), network.join("peer")
    network.connect("us", "peer")
    heard: list[NetworkEvent] = []

    async def hear(event: NetworkEvent) -> None:
        await trio.lowlevel.checkpoint()
        heard.append(event)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Router(port, port.events, {Status: hear}, [hear]).run)
        await peer.send(port.info.public_key, BlocksRequest(1, 1, 1))
        await peer.send(port.info.public_key, Status(5))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [(name, error.penalty) for name, error in port.penalties] == [("peer", 1)]
    assert len(heard) == 2
    assert peer.info.public_key in port.linked


@pytest.mark.clause("6.3/1", "7.1/6")
async def test_a_light_client_takes_no_notice_of_gossip(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    network = MemoryNetwork()
    port, peer = network.join("light", roles=("inference",)), network.join("peer")
    network.connect("light", "peer")
    light = LightClient(genesis=GENESIS, network=port, journal=Journal(tmp_path / "journal"), now_ms=lambda: 2)
    unit = bytes(16)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(light.run)
        nursery.start_soon(port.deliver, light.mailbox.put)
        for message in (
            Votes((b"nothing",)),
            Transactions((b"nothing",)),
            BlockProposal(b"nothing", b""),
            Graft(0),
            Prune(1, 60),
            IHave(0, (unit,)),
            IWant((unit,)),
            IDontWant((unit,)),
        ):
            await peer.send(port.info.public_key, message)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert port.penalties == []
    assert peer.info.public_key in port.linked
