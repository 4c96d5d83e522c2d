"""Whole chain services in one process under a virtual clock: blocks a real second, finality and bandwidth of votes.

The first is the deterministic simulator's speed. The others need links that count and keep order, and bring their own:
each has a latency of its own that varies a little. Services, stores, keys and signatures are the real ones.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Final

import trio
from trio.testing import MockClock

from bench.wire.rows import Row
from deepshard.ballots import Proposal
from deepshard.encoding import decode, encode
from deepshard.net.types import NetworkEvent
from deepshard.services.pacing import Pacing
from deepshard.testing.chain_cluster import ChainCluster, FullNode
from deepshard.testing.memory_network import MemoryNetwork
from deepshard.testing.simulate import simulate
from deepshard.wire.messages import BlockProposal, Graft, IDontWant, IHave, IWant, Message, Prune, Votes

from .network import genesis_of, key_of, onion_of

GENESIS_MS: Final = 1_700_000_000_000
JITTER: Final = 0.1
"""A message takes up to so much longer than the link's latency, as a share of it."""
SETTLE_BLOCKS: Final = 3


@dataclass(slots=True)
class Seen:
    """What passed over the links."""

    proposed_at: dict[int, float] = field(default_factory=dict)
    """When a proposal of a height was first sent, in virtual seconds."""
    vote_bytes: int = 0
    control_bytes: int = 0
    copies: int = 0
    votes: dict[tuple[str, bytes], int] = field(default_factory=dict)
    """Size of each vote at each node that got it."""

    def clear(self) -> None:
        """Begin to count anew."""
        self.vote_bytes = self.control_bytes = self.copies = 0
        self.votes.clear()


class DelayingNetwork(MemoryNetwork):
    """Delivers by latency, and notes what it carries. Installed as the network's `tamper`."""

    def __init__(self, nursery: trio.Nursery, latency_s: tuple[float, float], seed: int) -> None:
        super().__init__()
        self._nursery = nursery
        self._latency_s = latency_s
        self._rng = Random(seed)  # a simulation
        self._links: dict[tuple[str, str], float] = {}
        self._arrivals: dict[tuple[str, str], float] = {}
        self.seen = Seen()

    def delay(self, sender: str, receiver: str) -> float:
        """Virtual time at which what is sent now arrives: both ways of a link are equally long."""
        link = (min(sender, receiver), max(sender, receiver))
        if link not in self._links:
            self._links[link] = self._rng.uniform(*self._latency_s)
        base = self._links[link]
        latency = min(self._latency_s[1], base * (1 + JITTER * self._rng.random()))
        arrival = max(trio.current_time() + latency, self._arrivals.get((sender, receiver), 0.0))
        self._arrivals[sender, receiver] = arrival
        return arrival

    def note(self, receiver: str, message: Message) -> None:
        """Count a message."""
        match message:
            case Votes(votes=entries):
                self.seen.vote_bytes += len(encode(message))
                self.seen.copies += len(entries)
                for entry in entries:
                    self.seen.votes[receiver, entry] = len(entry)
            case Graft() | Prune() | IHave() | IWant() | IDontWant():
                self.seen.control_bytes += len(encode(message))
            case BlockProposal(proposal=encoded):
                height = decode(encoded, Proposal, bytes_max=512).height
                self.seen.proposed_at.setdefault(height, trio.current_time())
            case _:
                pass

    def deliver_later(self, put: Callable[[NetworkEvent], None], at: float, event: NetworkEvent) -> None:
        """Hand over an event at a virtual time."""

        async def arrive() -> None:
            await trio.sleep_until(at)
            put(event)

        self._nursery.start_soon(arrive)


def _delayed(network: DelayingNetwork, name: str) -> None:
    """Let everything that others send to this node take its time."""
    port = network._ports[name]  # noqa: SLF001  # the ports have no other way in
    deliver_now = port.notify

    def notify(event: NetworkEvent) -> None:
        message = getattr(event, "message", None)
        if message is None:
            deliver_now(event)
            return
        sender = event.peer.remote.removesuffix(":0")
        network.note(name, message)
        network.deliver_later(deliver_now, network.delay(sender, name), event)

    port.notify = notify  # type: ignore[method-assign]


@dataclass(frozen=True, slots=True)
class Net:
    """A running network."""

    cluster: ChainCluster
    nodes: Sequence[FullNode]
    network: DelayingNetwork
    committed: dict[int, list[float]]
    """Virtual times at which nodes committed a height."""


async def _watch(node: FullNode, committed: dict[int, list[float]]) -> None:
    height = 0
    while True:
        for reached in range(height + 1, node.view.height + 1):
            committed.setdefault(reached, []).append(trio.current_time())
        height = node.view.height
        await node.view.changed()


