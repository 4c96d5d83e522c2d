"""The gossip mesh: one machine for all topics, driven by events, time and randomness, that answers with effects.

    effects = mesh.apply(UnitsReceived(peer, units), now, rng)

Chapter 7 of the specification describes it. Whatever a peer can make grow is bounded: by the peers connected, by
`limits` (cache, promises, backoffs, scores, ids seen), or by the host's own verdicts.
"""

from __future__ import annotations

from deepshard.gossip.allowances import Allowance
from deepshard.gossip.cache import Held
from deepshard.gossip.control import chunks, take_control
from deepshard.gossip.events import (
    ControlReceived,
    Effect,
    Event,
    Examine,
    Heartbeat,
    IDontWant,
    PeerJoined,
    PeerLeft,
    Penalise,
    ProgressMade,
    Published,
    RejectedUnit,
    RelayDue,
    ScheduleRelay,
    Tell,
    UnitJudged,
    UnitsReceived,
)
from deepshard.gossip.heartbeat import beat
from deepshard.gossip.membership import Member
from deepshard.gossip.sparing import relieve
from deepshard.gossip.state import MeshState, Pending, TopicState
from deepshard.gossip.units import Rng, Topic, Unit, Verdict
from deepshard.limits import (
    GOSSIP_CACHE_UNITS_MAX,
    GOSSIP_FLOOD_BYTES_MAX,
    GOSSIP_IDONTWANT_BYTES_MIN,
    GOSSIP_IDONTWANTS_PER_HEARTBEAT_MAX,
    GOSSIP_SCORE_GRAYLIST,
    GOSSIP_SCORE_PUBLISH,
    GOSSIP_SUBNET_MESH_MAX,
)


