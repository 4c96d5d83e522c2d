"""Everything a mesh remembers, and the few questions that all its parts ask. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from deepshard.gossip.allowances import Allowance
from deepshard.gossip.asking import Asking
from deepshard.gossip.cache import Held, UnitCache
from deepshard.gossip.events import Effect, Forward, Graft, Prune, Tell
from deepshard.gossip.membership import Changes, Member, TopicMesh
from deepshard.gossip.mesh_scores import MeshScores
from deepshard.gossip.seen import SeenCache
from deepshard.gossip.units import Topic, Unit
from deepshard.limits import GOSSIP_BACKOFF_S, GOSSIP_REJECTED_MAX, GOSSIP_SUBNET_MESH_MAX


@dataclass(slots=True)
class TopicState:
    """One topic: its mesh, its units, and the ids that were judged."""

    topic: Topic
    mesh: TopicMesh
    cache: UnitCache = field(default_factory=UnitCache)
    seen: SeenCache = field(default_factory=SeenCache)
    postponed: SeenCache = field(default_factory=SeenCache)
    """Judged to be for later; forgotten with the next block or round."""
    rejected: SeenCache = field(default_factory=lambda: SeenCache(GOSSIP_REJECTED_MAX))


@dataclass(slots=True)
class Pending:
    """A unit that the host examines, and who has shown to have it meanwhile."""

    unit: Unit
    sender: bytes
    shown: set[bytes]
    copies: int = 1


class MeshState:
    """The tables of one node's mesh."""

    def __init__(self, *, subnet_max: int = GOSSIP_SUBNET_MESH_MAX) -> None:
        self.peers: dict[bytes, Member] = {}
        self.allowances: dict[bytes, Allowance] = {}
        self.topics = {topic: TopicState(topic, TopicMesh(self.peers, subnet_max=subnet_max)) for topic in Topic}
        self.scores = MeshScores()
        self.asking = Asking()
        self.pending: dict[bytes, Pending] = {}
        self.fresh: list[Unit] = []
        """Valid units that wait for others to share a message with."""
        self.declined = 0
        """IDONTWANTs said to everybody in a mesh since the last heartbeat."""
        self.beat = 0
        self.aged_at: float | None = None

    def topic(self, number: int) -> TopicState | None:
        """A topic by its number on the wire; None if we don't know it."""
        try:
            return self.topics[Topic(number)]
        except ValueError:
            return None

    def knows(self, unit_id: bytes) -> bool:
        """Whether a unit of this id came before."""
        return unit_id in self.pending or any(
            unit_id in topic.seen or unit_id in topic.postponed for topic in self.topics.values()
        )

    def held(self, unit_id: bytes) -> Held | None:
        """A unit of any topic that can be sent."""
        for topic in self.topics.values():
            held = topic.cache.get(unit_id)
            if held is not None:
                return held
        return None

    def score_table(self) -> dict[bytes, float]:
        """Scores of all peers now."""
        return {peer: self.scores.score(peer) for peer in self.peers}

    def keep(self, unit: Unit, shown: Iterable[bytes]) -> Held:
        """Put a valid unit into the cache, with what is known of who has it."""
        held = self.topics[unit.topic].cache.put(unit)
        held.shown.update(peer for peer in shown if peer in self.peers)
        held.shown.update([key for key, peer in self.peers.items() if peer.unwanted and unit.id in peer.unwanted])
        return held

    def forward(self, units: Iterable[Unit], targets: Iterable[bytes], *, again: bool = False) -> list[Effect]:
        """Send each target what it lacks; `again`: also what was sent to it before.

        Targets that lack the same units share an effect, so that the host packs their message once.
        """
        held = [each for unit in units if (each := self.topics[unit.topic].cache.get(unit.id)) is not None]
        batches: dict[tuple[bytes, ...], tuple[list[bytes], list[Unit]]] = {}
        for peer in targets:
            member = self.peers.get(peer)
            spared = member.spared if member is not None else {}
            missing = [
                each
                for each in held
                if peer not in each.shown and (again or (peer not in each.sent and each.author not in spared))
            ]
            if missing:
                key = tuple(each.unit.id for each in missing)
                batches.setdefault(key, ([], [each.unit for each in missing]))[0].append(peer)
                for each in missing:
                    each.sent.add(peer)
        return [Forward(tuple(peers), tuple(lacking)) for peers, lacking in batches.values()]

    def carry_out(self, topic: TopicState, changes: Changes, now: float) -> list[Effect]:
        """Tell peers that they came into the mesh or left it."""
        effects: list[Effect] = [self.prune(topic, peer, now) for peer in changes.pruned]
        effects += [Tell(peer, Graft(topic.topic)) for peer in changes.grafted]
        for peer in changes.grafted:
            self.peers[peer].forget_sparing()
        return effects

    def prune(self, topic: TopicState, peer: bytes, now: float) -> Effect:
        """Begin a backoff and say PRUNE."""
        topic.mesh.backoffs.set(peer, GOSSIP_BACKOFF_S, now)
        return Tell(peer, Prune(topic.topic, GOSSIP_BACKOFF_S))
