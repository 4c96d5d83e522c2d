"""The mesh of one topic: who is in it, who may come in, and what a heartbeat changes (chapter 7.4). Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median

from deepshard.gossip.units import Rng
from deepshard.limits import (
    GOSSIP_BACKOFFS_MAX,
    GOSSIP_DEGREE,
    GOSSIP_DEGREE_BEST,
    GOSSIP_DEGREE_HIGH,
    GOSSIP_DEGREE_LOW,
    GOSSIP_DEGREE_OUTBOUND,
    GOSSIP_SUBNET_MESH_MAX,
)

OPPORTUNE_SCORE, OPPORTUNE_PEERS = 1.0, 2
"""A mesh of a median score below the first looks for so many better peers."""
BACKOFF_SLACK_S = 1.0
"""We wait a little longer than was asked for: the other side's clock began a moment later."""


@dataclass(slots=True)
class Member:
    """What the mesh keeps of a connected peer."""

    key: bytes
    is_member: bool
    outbound: bool
    subnet: str | None
    unwanted: dict[bytes, int] = field(default_factory=dict)
    """Ids that it doesn't want, with the heartbeat in which it said so; oldest first."""
    spared: dict[bytes, int] = field(default_factory=dict)
    """Authors whose votes it gets from others sooner than from us, with the heartbeat in which it said so."""
    relieved: dict[bytes, int] = field(default_factory=dict)
    """Authors whose votes we told it we get from others sooner, with the heartbeat."""

    def forget_sparing(self) -> None:
        """It comes into the mesh anew."""
        self.spared.clear()
        self.relieved.clear()


@dataclass(frozen=True, slots=True)
class Changes:
    """Peers that came into the mesh and that left it, by our own decision."""

    grafted: tuple[bytes, ...] = ()
    pruned: tuple[bytes, ...] = ()


class Backoffs:
    """Until when a peer must not be grafted; survives links. Bounded: the one set first goes first."""

    def __init__(self, entries_max: int = GOSSIP_BACKOFFS_MAX) -> None:
        self._entries_max = entries_max
        self._until: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def set(self, peer: bytes, seconds: float, now: float) -> None:
        """Begin one; it never shortens one that runs."""
        until = max(now + seconds, self._until.pop(peer, now))
        if len(self._until) >= self._entries_max:
            del self._until[next(iter(self._until))]
        self._until[peer] = until

    def runs(self, peer: bytes, now: float, *, slack_s: float = 0.0) -> bool:
        """Whether one runs now, or has run within `slack_s`."""
        return now < self._until.get(peer, float("-inf")) + slack_s

    def expire(self, now: float) -> None:
        """Forget those that ended."""
        for peer in [key for key, until in self._until.items() if now >= until + BACKOFF_SLACK_S]:
            del self._until[peer]


