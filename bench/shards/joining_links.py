"""Many nodes that download one thing from each other: the real swarm scheduler on simulated links.

Every node has a link of one rate in each direction, and talks to some others that were drawn at random. It asks each of
them once a second what it has, asks for what its `Swarm` says, and serves whole contents at once, a part to each that
waits in turn, as `deepshard.services.shards_upload` does. A part takes its size at the sender's rate; it has come when
the receiver's own link has had the time to take it, too. Nothing here waits: events are taken in the order of their
virtual times.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from random import Random
from typing import Final

from deepshard.primitives import CONTENT_BLOCK_BYTES, content_digest
from deepshard.shards.swarm import Outcome, Part, Swarm

HAVE_INTERVAL_S: Final = 1.0
REQUEST_TIMEOUT_S: Final = 30.0
IN_FLIGHT_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated; the thing is `contents` times `parts` times `part_blocks` blocks."""

    nodes: int
    contents: int
    parts: int = 2
    part_blocks: int = 64
    degree: int = 12
    """Links that each node makes; it gets about as many from others, so has 24 in all."""
    bytes_per_s: float = 100e6 / 8
    latency_s: float = 0.05
    seed: int = 1

    @property
    def part_bytes(self) -> int:
        return self.part_blocks * CONTENT_BLOCK_BYTES

    @property
    def total_bytes(self) -> int:
        return self.contents * self.parts * self.part_bytes

    @property
    def one_link_s(self) -> float:
        """Time that one link takes for all of it."""
        return self.total_bytes / self.bytes_per_s


@dataclass(slots=True, eq=False)
class _Node:
    name: bytes
    swarm: Swarm
    held: set[bytes]
    peers: list[_Node] = field(default_factory=list)
    waiting: dict[bytes, deque[tuple[_Node, Part]]] = field(default_factory=dict)
    """Requests to be served, by who asks; who was served goes to the end."""
    is_sending: bool = False
    taken_until: float = 0.0
    """When the link towards this node has taken all that is on its way."""
    done_at: float | None = None


@dataclass(frozen=True, slots=True)
class Joined:
    """How it went: when each node had everything, and bytes that came for nothing."""

    done_s: tuple[float, ...]
    wasted_bytes: int
    seeder_bytes: int


class Links:
    """One run."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._random = Random(plan.seed)
        self._now = 0.0
        self._numbers = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._digests = [content_digest(number.to_bytes(4, "big")) for number in range(plan.contents)]
        self._nodes = [self._node(number) for number in range(plan.nodes + 1)]
        self._unfinished = plan.nodes
        self._seeder_bytes = 0
        for number, node in enumerate(self._nodes):
            # A ring keeps all together; the rest is drawn.
            others = {(number + 1) % len(self._nodes), *self._random.sample(range(len(self._nodes)), plan.degree - 1)}
            for other in sorted(others - {number}):
                if self._nodes[other] not in node.peers:
                    node.peers.append(self._nodes[other])
                    self._nodes[other].peers.append(node)

    def _node(self, number: int) -> _Node:
        name = content_digest(b"node" + number.to_bytes(4, "big"))
        if number == 0:
            return _Node(name, Swarm({}), set(self._digests), done_at=0.0)
        wanted = {digest: [Part(digest, 0, self._plan.part_blocks)] for digest in self._digests}
        swarm = Swarm(wanted, in_flight_max=IN_FLIGHT_MAX, timeout_s=REQUEST_TIMEOUT_S, salt=name)
        return _Node(name, swarm, set())

    def run(self) -> Joined:
        """Until all have everything."""
        for node in self._nodes[1:]:
            self._at(self._random.random() * HAVE_INTERVAL_S, partial(self._survey, node))
        while self._unfinished:
            self._now, _, act = heapq.heappop(self._events)
            act()
        done = tuple(node.done_at for node in self._nodes[1:] if node.done_at is not None)
        return Joined(done, sum(node.swarm.wasted_bytes for node in self._nodes), self._seeder_bytes)

    def _at(self, time: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), act))

    def _survey(self, node: _Node) -> None:
        if node.done_at is not None:
            return
        for peer in node.peers:
            offered = peer.held & node.swarm.missing
            if offered:
                node.swarm.offer(peer.name, offered)
        self._ask(node)
        self._at(self._now + HAVE_INTERVAL_S, partial(self._survey, node))

    def _ask(self, node: _Node) -> None:
        by_name = {peer.name: peer for peer in node.peers}
        for name, part in node.swarm.next_requests(self._now):
            peer = by_name[name]
            self._at(self._now + self._plan.latency_s, partial(self._requested, peer, node, part))

    def _requested(self, server: _Node, asker: _Node, part: Part) -> None:
        server.waiting.setdefault(asker.name, deque()).append((asker, part))
        if not server.is_sending:
            self._send_next(server)

    def _send_next(self, server: _Node) -> None:
        server.is_sending = bool(server.waiting)
        if not server.waiting:
            return
        name, queue = next(iter(server.waiting.items()))
        asker, part = queue.popleft()
        del server.waiting[name]
        if queue:
            server.waiting[name] = queue
        size = self._plan.part_bytes
        sent = self._now + size / self._plan.bytes_per_s
        if server is self._nodes[0]:
            self._seeder_bytes += size
        asker.taken_until = max(sent + self._plan.latency_s, asker.taken_until + size / self._plan.bytes_per_s)
        self._at(sent, partial(self._send_next, server))
        self._at(asker.taken_until, partial(self._received, asker, server, part))

    def _received(self, node: _Node, server: _Node, part: Part) -> None:
        if node.done_at is not None:
            node.swarm.wasted_bytes += self._plan.part_bytes
            return
        blocks = self._plan.part_blocks
        left: tuple[Part, ...] = ()
        if node.swarm.is_open(part):
            # The first part shows how large the content is; the scheduler knows of the others from then on.
            known = node.swarm.open_parts(part.digest)
            is_first = part.first == 0
            rest = {Part(part.digest, number * blocks, blocks) for number in range(1, self._plan.parts)}
            left = tuple(sorted(rest if is_first else set(known) - {part}))
        node.swarm.received(server.name, part, Outcome.VERIFIED, self._now, size=self._plan.part_bytes, left=left)
        if part.digest not in node.swarm.missing:
            node.held.add(part.digest)
        if node.swarm.done:
            node.done_at = self._now
            self._unfinished -= 1
            return
        self._ask(node)