def _simulate(
    validators: int,
    measure: Callable[[Net], object],
    *,
    dials: int,
    latency_s: tuple[float, float],
    pacing: Pacing,
    seed: int = 1,
) -> None:
    """Run a network of validators under a virtual clock until `measure` is done; each dials so many others."""
    keys = [key_of("validator", number) for number in range(validators)]
    genesis = genesis_of(keys, [], time_ms=GENESIS_MS)
    rng = Random(seed)  # a simulation
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

    async def main(folder: Path) -> None:
        async with trio.open_nursery() as nursery:
            cluster = ChainCluster(genesis, {key.address: onion_of(key) for key in keys}, folder, nursery)
            cluster.network = network = DelayingNetwork(nursery, latency_s, seed)
            nodes = [cluster.start(f"v{number}", key, pacing=pacing) for number, key in enumerate(keys)]
            for node in nodes:
                _delayed(network, node.port.name)
            for node in nodes:
                for other in rng.sample([each for each in nodes if each is not node], dials):
                    cluster.connect(node, other)
            committed: dict[int, list[float]] = {}
            for node in nodes:
                nursery.start_soon(_watch, node, committed)
            await measure(Net(cluster, nodes, network, committed))  # type: ignore[misc]
            nursery.cancel_scope.cancel()

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-simulated-", dir=shared)))
        trio.run(main, folder, clock=MockClock(autojump_threshold=0))


def speed_rows(*, runs: int) -> list[Row]:
    """The simulator itself, four validators without faults: blocks a real second, from its start to its end."""
    rates: list[float] = []
    processor: list[float] = []
    for seed in range(runs):
        began, used = time.perf_counter(), time.process_time()
        result = simulate(seed, "plain", 4)
        assert result.violation is None, result.violation
        rates.append(result.blocks / (time.perf_counter() - began))
        processor.append((time.process_time() - used) / result.blocks)
    beside = {
        "lowest of the runs": min(rates),
        "highest": max(rates),
        "processor ms per block and node": 1e3 * median(processor) / 4,
    }
    return [Row("simulator: 4 validators, blocks decided", median(rates), "1/s", 100, at_least=True, beside=beside)]


def finality_rows(*, validators: int, blocks: int, dials: int) -> list[Row]:
    """Virtual seconds from the proposal to the decision, over all nodes and blocks, at 50 to 150 ms a hop."""
    found: list[float] = []
    facts: dict[str, float] = {}

    async def measure(net: Net) -> None:
        began = time.perf_counter()
        last = SETTLE_BLOCKS + blocks
        await net.cluster.reach(last, net.nodes, within_s=1e6)
        for height in range(SETTLE_BLOCKS + 1, last + 1):
            found.extend(at - net.network.seen.proposed_at[height] for at in net.committed[height])
        facts["real seconds for a block"] = (time.perf_counter() - began) / last

    _simulate(validators, measure, dials=dials, latency_s=(0.05, 0.15), pacing=Pacing())
    ordered = sorted(found)
    beside = {
        "99th percentile": ordered[len(ordered) * 99 // 100],
        "largest": ordered[-1],
        "links that each dials": float(dials),
        "lower bound: 3 crossings of 2 hops at 0.05": 0.3,
        **facts,
    }
    name = f"virtual network: {validators} validators, finality, median"
    return [Row(name, median(found), "s (virtual)", 1, at_least=False, beside=beside)]


def vote_rows(*, validators: int, blocks: int, dials: int) -> list[Row]:
    """Bytes of votes and of the mesh's control messages, in multiples of each node receiving each vote once."""
    facts: dict[str, float] = {}

    async def measure(net: Net) -> None:
        await net.cluster.reach(SETTLE_BLOCKS, net.nodes, within_s=1e6)
        seen = net.network.seen
        seen.clear()
        await net.cluster.reach(SETTLE_BLOCKS + blocks, net.nodes, within_s=1e6)
        once = sum(seen.votes.values())
        facts["value"] = (seen.vote_bytes + seen.control_bytes) / once
        facts["of it votes"] = seen.vote_bytes / once
        facts["of it IHAVE and other control messages"] = seen.control_bytes / once
        facts["copies of a vote at a node"] = seen.copies / len(seen.votes)
        facts["votes of a block that a node gets"] = len(seen.votes) / validators / blocks
        facts["kB a node receives for a block"] = (seen.vote_bytes + seen.control_bytes) / validators / blocks / 1e3

    _simulate(validators, measure, dials=dials, latency_s=(0.05, 0.15), pacing=Pacing())
    value = facts.pop("value")
    return [
        Row(f"mesh: {validators} validators, votes, to each once", value, "ratio", 2.5, at_least=False, beside=facts)
    ]
