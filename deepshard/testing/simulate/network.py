"""The simulated network: links with delay, loss, reordering, duplication, one-way partitions and breaks.

A port keeps the contract of `net.types.NetworkPort`. Messages are frozen values, so they travel as they are; their
size is that of their encoding, taken once for all receivers. Whatever chance a link needs comes from a generator of
that link, so links don't influence each other.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import trio

from deepshard.encoding import encode
from deepshard.errors import RemoteError
from deepshard.limits import PEER_SCORE_BAN
from deepshard.net.types import NetworkEvent, PeerDown, PeerInfo, PeerUp, Received
from deepshard.testing.simulate.log import EventLog
from deepshard.testing.simulate.plan import Fault, chance
from deepshard.wire.messages import Message, Votes

TICK_S = 0.001
"""Messages arrive at whole milliseconds, so that those of one arrive together."""
Rewrite = Callable[["Port", Message], Sequence[Message]]
"""Receiver and message to what is sent instead."""


@dataclass(slots=True)
class _Link:
    """One direction between two nodes."""

    rng: random.Random
    latency_s: float
    faults: list[Fault] = field(default_factory=list)
    last_arrival: float = 0.0


class Port:
    """One running instance of a node; satisfies `NetworkPort`."""

    def __init__(self, network: Network, name: str, number: int, info: PeerInfo) -> None:
        self.name, self.number, self.info = name, number, info
        self.links: dict[bytes, Port] = {}
        self.banned: set[bytes] = set()
        self.take: Callable[[NetworkEvent], bool] | None = None
        """Hands an event to the node's services; False if there is no room."""
        self.rewrite: Rewrite | None = None
        self.on_send: Callable[[Port, Message], None] | None = None
        self.received: Counter[str] = Counter()
        self.received_bytes: Counter[str] = Counter()
        self.busy_until = 0.0
        self.closed = False
        self._network = network
        self._penalties: Counter[bytes] = Counter()
        self._peers: list[PeerInfo] | None = None

    def peers(self) -> Sequence[PeerInfo]:
        """Peers connected now, in the order of their keys."""
        if self._peers is None:
            self._peers = [self.links[key].info for key in sorted(self.links)]
        return self._peers

    async def send(
        self,
        peer: bytes,
        message: Message,
        attachment: bytes = b"",
        attachment_digest: bytes | None = None,  # noqa: ARG002  # nothing is checked here
    ) -> bool:
        """Send; False if the peer is gone."""
        await trio.lowlevel.checkpoint()
        target = self.links.get(peer)
        if target is None or self.closed:
            return False
        self._post((target,), message, attachment)
        return True

    def broadcast(self, message: Message, *, exclude: Collection[bytes] = ()) -> int:
        """Send to every peer not excluded."""
        if self.closed:
            return 0
        targets = [self.links[info.public_key] for info in self.peers() if info.public_key not in exclude]
        self._post(targets, message, b"")
        return len(targets)

    def penalise(self, peer: bytes, error: RemoteError) -> None:
        """Count the penalty; at `PEER_SCORE_BAN` the link is closed for good."""
        self._penalties[peer] += error.penalty
        target = self.links.get(peer)
        if target is None:
            return
        self._network.log.seen["peer.penalised"] += 1
        self._network.on_penalty(self, target, error)
        if self._penalties[peer] >= PEER_SCORE_BAN:
            self._network.log.seen["peer.banned"] += 1
            self._network.log.add("banned", self.name, peer=target.name, error=str(error)[:200])
            self.banned.add(peer)
            self._network.cut(self, target, "banned")

    def close(self) -> None:
        """The process is gone, and its links with it."""
        self.closed = True
        for other in list(self.links.values()):
            self._network.cut(self, other, "connection reset")

    def forget_peers(self) -> None:
        """The links changed."""
        self._peers = None

    def _post(self, targets: Sequence[Port], message: Message, attachment: bytes) -> None:
        if self.rewrite is None:
            self._post_as_is(targets, message, attachment)
            return
        for target in targets:
            for changed in self.rewrite(target, message):
                self._post_as_is((target,), changed, attachment)

    def _post_as_is(self, targets: Sequence[Port], message: Message, attachment: bytes) -> None:
        if not targets:
            return
        if self.on_send is not None:
            self.on_send(self, message)
        event = Received(self.info, message, attachment)
        size = len(encode(message)) + len(attachment)
        for target in targets:
            self._network.post(self, target, event, size)


