"""Which blocks are asked of whom: single rules, then whole catch-ups with slow, lying and vanishing peers."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshard.errors import MalformedMessage
from deepshard.limits import MIB
from deepshard.services.block_schedule import (
    PATIENCE_S,
    RANGE_BLOCKS,
    RANGE_BYTES,
    RANGES_PER_PEER,
    BlockSchedule,
    BlocksWanted,
)
from deepshard.services.enquiries import LATE_PER_PEER_MAX
from deepshard.wire.messages import Blocks

A, B, C = (name * 32 for name in (b"a", b"b", b"c"))


def schedule(*claims: tuple[bytes, int], buffer_bytes_max: int = 24 * MIB) -> BlockSchedule:
    made = BlockSchedule(count(1), buffer_bytes_max=buffer_bytes_max)
    for peer, height in claims:
        made.note(peer, height)
    return made


def answer(wanted: BlocksWanted, blocks: int | None = None) -> Blocks:
    amount = wanted.count if blocks is None else blocks
    return Blocks(wanted.request, tuple((b"block %d" % (wanted.first + at), b"c") for at in range(amount)))


def spans(wanted: list[BlocksWanted]) -> list[tuple[int, int]]:
    return [(one.first, one.first + one.count - 1) for one in wanted]


def test_ranges_are_spread_over_the_peers_that_claim_them() -> None:
    made = schedule((A, 500), (B, 500), (C, 70))
    wanted = made.wanted(0, 0.0)
    assert spans(wanted) == [(1, 32), (33, 64), (65, 70), (97, 128), (129, 160)]
    assert [one.peer for one in wanted] == [A, B, C, A, B]
    assert made.wanted(0, 0.0) == [], "nothing is asked twice"
    assert all(sum(one.peer == peer for one in wanted) <= RANGES_PER_PEER for peer in (A, B, C))


@pytest.mark.clause("6.4/5")
def test_answers_may_come_in_any_order_and_hold_less() -> None:
    made = schedule((A, 64), (B, 64))
    first, second = made.wanted(0, 0.0)
    made.accept(second.peer, answer(second), 0)
    assert made.take(0) is None
    made.accept(first.peer, answer(first, 2), 0)
    assert made.take(0) == made_of(first.peer, 1)
    assert made.take(1) == made_of(first.peer, 2)
    assert made.take(2) is None
    assert spans(made.wanted(2, 0.0)) == [(3, 32)], "what is missing of the range, up to what has come"


def made_of(peer: bytes, height: int) -> object:
    made = schedule((peer, height))
    [*_, last] = made.wanted(height - 1, 0.0)
    made.accept(peer, answer(last), height - 1)
    return made.take(height - 1)


def test_a_slow_peer_is_passed_over_and_its_answer_still_taken() -> None:
    made = schedule((A, 32))
    [slow] = made.wanted(0, 0.0)
    made.note(B, 32)
    assert made.wanted(0, PATIENCE_S / 2) == []
    assert made.tick(PATIENCE_S - 0.1) == []
    assert made.tick(PATIENCE_S) == [A]
    [again] = made.wanted(0, PATIENCE_S)
    assert (again.peer, again.first) == (B, 1)
    made.accept(A, answer(slow), 0)
    assert made.take(0) is not None
    made.accept(B, answer(again), 1)
    assert made.take(1) is not None


def test_a_peer_that_never_answers_is_not_asked_for_ever() -> None:
    made = schedule((A, 10_000))
    asked = 0
    for step in range(100):
        asked += len(made.wanted(0, step * PATIENCE_S))
        made.tick((step + 1) * PATIENCE_S)
    assert asked <= LATE_PER_PEER_MAX + RANGES_PER_PEER


@pytest.mark.clause("6.4/4")
def test_who_lowers_its_height_is_asked_for_no_more_than_that() -> None:
    made = schedule((A, 100))
    wanted = made.wanted(0, 0.0)
    assert spans(wanted) == [(1, 32), (33, 64)]
    made.note(A, 40)
    made.note(B, 100)
    assert made.is_behind(40)
    again = made.wanted(0, 0.0)
    assert [(one.peer, one.first) for one in again] == [(B, 65), (B, 97)]
    made.note(A, 20)
    assert [one.first for one in made.wanted(0, 0.0) if one.peer == A] == []
    made.accept(again[0].peer, answer(again[0]), 0)
    assert [(one.peer, one.first) for one in made.wanted(0, 0.0)] == [(B, 33)], "33 to 64 is free for others"


def test_who_claims_what_it_has_not_waits_for_its_turn() -> None:
    made = schedule((A, 2**40))
    [wanted, _] = made.wanted(0, 0.0)
    made.accept(A, answer(wanted, 0), 0)
    assert not made.is_behind(0), "its claim is worth nothing any more"
    made.note(A, 2**40)
    made.note(B, 50)
    assert {one.peer for one in made.wanted(0, 0.0)} == {B}, "it rests until the next tick"
    made.tick(0.5)
    assert all(one.first > 1 for one in made.wanted(0, 0.5) if one.peer == A), "not for what it hadn't"


def test_a_peer_without_low_blocks_is_asked_for_high_ones() -> None:
    made = schedule((A, 100))
    [low, high] = made.wanted(0, 0.0)
    made.accept(A, answer(low, 0), 0)
    made.accept(A, answer(high), 0)
    made.note(A, 100)
    made.note(B, 32)
    made.tick(1.0)
    wanted = made.wanted(0, 1.0)
    assert [(one.peer, one.first) for one in wanted] == [(B, 1), (A, 65), (A, 97)]


def test_a_false_block_costs_its_sender_all_it_sent() -> None:
    made = schedule((A, 64), (B, 64))
    first, second = made.wanted(0, 0.0)
    made.accept(first.peer, answer(first), 0)
    made.accept(second.peer, answer(second), 0)
    assert made.take(0) is not None
    made.blame(first.peer)
    assert made.take(0) is None
    assert made.waiting_bytes == sum(len(b"block %d" % at) + 1 for at in range(33, 65))
    [again] = made.wanted(0, 0.0)
    assert (again.peer, again.first, again.count) == (second.peer, 1, 32)


@pytest.mark.clause("6.4/14")
def test_more_blocks_than_asked_are_refused() -> None:
    made = schedule((A, 3))
    [wanted] = made.wanted(0, 0.0)
    with pytest.raises(MalformedMessage, match="4 blocks came, 3 were asked for"):
        made.accept(A, answer(wanted, 4), 0)
    assert made.take(0) is None


@pytest.mark.clause("6.1/4")
def test_an_answer_to_nothing_is_ignored() -> None:
    made = schedule((A, 3), (B, 3))
    [wanted] = made.wanted(0, 0.0)
    made.accept(B, answer(wanted), 0)
    made.accept(A, Blocks(wanted.request + 1, answer(wanted).blocks), 0)
    assert made.take(0) is None
    made.accept(wanted.peer, answer(wanted), 0)
    assert made.take(0) is not None


def test_what_waits_is_bounded_and_the_next_block_always_finds_room() -> None:
    bound = 4 * RANGE_BYTES
    made = schedule(*((bytes([i]) * 32, 1000) for i in range(8)), buffer_bytes_max=bound)
    wanted = made.wanted(0, 0.0)
    assert len(wanted) == 4, "room is kept for each answer"
    big = bytes(RANGE_BYTES // 8)
    for one in wanted[1:]:
        made.accept(one.peer, Blocks(one.request, ((big, b""),) * one.count), 0)
        assert made.waiting_bytes <= bound
    assert made.waiting_bytes > bound - len(big), "full"
    assert made.wanted(0, 0.0) == []
    made.forget(wanted[0].peer)
    again = made.wanted(0, 0.0)
    assert spans(again) == [(1, 32)], "the next blocks are asked for all the same"
    made.accept(again[0].peer, answer(again[0]), 0)
    for height in range(2):
        assert made.take(height) is not None or height > 0


# -- whole catch-ups -------------------------------------------------------------------------------------------------

KINDS = ("honest", "slow", "few", "empty", "false", "silent", "lowers", "leaves", "surplus")


@dataclass
class Peer:
    kind: str
    latency_s: float
    rng: random.Random
    answered: int = 0

    def reply(self, wanted: BlocksWanted, tip: int) -> Blocks | None:
        self.answered += 1
        last = min(tip, wanted.first + wanted.count - 1)
        true = tuple((b"block %d" % at, b"c") for at in range(wanted.first, last + 1))
        match self.kind:
            case "empty":
                true = ()
            case "few":
                true = true[:1]
            case "false" if self.rng.random() < 0.7:
                true = tuple((b"forged", b"c") for _ in true)
            case "surplus" if self.rng.random() < 0.5:
                true = (*true, *true, *true)
            case "silent":
                return None
            case "leaves" if self.answered > 2:
                return None
        return Blocks(wanted.request, true)


@dataclass
class World:
    """Peers that answer after a while, a chain that grows, and the schedule; one event after another."""

    peers: dict[bytes, Peer]
    tip: int
    grows: bool
    made: BlockSchedule = field(default_factory=lambda: BlockSchedule(count(1), buffer_bytes_max=6 * RANGE_BYTES))
    height: int = 0
    blamed: set[str] = field(default_factory=set)

    def run(self, *, until_s: float) -> float:
        """Until we have the chain; the time it took."""
        order = count()
        events: list[tuple[float, int, str, bytes, Blocks | None]] = [(0.0, next(order), "tick", b"", None)]
        while events:
            now, _, what, peer, reply = heapq.heappop(events)
            if now > until_s:
                break
            if what == "tick":
                self._tick(now)
                heapq.heappush(events, (now + 0.5, next(order), "tick", b"", None))
            elif reply is not None:
                self._take(peer, reply)
            if self.height == self.tip and (not self.grows or now > 30):
                return now
            for wanted in self.made.wanted(self.height, now):
                asked = self.peers[wanted.peer]
                answer = asked.reply(wanted, self.tip)
                heapq.heappush(events, (now + asked.latency_s, next(order), "reply", wanted.peer, answer))
            assert self.made.waiting_bytes <= 6 * RANGE_BYTES
        raise AssertionError(f"at {self.height} of {self.tip} after {until_s} s")

    def _tick(self, now: float) -> None:
        self.tip += int(self.grows and now < 30)
        self.made.tick(now)
        for key, peer in self.peers.items():
            if peer.kind == "leaves" and peer.answered > 2:
                self.made.forget(key)
                continue
            claim = self.tip if peer.kind != "empty" else 2**40
            self.made.note(key, claim // 2 if peer.kind == "lowers" and peer.rng.random() < 0.5 else claim)

    def _take(self, peer: bytes, reply: Blocks) -> None:
        try:
            self.made.accept(peer, reply, self.height)
        except MalformedMessage:
            self.blamed.add(self.peers[peer].kind)
        while (arrived := self.made.take(self.height)) is not None:
            if arrived.block != b"block %d" % (self.height + 1):
                self.blamed.add(self.peers[arrived.peer].kind)
                self.made.blame(arrived.peer)
                break
            self.height += 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(KINDS), max_size=7), st.integers(1, 400), st.booleans(), st.randoms(use_true_random=False)
)
def test_with_one_honest_peer_the_chain_arrives_and_only_liars_are_blamed(
    kinds: list[str],
    tip: int,
    grows: bool,  # noqa: FBT001
    rng: random.Random,
) -> None:
    latencies = {"slow": 9.0, "honest": 0.2}
    peers = {bytes([at]) * 32: Peer(kind, latencies.get(kind, 0.1), rng) for at, kind in enumerate(["honest", *kinds])}
    world = World(peers, tip, grows)
    world.run(until_s=600)
    assert world.blamed <= {"false", "surplus"}


@pytest.mark.parametrize("latency_s", [0.1, 1.0, 9.0])
def test_peers_that_are_all_slow_are_enough(latency_s: float) -> None:
    world = World({bytes([at]) * 32: Peer("slow", latency_s, random.Random(at)) for at in range(3)}, 400, grows=False)
    assert world.run(until_s=600) < 40 * latency_s + 10


def test_more_peers_are_faster_and_one_slow_peer_is_no_brake() -> None:
    def took(*latencies: float) -> float:
        peers = {bytes([at]) * 32: Peer("honest", each, random.Random(at)) for at, each in enumerate(latencies)}
        return World(peers, 960, grows=False).run(until_s=600)

    one, four = took(1.0), took(1.0, 1.0, 1.0, 1.0)
    assert one >= 960 / RANGE_BLOCKS / RANGES_PER_PEER
    assert four < one / 2
    assert took(1.0, 1.0, 1.0, 60.0) < one
