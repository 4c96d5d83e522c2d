"""Whom a light client asks for headers, when some peers claim more than they show."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing
from test_services_router import GENESIS

from deepshard.disk.journal import Journal
from deepshard.net.types import Received
from deepshard.services.light import QUERY_TIMEOUT_S, LightClient
from deepshard.testing.memory_network import MemoryNetwork, MemoryPort
from deepshard.testing.virtual_time import pass_time
from deepshard.wire.messages import Headers, HeadersRequest, Status


@pytest.mark.parametrize("liar_answers", [False, True])
async def test_a_peer_that_claims_heights_and_shows_nothing_is_asked_after_the_others(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    liar_answers: bool,  # noqa: FBT001
) -> None:
    network = MemoryNetwork()
    port = network.join("light", roles=("inference",))
    peers = {name: network.join(name) for name in ("liar", "honest")}
    network.connect("light", "liar")
    network.connect("light", "honest")
    light = LightClient(genesis=GENESIS, network=port, journal=Journal(tmp_path / "journal"), now_ms=lambda: 2)
    asked: list[str] = []

    async def listen(name: str, peer: MemoryPort) -> None:
        async for event in peer.events:
            if isinstance(event, Received) and isinstance(event.message, HeadersRequest):
                asked.append(name)
                if name == "liar" and liar_answers:
                    await peer.send(port.info.public_key, Headers(event.message.request, ()))
                    await peer.send(port.info.public_key, Status(2**60))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(light.run)
        nursery.start_soon(port.deliver, light.mailbox.put)
        for name, peer in peers.items():
            nursery.start_soon(listen, name, peer)
        await peers["liar"].send(port.info.public_key, Status(2**60))
        await peers["honest"].send(port.info.public_key, Status(5))
        await pass_time(3 * QUERY_TIMEOUT_S)
        nursery.cancel_scope.cancel()
    assert asked[:2] == ["liar", "honest"]
    assert asked.count("honest") >= 1


async def test_an_answer_by_somebody_else_does_not_end_the_question(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    network = MemoryNetwork()
    port, asked, other = network.join("light", roles=("inference",)), network.join("asked"), network.join("other")
    network.connect("light", "asked", "other")
    light = LightClient(genesis=GENESIS, network=port, journal=Journal(tmp_path / "journal"), now_ms=lambda: 2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(light.run)
        nursery.start_soon(port.deliver, light.mailbox.put)
        await asked.send(port.info.public_key, Status(5))
        await trio.testing.wait_all_tasks_blocked()
        [question] = [event async for event in _received(asked)]
        await other.send(port.info.public_key, Headers(question.request, ()))
        await trio.testing.wait_all_tasks_blocked()
        before = light.primary
        await asked.send(port.info.public_key, Headers(question.request, ()))
        await trio.testing.wait_all_tasks_blocked()
        assert (before, light.primary) == (asked.info.public_key, None)
        nursery.cancel_scope.cancel()


async def _received(port: MemoryPort) -> AsyncIterator[HeadersRequest]:
    """Requests that have come so far."""
    await trio.lowlevel.checkpoint()
    while True:
        try:
            event = port.events.receive_nowait()
        except trio.WouldBlock:
            return
        if isinstance(event, Received) and isinstance(event.message, HeadersRequest):
            yield event.message
