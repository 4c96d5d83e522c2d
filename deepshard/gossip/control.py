"""Answers to control messages, each within its bounds (chapters 7.4 to 7.6). Pure."""

from __future__ import annotations

from collections.abc import Iterator

from deepshard.gossip.events import Control, Effect, Forward, Graft, IDontWant, IHave, IWant, Prune, Tell
from deepshard.gossip.membership import Member
from deepshard.gossip.sparing import lift, spare
from deepshard.gossip.state import MeshState
from deepshard.gossip.units import Unit
from deepshard.limits import (
    GOSSIP_BACKOFF_S,
    GOSSIP_BACKOFF_S_MAX,
    GOSSIP_IDONTWANT_IDS_MAX,
    GOSSIP_IDS_MAX,
    GOSSIP_IWANT_SERVED_MAX,
    GOSSIP_SCORE_GOSSIP,
    GOSSIP_SCORE_GRAYLIST,
)


def take_control(state: MeshState, peer: bytes, control: Control, now: float) -> list[Effect]:
    """What a control message leads to; nothing if the peer has used up its allowance, or its reputation."""
    member, allowance = state.peers.get(peer), state.allowances.get(peer)
    if member is None or allowance is None or not allowance.control():
        return []
    if not member.is_member:
        if isinstance(control, Graft) and state.topic(control.topic) is not None:
            return [Tell(peer, Prune(control.topic, GOSSIP_BACKOFF_S))]
        return []
    score = state.scores.score(peer)
    if score < GOSSIP_SCORE_GRAYLIST:
        return []
    match control:
        case Graft():
            return _graft(state, member, control, now)
        case Prune():
            _prune(state, peer, control, now)
        case IDontWant():
            _note_unwanted(state, member, control)
        case IHave() if score >= GOSSIP_SCORE_GOSSIP:
            return _ask(state, peer, control, now)
        case IWant() if score >= GOSSIP_SCORE_GOSSIP:
            return _serve(state, member, control)
        case _:
            pass
    return []


def chunks(ids: tuple[bytes, ...]) -> Iterator[tuple[bytes, ...]]:
    """Ids in portions that fit a control message."""
    return (ids[start : start + GOSSIP_IDS_MAX] for start in range(0, len(ids), GOSSIP_IDS_MAX))


def _graft(state: MeshState, member: Member, graft: Graft, now: float) -> list[Effect]:
    topic = state.topic(graft.topic)
    if topic is None or member.key in topic.mesh:
        return []
    if topic.mesh.backoffs.runs(member.key, now):
        state.scores.fault(member.key)
        return [state.prune(topic, member.key, now)]
    if state.scores.score(member.key) < 0 or not topic.mesh.admits(member):
        return [state.prune(topic, member.key, now)]
    topic.mesh.add(member)
    member.forget_sparing()
    return []


def _prune(state: MeshState, peer: bytes, prune: Prune, now: float) -> None:
    topic = state.topic(prune.topic)
    if topic is not None:
        topic.mesh.remove(peer)
        topic.mesh.backoffs.set(peer, min(prune.backoff_s, GOSSIP_BACKOFF_S_MAX), now)


def _ask(state: MeshState, peer: bytes, ihave: IHave, now: float) -> list[Effect]:
    """IHAVE: note what the peer has, and ask for what is new."""
    allowance = state.allowances[peer]
    if state.topic(ihave.topic) is None or not allowance.ihave():
        return []
    unknown: list[bytes] = []
    for unit_id in ihave.ids[:GOSSIP_IDS_MAX]:
        if state.knows(unit_id):
            _note_shown(state, peer, unit_id)
        else:
            unknown.append(unit_id)
    wanted = state.asking.choose(peer, unknown, allowance.may_ask(), now)
    allowance.asked_ids += len(wanted)
    return [Tell(peer, IWant(portion)) for portion in chunks(wanted)]


def _serve(state: MeshState, member: Member, iwant: IWant) -> list[Effect]:
    """IWANT: send what is asked for, a few times each, as long as the allowance lasts."""
    peer = member.key
    allowance = state.allowances[peer]
    units: list[Unit] = []
    for unit_id in allowance.want(iwant.ids):
        held = state.held(unit_id)
        if held is None or held.served.get(peer, 0) >= GOSSIP_IWANT_SERVED_MAX:
            continue
        if not allowance.serve(held.unit.size):
            break
        held.served[peer] = held.served.get(peer, 0) + 1
        held.sent.add(peer)
        lift(member, held)
        units.append(held.unit)
    return [Forward((peer,), tuple(units))] if units else []


def _note_unwanted(state: MeshState, member: Member, message: IDontWant) -> None:
    for unit_id in message.ids[:GOSSIP_IDS_MAX]:
        if state.knows(unit_id):
            spare(state, member, unit_id)
            _note_shown(state, member.key, unit_id)
            continue
        member.unwanted[unit_id] = state.beat
        if len(member.unwanted) > GOSSIP_IDONTWANT_IDS_MAX:
            del member.unwanted[next(iter(member.unwanted))]


def _note_shown(state: MeshState, peer: bytes, unit_id: bytes) -> None:
    pending = state.pending.get(unit_id)
    if pending is not None:
        pending.shown.add(peer)
    held = state.held(unit_id)
    if held is not None:
        held.shown.add(peer)