class Mesh:
    """One node's part in the gossip. Peers are named by any bytes, public keys in practice."""

    def __init__(self, *, subnet_max: int = GOSSIP_SUBNET_MESH_MAX) -> None:
        self._state = MeshState(subnet_max=subnet_max)

    def members(self, topic: Topic) -> tuple[bytes, ...]:
        """Peers in the mesh of a topic."""
        return tuple(self._state.topics[topic].mesh)

    def score(self, peer: bytes) -> float:
        """A peer's gossip score."""
        return self._state.scores.score(peer)

    def apply(self, event: Event, now: float, rng: Rng) -> list[Effect]:
        """Take an event; what the host has to do about it, in order."""
        match event:
            case UnitsReceived(peer=peer, units=units):
                return self._receive(peer, units)
            case UnitJudged():
                return self._judge(event)
            case RelayDue():
                return self._relay()
            case ControlReceived(peer=peer, control=control):
                return take_control(self._state, peer, control, now)
            case Published(units=units):
                return self._publish(units)
            case Heartbeat():
                return beat(self._state, now, rng)
            case ProgressMade(decided=decided):
                for topic in self._state.topics.values():
                    topic.postponed.clear()
                if decided:
                    self._state.topics[Topic.CONSENSUS].cache.retire()
                return []
            case PeerJoined():
                return self._join(event, now, rng)
            case PeerLeft(peer=peer):
                self._leave(peer)
                return []

    # -- peers -------------------------------------------------------------------------------------------------------

    def _join(self, event: PeerJoined, now: float, rng: Rng) -> list[Effect]:
        state = self._state
        if event.peer in state.peers:
            self._leave(event.peer)
        member = Member(event.peer, event.is_member, event.outbound, event.subnet)
        state.peers[event.peer] = member
        state.allowances[event.peer] = Allowance()
        if not member.is_member:
            return []
        scores = state.score_table()
        effects: list[Effect] = []
        for topic in state.topics.values():
            effects += state.carry_out(topic, topic.mesh.welcome(member, scores, now, rng), now)
        return effects

    def _leave(self, peer: bytes) -> None:
        state = self._state
        if state.peers.pop(peer, None) is None:
            return
        del state.allowances[peer]
        state.scores.forget_merits(peer)
        state.asking.forget_peer(peer)
        for topic in state.topics.values():
            topic.mesh.remove(peer)
            topic.cache.forget_peer(peer)

    # -- units -------------------------------------------------------------------------------------------------------

    def _receive(self, peer: bytes, units: tuple[Unit, ...]) -> list[Effect]:
        state = self._state
        if state.scores.score(peer) < GOSSIP_SCORE_GRAYLIST:
            return []
        effects: list[Effect] = []
        fresh: list[Unit] = []
        surplus: list[bytes] = []
        for unit in units:
            topic = state.topics[unit.topic]
            state.asking.arrived(unit.id)
            if unit.id in topic.rejected:
                state.scores.invalid_unit(peer)
                effects.append(Penalise(peer, RejectedUnit(unit.id)))
            elif self._is_repeated(topic, unit.id, peer):
                held = topic.cache.get(unit.id)
                if held is not None and peer not in held.shown and relieve(state, topic, held, peer):
                    surplus.append(unit.id)
                self._note_copy(held, peer)
            else:
                if len(state.pending) >= GOSSIP_CACHE_UNITS_MAX:
                    del state.pending[next(iter(state.pending))]
                state.pending[unit.id] = Pending(unit, peer, {peer})
                fresh.append(unit)
        effects += [Tell(peer, IDontWant(portion)) for portion in chunks(tuple(surplus))]
        effects += self._decline(peer, fresh)
        if fresh:
            effects.append(Examine(peer, tuple(fresh)))
        return effects

    def _is_repeated(self, topic: TopicState, unit_id: bytes, peer: bytes) -> bool:
        """Whether a unit came before; if it is being examined, the peer has shown to have it."""
        pending = self._state.pending.get(unit_id)
        if pending is not None:
            pending.shown.add(peer)
            pending.copies += 1
            return True
        return topic.cache.get(unit_id) is not None or unit_id in topic.seen or unit_id in topic.postponed

    def _note_copy(self, held: Held | None, peer: bytes) -> None:
        """A unit came again: the peer has shown to have it. What a peer sends twice is one copy."""
        if held is not None and peer in self._state.peers and peer not in held.shown:
            held.shown.add(peer)
            held.copies += 1

    def _decline(self, source: bytes, fresh: list[Unit]) -> list[Effect]:
        """Tell the mesh which large units need not be sent to us any more."""
        effects: list[Effect] = []
        for topic in self._state.topics.values():
            if self._state.declined >= GOSSIP_IDONTWANTS_PER_HEARTBEAT_MAX:
                break
            ids = tuple(
                unit.id for unit in fresh if unit.topic == topic.topic and unit.size >= GOSSIP_IDONTWANT_BYTES_MIN
            )
            for portion in chunks(ids):
                self._state.declined += 1
                effects += [Tell(peer, IDontWant(portion)) for peer in topic.mesh if peer != source]
        return effects

    def _judge(self, judged: UnitJudged) -> list[Effect]:
        state = self._state
        pending = state.pending.pop(judged.id, None)
        if pending is None:
            return []
        topic = state.topics[pending.unit.topic]
        match judged.verdict:
            case Verdict.LATER:
                topic.postponed.add(judged.id)
                return []
            case Verdict.REJECT:
                topic.rejected.add(judged.id)
                state.scores.invalid_unit(pending.sender)
            case Verdict.VALID:
                if pending.sender in state.peers:
                    state.scores.first_delivery(pending.sender)
                held = state.keep(
                    pending.unit, pending.shown if judged.author is None else {*pending.shown, judged.author}
                )
                held.author, held.copies = judged.author, pending.copies
        topic.seen.add(judged.id)
        return self._pass_on(pending.unit) if judged.verdict is Verdict.VALID else []

    def _pass_on(self, unit: Unit) -> list[Effect]:
        if not unit.batched:
            return self._state.forward((unit,), self._state.topics[unit.topic].mesh)
        self._state.fresh.append(unit)
        return [ScheduleRelay()] if len(self._state.fresh) == 1 else []

    def _relay(self) -> list[Effect]:
        """Send what was gathered to those of the mesh that haven't shown to have it meanwhile."""
        fresh, self._state.fresh = self._state.fresh, []
        effects: list[Effect] = []
        for topic in self._state.topics.values():
            effects += self._state.forward([unit for unit in fresh if unit.topic == topic.topic], topic.mesh)
        return effects

    def _publish(self, units: tuple[Unit, ...]) -> list[Effect]:
        """Own units: small ones to every member, large ones to the mesh. Published again, they are sent again."""
        state = self._state
        everyone = [
            key
            for key, member in state.peers.items()
            if member.is_member and state.scores.score(key) >= GOSSIP_SCORE_PUBLISH
        ]
        effects: list[Effect] = []
        for topic in state.topics.values():
            own = [unit for unit in units if unit.topic == topic.topic]
            for unit in own:
                topic.seen.add(unit.id)
                state.keep(unit, ())
            small = [unit for unit in own if unit.size <= GOSSIP_FLOOD_BYTES_MAX]
            large = [unit for unit in own if unit.size > GOSSIP_FLOOD_BYTES_MAX]
            effects += state.forward(small, everyone, again=True)
            effects += state.forward(large, tuple(topic.mesh) or everyone, again=True)
        return effects