class Network:
    """All links. `run` delivers; `link` and `cut` make and break connections between running ports."""

    def __init__(self, seed: int, latency_s: tuple[float, float], log: EventLog) -> None:
        self.log = log
        self.on_penalty: Callable[[Port, Port, RemoteError], None] = lambda _a, _b, _c: None
        self.slow: dict[int, float] = {}
        """Seconds that a message takes a node, by number."""
        self._seed, self._latency_s = seed, latency_s
        self._links: dict[tuple[int, int], _Link] = {}
        self._active: defaultdict[tuple[int, int], list[Fault]] = defaultdict(list)
        self._heap: list[tuple[float, int, Port, Received | PeerUp | PeerDown, int]] = []
        self._count = 0
        self._scope = trio.CancelScope()

    # -- links -------------------------------------------------------------------------------------------------------

    def link(self, one: Port, other: Port) -> None:
        """Connect two running nodes, unless they are, or one has banned the other."""
        keys = one.info.public_key, other.info.public_key
        is_up = keys[1] in one.links or keys[0] in other.links
        if is_up or one.closed or other.closed or keys[1] in one.banned or keys[0] in other.banned:
            return
        one.links[keys[1]], other.links[keys[0]] = other, one
        for near, far in ((one, other), (other, one)):
            near.forget_peers()
            self._hand(near, PeerUp(far.info))

    def cut(self, one: Port, other: Port, reason: str) -> None:
        """Close the link between two nodes, if there is one."""
        for near, far in ((one, other), (other, one)):
            if near.links.get(far.info.public_key) is far:
                del near.links[far.info.public_key]
                near.forget_peers()
                self._hand(near, PeerDown(far.info, reason))

    def begin(self, fault: Fault) -> None:
        """A fault of links begins."""
        for pair in _pairs(fault):
            self._active[pair].append(fault)

    def end(self, fault: Fault) -> None:
        """It ends."""
        for pair in _pairs(fault):
            if fault in self._active[pair]:
                self._active[pair].remove(fault)

    def clear(self) -> None:
        """All faults of links end."""
        self._active.clear()
        self.slow.clear()

    # -- messages ----------------------------------------------------------------------------------------------------

    def post(self, sender: Port, target: Port, event: Received, size: int) -> None:
        """Send a message on its way, with whatever the faults of its link do to it."""
        pair = sender.number, target.number
        link = self._links.get(pair)
        if link is None:
            rng = chance(f"link {self._seed} {pair[0]} {pair[1]}")
            link = self._links[pair] = _Link(rng, rng.uniform(*self._latency_s))
        now = trio.current_time()
        arrival, in_order, copies = now + link.latency_s, True, 1
        for fault in self._active.get(pair, ()):
            match fault.kind:
                case "partition":
                    self.log.seen["partition"] += 1
                    return
                case "loss" if _concerns(fault, event.message) and link.rng.random() < fault.amount:
                    self.log.seen["loss"] += 1
                    return
                case "delay":
                    self.log.seen["delay"] += 1
                    arrival += link.rng.random() * fault.amount
                case "reorder" if link.rng.random() < fault.amount:
                    self.log.seen["reorder"] += 1
                    arrival, in_order = arrival + link.rng.random() * 0.2, False
                case "duplicate" if link.rng.random() < fault.amount:
                    self.log.seen["duplicate"] += 1
                    copies = 2
                case _:
                    pass
        if in_order:
            arrival = link.last_arrival = max(arrival, link.last_arrival)
        for copy in range(copies):
            self._push(arrival + copy * 0.05, target, event, size)

    def _push(self, at: float, target: Port, event: Received | PeerUp | PeerDown, size: int) -> None:
        at = -(-at // TICK_S) * TICK_S
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, target, event, size))
        self._scope.deadline = min(self._scope.deadline, at)

    def _hand(self, target: Port, event: PeerUp | PeerDown) -> None:
        if not target.closed:
            self._push(max(trio.current_time(), target.busy_until), target, event, 0)

    async def run(self) -> None:
        """Deliver what is due, until cancelled."""
        while True:
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now + 1e-9:
                _, __, target, event, size = heapq.heappop(self._heap)
                self._deliver(target, event, size, now)
            with trio.CancelScope(deadline=self._heap[0][0] if self._heap else float("inf")) as self._scope:
                await trio.sleep_forever()

    def _deliver(self, target: Port, event: Received | PeerUp | PeerDown, size: int, now: float) -> None:
        if target.closed or target.take is None:
            return
        pause = self.slow.get(target.number)
        if pause is not None and isinstance(event, Received):
            if target.busy_until > now:
                self._push(target.busy_until, target, event, size)
                return
            self.log.seen["slow"] += 1
            target.busy_until = now + pause
        if isinstance(event, Received):
            if target.links.get(event.peer.public_key) is None:
                return
            kind = type(event.message).__name__
            target.received[kind] += 1
            target.received_bytes[kind] += size
            if self.log.traced:
                sender = target.links[event.peer.public_key].name
                self.log.add("message", target.name, sender=sender, kind=kind, bytes=size)
        if not target.take(event) and isinstance(event, Received):
            self.log.seen["queue.full"] += 1
            self.cut(target, target.links[event.peer.public_key], "queue is full")


def _concerns(fault: Fault, message: Message) -> bool:
    return fault.mode != "votes" or isinstance(message, Votes)


def _pairs(fault: Fault) -> list[tuple[int, int]]:
    return [(one, other) for one in fault.nodes for other in fault.others if one != other]
