"""An in-memory network: named nodes, links between them, and a hook that loses or alters what travels.

It keeps the contract of `net.types.NetworkPort`, with no sockets and no handshake: messages are encoded and decoded by
the catalogue as on the wire, bulk messages wait for room while others never do, a peer whose score reaches the bound
is disconnected and stays banned.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from itertools import combinations

import trio

from deepshard.encoding import decode, encode
from deepshard.errors import RemoteError
from deepshard.limits import BODY_BYTES_MAX, PEER_SCORE_BAN
from deepshard.net.types import NetworkEvent, PeerDown, PeerInfo, PeerUp, Received
from deepshard.primitives import address_of, tagged_hash
from deepshard.wire.messages import Message, Priority

Tamper = Callable[[str, str, Message, bytes], "tuple[Message, bytes] | None"]
"""Sender, receiver, message and attachment to what arrives instead; None loses it."""


class MemoryPort:
    """One node's end of the network; satisfies `NetworkPort`."""

    def __init__(self, network: MemoryNetwork, info: PeerInfo, name: str, queue_messages: int) -> None:
        self.name = name
        self.info = info
        self.penalties: list[tuple[str, RemoteError]] = []
        """Peers penalised, by name, and why."""
        self.banned: set[str] = set()
        self.linked: dict[bytes, MemoryPort] = {}
        self._network = network
        self._send, self.events = trio.open_memory_channel[NetworkEvent](queue_messages)

    def peers(self) -> Sequence[PeerInfo]:
        """Peers connected now, in the order of their keys."""
        return [self.linked[key].info for key in sorted(self.linked)]

    async def send(
        self,
        peer: bytes,
        message: Message,
        attachment: bytes = b"",
        attachment_digest: bytes | None = None,  # noqa: ARG002  # nothing is signed here
    ) -> bool:
        """Deliver a message; waits for room only when it is bulk. False if the peer is gone."""
        target = self.linked.get(peer)
        if target is None:
            return False
        event = self._travel(target, message, attachment)
        if event is None:
            return True
        if message.PRIORITY is Priority.BULK:
            await target._send.send(event)  # noqa: SLF001  # both ends are this class
        else:
            await trio.lowlevel.checkpoint()
            self._offer(target, event)
        return peer in self.linked

    def broadcast(self, message: Message, *, exclude: Collection[bytes] = ()) -> int:
        """Deliver a message to every peer not excluded, never waiting."""
        targets = [target for key, target in sorted(self.linked.items()) if key not in exclude]
        for target in targets:
            event = self._travel(target, message, b"")
            if event is not None:
                self._offer(target, event)
        return len(targets)

    def penalise(self, peer: bytes, error: RemoteError) -> None:
        """Note the penalty; at `PEER_SCORE_BAN` the peer is disconnected and banned."""
        name = self._network.name_of(peer)
        self.penalties.append((name, error))
        score = sum(past.penalty for culprit, past in self.penalties if culprit == name)
        if score >= PEER_SCORE_BAN:
            self.banned.add(name)
            self._network.disconnect(self.name, name, reason=f"banned: {error}")

    async def deliver(self, put: Callable[[NetworkEvent], Awaitable[None]]) -> None:
        """Hand every event to one service's mailbox, as a router would; runs until cancelled."""
        async for event in self.events:
            await put(event)

    def notify(self, event: NetworkEvent) -> None:
        """Queue an event for this node; one that doesn't read its events is our bug."""
        self._send.send_nowait(event)

    def _travel(self, target: MemoryPort, message: Message, attachment: bytes) -> Received | None:
        arrived: tuple[Message, bytes] | None = (message, attachment)
        if self._network.tamper is not None:
            arrived = self._network.tamper(self.name, target.name, message, attachment)
        if arrived is None:
            return None
        received = decode(encode(arrived[0]), type(arrived[0]), bytes_max=BODY_BYTES_MAX)
        return Received(self.info, received, bytes(arrived[1]))

    def _offer(self, target: MemoryPort, event: Received) -> None:
        try:
            target.notify(event)
        except trio.WouldBlock:
            self._network.disconnect(self.name, target.name, reason="queue is full")


class MemoryNetwork:
    """Nodes by name; `tamper` may be set at any time."""

    def __init__(self) -> None:
        self.tamper: Tamper | None = None
        self._ports: dict[str, MemoryPort] = {}

    def join(
        self,
        name: str,
        *,
        roles: tuple[str, ...] = ("validator",),
        queue_messages: int = 1024,
        public_key: bytes | None = None,
    ) -> MemoryPort:
        """Add a node without links. Its key, unless given, and address follow from its name."""
        assert name not in self._ports
        public_key = public_key or tagged_hash("memory network key", name.encode())
        info = PeerInfo(public_key, address_of(public_key), roles, f"{name}:0", outbound=True)
        port = self._ports[name] = MemoryPort(self, info, name, queue_messages)
        return port

    def connect(self, *names: str) -> None:
        """Link every two of the named nodes, unless one has banned the other."""
        for one, other in combinations((self._ports[name] for name in names), 2):
            if other.info.public_key in one.linked or other.name in one.banned or one.name in other.banned:
                continue
            one.linked[other.info.public_key] = other
            other.linked[one.info.public_key] = one
            one.notify(PeerUp(other.info))
            other.notify(PeerUp(one.info))

    def disconnect(self, one: str, other: str, *, reason: str = "closed") -> None:
        """Cut the link between two nodes, if there is one."""
        for near, far in ((self._ports[one], self._ports[other]), (self._ports[other], self._ports[one])):
            if near.linked.pop(far.info.public_key, None) is not None:
                near.notify(PeerDown(far.info, reason))

    def vanish(self, name: str) -> None:
        """Cut all links of a node, as if its process was killed."""
        for far in list(self._ports[name].linked.values()):
            self.disconnect(name, far.name, reason="connection reset")

    def name_of(self, public_key: bytes) -> str:
        """Name of the node with this key."""
        return next(name for name, port in self._ports.items() if port.info.public_key == public_key)
