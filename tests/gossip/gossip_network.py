"""Many mesh cores in virtual time: links with latency and loss, heartbeats, a heap for a clock. All from one seed."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from random import Random

from deepshard.gossip import Mesh, Topic, Unit, Verdict
from deepshard.gossip.events import (
    ControlReceived,
    Effect,
    Event,
    Examine,
    Forward,
    Heartbeat,
    PeerJoined,
    PeerLeft,
    Penalise,
    Published,
    RelayDue,
    ScheduleRelay,
    Tell,
    UnitJudged,
    UnitsReceived,
)
from deepshard.gossip.units import entry_unit
from deepshard.limits import GOSSIP_HEARTBEAT_S, GOSSIP_SUBNET_MESH_MAX


def vote(text: str, size: int = 200) -> Unit:
    return entry_unit(Topic.CONSENSUS, 18, text.encode().ljust(size, b"."))


def proposal(text: str, size: int) -> Unit:
    unit = entry_unit(Topic.CONSENSUS, 17, text.encode())
    return Unit(unit.id, Topic.CONSENSUS, 17, size, batched=False, content=text)


def transaction(text: str, size: int = 300) -> Unit:
    return entry_unit(Topic.TRANSACTIONS, 16, text.encode().ljust(size, b"."))


class Node:
    def __init__(self, key: bytes, subnet: str | None, subnet_max: int) -> None:
        self.key, self.subnet = key, subnet
        self.mesh = Mesh(subnet_max=subnet_max)
        self.links: dict[bytes, Node] = {}
        self.delivered: dict[bytes, float] = {}
        self.copies: Counter[bytes] = Counter()
        self.controls: Counter[str] = Counter()
        self.told: list[tuple[float, bytes, object]] = []
        self.penalised: list[tuple[float, bytes, Exception]] = []
        self.silent = False
        """Takes everything and says nothing: what an eclipse is made of."""


class GossipNetwork:
    def __init__(
        self,
        *,
        seed: int,
        loss: float = 0.0,
        latency_s: tuple[float, float] = (0.01, 0.08),
        subnet_max: int | None = None,
    ) -> None:
        self.now = 0.0
        self.rng = Random(seed)
        self.loss = loss
        self.latency_s = latency_s
        self.nodes: list[Node] = []
        self.sent_units = 0
        self.authors: dict[bytes, bytes] = {}
        """Who signed which vote."""
        self._subnet_max = GOSSIP_SUBNET_MESH_MAX if subnet_max is None else subnet_max
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0

    # -- building ----------------------------------------------------------------------------------------------------

    def add(self, count: int, *, subnet: Callable[[int], str | None] = lambda _: None) -> list[Node]:
        added = []
        for number in range(count):
            key = len(self.nodes).to_bytes(2, "big") * 16
            node = Node(key, subnet(number), self._subnet_max)
            self.nodes.append(node)
            added.append(node)
            self.later(self.rng.random() * GOSSIP_HEARTBEAT_S, lambda node=node: self._beat(node))  # type: ignore[misc]
        return added

    def connect(self, dialler: Node, listener: Node) -> None:
        if listener.key in dialler.links or dialler is listener:
            return
        dialler.links[listener.key] = listener
        listener.links[dialler.key] = dialler
        self.apply(dialler, PeerJoined(listener.key, is_member=True, outbound=True, subnet=listener.subnet))
        self.apply(listener, PeerJoined(dialler.key, is_member=True, outbound=False, subnet=dialler.subnet))

    def connect_all(self, nodes: list[Node]) -> None:
        for index, node in enumerate(nodes):
            for other in nodes[:index]:
                self.connect(node, other)

    def connect_randomly(self, nodes: list[Node], dials: int) -> None:
        for node in nodes:
            others = [other for other in nodes if other is not node]
            for other in self.rng.sample(others, dials):
                self.connect(node, other)

    def cut(self, one: Node, other: Node) -> None:
        if one.links.pop(other.key, None) is not None:
            del other.links[one.key]
            self.apply(one, PeerLeft(other.key))
            self.apply(other, PeerLeft(one.key))

    # -- time --------------------------------------------------------------------------------------------------------

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._due, (self.now + seconds, self._order, action))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            self.now, _, action = heapq.heappop(self._due)
            action()
        self.now = end

    def _beat(self, node: Node) -> None:
        self.apply(node, Heartbeat())
        self.later(GOSSIP_HEARTBEAT_S, lambda: self._beat(node))

    # -- what happens ------------------------------------------------------------------------------------------------

    def publish(self, node: Node, *units: Unit) -> None:
        for unit in units:
            node.delivered.setdefault(unit.id, self.now)
            if unit.batched and unit.topic is Topic.CONSENSUS:
                self.authors[unit.id] = node.key
        self.apply(node, Published(units))

    def apply(self, node: Node, event: Event) -> list[Effect]:
        if node.silent and not isinstance(event, PeerJoined | PeerLeft):
            return []
        effects = node.mesh.apply(event, self.now, self.rng)
        for effect in effects:
            self._perform(node, effect)
        return effects

    def _perform(self, node: Node, effect: Effect) -> None:
        match effect:
            case Tell(peer=peer, control=control):
                node.controls[type(control).__name__] += 1
                node.told.append((self.now, peer, control))
                self._send(node, peer, lambda key: ControlReceived(key, control))
            case Forward(peers=peers, units=units):
                for peer in peers:
                    self.sent_units += len(units)
                    self._send(node, peer, lambda key: UnitsReceived(key, units))
            case Examine(units=units):
                for unit in units:
                    node.delivered.setdefault(unit.id, self.now)
                    self.apply(node, UnitJudged(unit.id, Verdict.VALID, self.authors.get(unit.id)))
            case ScheduleRelay():
                self.later(0.015 + 0.03 * self.rng.random(), lambda: self._relay(node))
            case Penalise(peer=peer, error=error):
                node.penalised.append((self.now, peer, error))

    def _relay(self, node: Node) -> None:
        self.apply(node, RelayDue())

    def _send(self, sender: Node, receiver: bytes, event: Callable[[bytes], Event]) -> None:
        if self.loss and self.rng.random() < self.loss:
            return
        delay = self.latency_s[0] + (self.latency_s[1] - self.latency_s[0]) * self.rng.random()

        def arrive() -> None:
            target = sender.links.get(receiver)
            if target is None:
                return
            arriving = event(sender.key)
            if isinstance(arriving, UnitsReceived):
                target.copies.update(unit.id for unit in arriving.units)
            self.apply(target, arriving)

        self.later(delay, arrive)

    # -- what came of it ---------------------------------------------------------------------------------------------

    def missing(self, units: Iterable[Unit], nodes: Iterable[Node] | None = None) -> int:
        """How many deliveries are missing."""
        expected = list(self.nodes if nodes is None else nodes)
        return sum(unit.id not in node.delivered for unit in units for node in expected)

    def degrees(self, topic: Topic = Topic.CONSENSUS) -> list[int]:
        return [len(node.mesh.members(topic)) for node in self.nodes]

    def copies_of(self, units: Iterable[Unit]) -> float:
        """Mean number of copies that a node receives of a unit."""
        wanted = [unit.id for unit in units]
        return sum(node.copies[unit_id] for node in self.nodes for unit_id in wanted) / (len(wanted) * len(self.nodes))
