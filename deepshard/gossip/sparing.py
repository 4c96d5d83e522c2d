"""Whose votes need not be sent to whom: each author's votes take a tree of their own (chapter 7.6). Pure.

A mesh of d peers brings every vote up to d times. The votes of one author come over the same links in the same order
again and again, and the first few copies suffice: whoever sends a later one is told, by IDONTWANT, and passes on no
more votes of this author, but advertises them and sends what is asked for. What is left are each author's quickest
paths, doubled. Plumtree (Leitao et al., 2007) has one tree for all authors; episub, a draft of gossipsub, chokes whole
links.
"""

from __future__ import annotations

from deepshard.gossip.cache import Held
from deepshard.gossip.membership import Member
from deepshard.gossip.state import MeshState, TopicState
from deepshard.limits import GOSSIP_SPARED_HEARTBEATS, GOSSIP_SPARED_MAX, GOSSIP_VOTE_COPIES


def relieve(state: MeshState, topic: TopicState, held: Held, peer: bytes) -> bool:
    """A unit comes from another peer: whether to tell that peer that the author's units come sooner from others."""
    member = state.peers.get(peer)
    if member is None or held.author is None or not held.unit.batched:
        return False
    if held.copies < GOSSIP_VOTE_COPIES or peer not in topic.mesh:
        return False
    told = member.relieved.get(held.author)
    if told is not None and state.beat <= told + 1:
        return False  # what it sends now may have been under way before
    _note(member.relieved, held.author, state.beat)
    return True


def spare(state: MeshState, member: Member, unit_id: bytes) -> None:
    """A peer doesn't want a unit. If it is one that we have sent, the peer is spared the author's next ones."""
    held = state.held(unit_id)
    if held is not None and held.author is not None and held.unit.batched and member.key in held.sent:
        _note(member.spared, held.author, state.beat)


def lift(member: Member, held: Held) -> None:
    """A peer asks for a unit: others fail it, so it gets the author's units from us again."""
    if held.author is not None:
        member.spared.pop(held.author, None)


def expire(state: MeshState) -> None:
    """A heartbeat: what was said long ago holds no more."""
    for member in state.peers.values():
        for table in (member.spared, member.relieved):
            while table and next(iter(table.values())) <= state.beat - GOSSIP_SPARED_HEARTBEATS:
                del table[next(iter(table))]


def _note(table: dict[bytes, int], author: bytes, beat: int) -> None:
    table.pop(author, None)
    table[author] = beat
    if len(table) > GOSSIP_SPARED_MAX:
        del table[next(iter(table))]