class TopicMesh:
    """Peers in the mesh of one topic. `peers` is the host's table of all that are connected."""

    def __init__(self, peers: Mapping[bytes, Member], *, subnet_max: int = GOSSIP_SUBNET_MESH_MAX) -> None:
        self._peers = peers
        self._subnet_max = subnet_max
        self._mesh: dict[bytes, Member] = {}
        self.backoffs = Backoffs()

    def __contains__(self, peer: bytes) -> bool:
        return peer in self._mesh

    def __len__(self) -> int:
        return len(self._mesh)

    def __iter__(self) -> Iterator[bytes]:
        return iter(tuple(self._mesh))

    @property
    def outbound(self) -> int:
        """How many of them we dialled."""
        return sum(member.outbound for member in self._mesh.values())

    def admits(self, member: Member) -> bool:
        """Whether there is room for this peer."""
        if not self._subnet_has_room(member):
            return False
        if len(self._mesh) < GOSSIP_DEGREE_HIGH:
            return True
        return (
            member.outbound
            and self.outbound < GOSSIP_DEGREE_OUTBOUND
            and len(self._mesh) < GOSSIP_DEGREE_HIGH + GOSSIP_DEGREE_OUTBOUND
        )

    def add(self, member: Member) -> None:
        """Take a peer in; `admits` was asked before."""
        self._mesh[member.key] = member

    def remove(self, peer: bytes) -> bool:
        """Take a peer out; whether it was in."""
        return self._mesh.pop(peer, None) is not None

    def welcome(self, member: Member, scores: Mapping[bytes, float], now: float, rng: Rng) -> Changes:
        """A member's link is up: graft it if everybody belongs in or there are too few; else keep room for it."""
        total = sum(peer.is_member for peer in self._peers.values())
        wanted = GOSSIP_DEGREE_HIGH if total <= GOSSIP_DEGREE_HIGH else GOSSIP_DEGREE
        if len(self._mesh) < wanted and self._may_graft(member, scores, now) and self.admits(member):
            self.add(member)
            return Changes(grafted=(member.key,))
        if total > GOSSIP_DEGREE_HIGH and len(self._mesh) >= GOSSIP_DEGREE_HIGH:
            return Changes(pruned=self._cut(GOSSIP_DEGREE_HIGH - GOSSIP_DEGREE_OUTBOUND, scores, rng))
        return Changes()

    def balance(self, scores: Mapping[bytes, float], now: float, rng: Rng, *, opportune: bool) -> Changes:
        """A heartbeat: drop the bad, fill up or cut, see to outbound peers, and now and then to better ones."""
        self.backoffs.expire(now)
        pruned = [peer for peer in self._mesh if scores.get(peer, 0.0) < 0]
        for peer in pruned:
            del self._mesh[peer]
        total = sum(peer.is_member for peer in self._peers.values())
        grafted: list[bytes] = []
        if total <= GOSSIP_DEGREE_HIGH:
            grafted += self._fill(GOSSIP_DEGREE_HIGH, self._eligible(scores, now), rng)
        elif len(self._mesh) < GOSSIP_DEGREE_LOW:
            grafted += self._fill(GOSSIP_DEGREE, self._eligible(scores, now), rng)
        if len(self._mesh) > GOSSIP_DEGREE_HIGH:
            pruned += self._cut(GOSSIP_DEGREE, scores, rng)
        missing = GOSSIP_DEGREE_OUTBOUND - self.outbound
        if missing > 0 and len(self._mesh) >= GOSSIP_DEGREE_LOW:
            dialled = [member for member in self._eligible(scores, now) if member.outbound]
            grafted += self._fill(len(self._mesh) + missing, dialled, rng)
        if opportune:
            better = self._better(scores, now)
            if better and len(self._mesh) >= GOSSIP_DEGREE_HIGH:
                pruned += self._cut(GOSSIP_DEGREE, scores, rng)
            grafted += self._fill(len(self._mesh) + OPPORTUNE_PEERS, better, rng)
        return Changes(tuple(grafted), tuple(pruned))

    def _better(self, scores: Mapping[bytes, float], now: float) -> list[Member]:
        """Peers outside a mesh of poor scores whose own are above its median."""
        middle = median(scores.get(peer, 0.0) for peer in self._mesh) if self._mesh else OPPORTUNE_SCORE
        if middle >= OPPORTUNE_SCORE:
            return []
        return [member for member in self._eligible(scores, now) if scores.get(member.key, 0.0) > middle]

    def _subnet_has_room(self, member: Member) -> bool:
        if member.subnet is None:
            return True
        subnets = Counter(other.subnet for other in self._mesh.values())
        return subnets[member.subnet] < self._subnet_max

    def _may_graft(self, member: Member, scores: Mapping[bytes, float], now: float) -> bool:
        return (
            member.is_member
            and member.key not in self._mesh
            and scores.get(member.key, 0.0) >= 0
            and not self.backoffs.runs(member.key, now, slack_s=BACKOFF_SLACK_S)
        )

    def _eligible(self, scores: Mapping[bytes, float], now: float) -> list[Member]:
        return [member for member in self._peers.values() if self._may_graft(member, scores, now)]

    def _fill(self, size: int, candidates: list[Member], rng: Rng) -> list[bytes]:
        grafted: list[bytes] = []
        for member in rng.sample(candidates, len(candidates)):
            if len(self._mesh) >= size:
                break
            if self.admits(member):
                self.add(member)
                grafted.append(member.key)
        return grafted

    def _cut(self, size: int, scores: Mapping[bytes, float], rng: Rng) -> tuple[bytes, ...]:
        """Cut to `size`: the best stay, then as many that we dialled as there should be, then whom chance picks."""
        shuffled = rng.sample(list(self._mesh), len(self._mesh))
        ranked = sorted(shuffled, key=lambda peer: -scores.get(peer, 0.0))
        staying = ranked[:GOSSIP_DEGREE_BEST]
        rest = [peer for peer in shuffled if peer not in staying]
        missing = GOSSIP_DEGREE_OUTBOUND - sum(self._mesh[peer].outbound for peer in staying)
        outbound = [peer for peer in rest if self._mesh[peer].outbound][: max(0, missing)]
        staying += outbound
        staying += [peer for peer in rest if peer not in outbound][: size - len(staying)]
        pruned = tuple(peer for peer in self._mesh if peer not in staying)
        for peer in pruned:
            del self._mesh[peer]
        return pruned
