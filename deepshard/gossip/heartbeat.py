"""What happens every second: the mesh is balanced, news is advertised, everything ages (chapters 7.4 to 7.8). Pure."""

from __future__ import annotations

from deepshard.gossip.allowances import Allowance
from deepshard.gossip.control import chunks
from deepshard.gossip.events import Effect, GossipAbuse, IHave, Penalise, Tell
from deepshard.gossip.sparing import expire
from deepshard.gossip.state import MeshState, TopicState
from deepshard.gossip.units import Rng
from deepshard.limits import (
    GOSSIP_ADVERTISED_WINDOWS,
    GOSSIP_IHAVE_IDS_PER_HEARTBEAT_MAX,
    GOSSIP_LAZY_PEERS,
    GOSSIP_SCORE_GOSSIP,
    GOSSIP_SCORE_GRAYLIST,
    GOSSIP_SEEN_S,
)

OPPORTUNE_BEATS = 60


def beat(state: MeshState, now: float, rng: Rng) -> list[Effect]:
    """One heartbeat."""
    state.beat += 1
    state.declined = 0
    _count_faults(state, now)
    scores = state.score_table()
    effects: list[Effect] = []
    for topic in state.topics.values():
        changes = topic.mesh.balance(scores, now, rng, opportune=state.beat % OPPORTUNE_BEATS == 0)
        effects += state.carry_out(topic, changes, now)
        effects += _advertise(state, topic, scores, rng)
        topic.cache.shift()
    effects += [Penalise(peer, GossipAbuse(score)) for peer, score in scores.items() if score < GOSSIP_SCORE_GRAYLIST]
    state.scores.decay()
    _age(state, now)
    expire(state)
    return effects


def _count_faults(state: MeshState, now: float) -> None:
    for peer in state.asking.expire(now):
        state.scores.fault(peer)
    for peer, allowance in state.allowances.items():
        if allowance.exceeded:
            state.scores.fault(peer)
        state.allowances[peer] = Allowance()


def _advertise(state: MeshState, topic: TopicState, scores: dict[bytes, float], rng: Rng) -> list[Effect]:
    """IHAVE to a few peers, first those outside the mesh or not sent all, of what they haven't shown to have."""
    news = list(topic.cache.advertised())
    if not news:
        return []
    told = [member for member in state.peers.values() if member.is_member and scores[member.key] >= GOSSIP_SCORE_GOSSIP]
    outside = [member for member in told if member.key not in topic.mesh or member.spared]
    inside = [member for member in told if member.key in topic.mesh and not member.spared]
    chosen = rng.sample(outside, min(len(outside), GOSSIP_LAZY_PEERS))
    chosen += rng.sample(inside, min(len(inside), GOSSIP_LAZY_PEERS - len(chosen)))
    effects: list[Effect] = []
    for member in chosen:
        ids = [held.unit.id for held in news if member.key not in held.shown]
        if len(ids) > GOSSIP_IHAVE_IDS_PER_HEARTBEAT_MAX:
            ids = rng.sample(ids, GOSSIP_IHAVE_IDS_PER_HEARTBEAT_MAX)
        effects += [Tell(member.key, IHave(topic.topic, portion)) for portion in chunks(tuple(ids))]
    return effects


def _age(state: MeshState, now: float) -> None:
    for member in state.peers.values():
        while member.unwanted:
            oldest = next(iter(member.unwanted))
            if member.unwanted[oldest] > state.beat - GOSSIP_ADVERTISED_WINDOWS - 1:
                break
            del member.unwanted[oldest]
    if state.aged_at is None:
        state.aged_at = now
    elif now >= state.aged_at + GOSSIP_SEEN_S / 2:
        state.aged_at = now
        for topic in state.topics.values():
            topic.seen.age()
