"""How the target comes to dial the suite: by an address that it was started with, and by addresses it is told.

A node dials the addresses that a `Peers` message names. So each listener case listens on a port of its own, tells the
target by a link of its own, and waits for nobody. A target that doesn't follow such invitations redials the address of
`--listen`, in its own time.
"""

from __future__ import annotations

import trio

from deepshard.errors import UsageError
from deepshard.net.endpoints import Endpoint, parse_endpoint
from deepshard.net.listening import bound_endpoint, open_listeners

FRESH_S = 3.0
"""A connection that waited longer may have been given up by the target."""
WAITING_MAX = 8
INVITATION_S = 8.0
"""How long an invitation is waited for by a target of which it isn't known whether it follows any."""
REDIAL_S = 25.0
"""Longest time a target may take to dial, or to dial again; ours doubles its pause up to 8 s."""


class Hub:
    """The address of `--listen`, and what is known of how the target dials."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.host = endpoint.host
        self.follows_invitations: bool | None = None
        self._invited: set[int] = set()
        self._send, self._receive = trio.open_memory_channel[tuple[float, trio.SocketStream]](WAITING_MAX)
        self._one_at_a_time = trio.Lock()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept on the configured port; with port 0 there are only invitations.

        Raises:
            UsageError: the address is taken or isn't ours.
        """
        if self.endpoint.port == 0:
            task_status.started()
            return
        listeners = await open_listeners(self.endpoint)
        task_status.started()
        await trio.serve_listeners(self._keep, listeners)

    async def _keep(self, stream: trio.SocketStream) -> None:
        try:
            self._send.send_nowait((trio.current_time(), stream))
        except trio.WouldBlock:
            await trio.aclose_forcefully(stream)

    async def redialled(self) -> trio.SocketStream | None:
        """The target's next connection to the configured address; None if it doesn't come."""
        if self.endpoint.port == 0:
            return None
        async with self._one_at_a_time:
            with trio.move_on_after(REDIAL_S):
                while True:
                    since, stream = await self._receive.receive()
                    if trio.current_time() - since <= FRESH_S:
                        return stream
                    await trio.aclose_forcefully(stream)
        return None

    @property
    def invitation_s(self) -> float:
        """How long to wait for a target that is told an address: one that has followed before may be busy now."""
        return REDIAL_S if self.follows_invitations else INVITATION_S

    async def own_port(self) -> tuple[Endpoint, trio.SocketListener]:
        """A port of its own on the same host: what to tell the target, and where it then connects.

        No port twice in a run: the target may have given up an address, or pause before it dials it again.
        """
        refused: list[trio.SocketListener] = []
        try:
            while True:
                listener = (await open_listeners(Endpoint(self.host, 0)))[0]
                port = bound_endpoint(listener).port
                if port not in self._invited:
                    self._invited.add(port)
                    return Endpoint(self.host, port), listener
                refused.append(listener)
        finally:
            for each in refused:
                await each.aclose()


def hub_for(text: str) -> Hub:
    """The hub of `--listen`.

    Raises:
        UsageError: not an address that a target can dial.
    """
    endpoint = parse_endpoint(text)
    if endpoint.is_wildcard:
        raise UsageError(f"--listen {text}: name the address by which the target reaches this machine")
    return Hub(endpoint)
