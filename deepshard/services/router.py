"""The router: hands each network event to the mailboxes of the services it concerns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import trio

from deepshard.errors import RemoteError
from deepshard.net.types import NetworkEvent, NetworkPort, Received
from deepshard.wire.messages import Message

Put = Callable[[NetworkEvent], Awaitable[None]]


class Router:
    """Routes messages by kind, and peers' coming and going to every `listener`.

    A mailbox that is full makes the router wait, which makes the links wait: back-pressure reaches the peer.
    """

    def __init__(
        self,
        network: NetworkPort,
        events: trio.MemoryReceiveChannel[NetworkEvent],
        routes: Mapping[type[Message], Put],
        listeners: Sequence[Put],
    ) -> None:
        self._network = network
        self._events = events
        self._routes = routes
        self._listeners = listeners

    async def run(self) -> None:
        """Route until the network ends."""
        async for event in self._events:
            if not isinstance(event, Received):
                for listener in self._listeners:
                    await listener(event)
                continue
            put = self._routes.get(type(event.message))
            if put is None:
                error = RemoteError(f"{type(event.message).__name__} is not something this node answers")
                error.penalty = 1
                self._network.penalise(event.peer.public_key, error)
            else:
                await put(event)
