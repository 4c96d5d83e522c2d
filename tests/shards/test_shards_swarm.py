"""The download scheduler against peers that are slow, corrupt, busy, or gone."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshard.primitives import content_digest
from deepshard.shards.swarm import Outcome, Part, Swarm

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
DIGESTS = sorted(content_digest(bytes([number])) for number in range(12))


PARTS = [Part(digest) for digest in DIGESTS]


def _whole(digests: Iterable[bytes]) -> dict[bytes, list[Part]]:
    return {digest: [Part(digest)] for digest in digests}


def _swarm(count: int = 12, **options: float) -> Swarm:
    return Swarm(_whole(DIGESTS[:count]), timeout_s=options.get("timeout_s", 10.0))


def test_nothing_wanted_is_done_at_once() -> None:
    assert Swarm({}).done
    assert not _swarm(1).done


def test_rarest_first_ties_by_address() -> None:
    swarm = _swarm(4)
    swarm.offer(A, DIGESTS[:4])
    swarm.offer(B, DIGESTS[1:3])
    swarm.offer(C, DIGESTS[2:3])
    requests = swarm.next_requests(0.0)
    assert [part for peer, part in requests if peer == A] == [PARTS[0], PARTS[3]]
    assert [part for peer, part in requests if peer == B] == [PARTS[1]]
    assert [part for peer, part in requests if peer == C] == [PARTS[2]]
    assert swarm.next_requests(0.0) == []


def test_each_node_takes_equally_rare_contents_in_an_order_of_its_own() -> None:
    orders = set()
    for number in range(8):
        swarm = Swarm(_whole(DIGESTS), salt=bytes([number]), in_flight_max=12)
        swarm.offer(A, DIGESTS)
        swarm.offer(B, DIGESTS[1:])  # the first is rarer
        asked = [part.digest for peer, part in swarm.next_requests(0.0) if peer == A]
        assert asked[0] == DIGESTS[0]
        orders.add(asked[1])
    assert len(orders) > 3


def test_the_window_shrinks_while_answers_take_seconds() -> None:
    swarm = Swarm(_whole(DIGESTS), in_flight_max=4)
    swarm.offer(A, DIGESTS)
    lengths = []
    for sent, came in ((0.0, 1.0), (1.0, 1.5), (2.0, 4.5), (5.0, 6.5), (7.0, 9.5), (10.0, 12.5), (13.0, 13.1)):
        requests = swarm.next_requests(sent)
        lengths.append(len(requests))
        peer, part = requests[0]
        swarm.received(peer, part, Outcome.VERIFIED, came, size=1)
        for peer, part in requests[1:]:
            swarm.received(peer, part, Outcome.ABSENT, came)
        swarm.offer(A, DIGESTS)
    assert lengths == [2, 3, 4, 3, 3, 2, 1]


def test_what_is_urgent_comes_before_what_is_rare_and_after_what_was_begun() -> None:
    urgency = {DIGESTS[0]: 2, DIGESTS[1]: 1, DIGESTS[3]: 1}  # and 0 for DIGESTS[2]
    swarm = Swarm(_whole(DIGESTS[:4]), urgency=urgency, begun=[DIGESTS[0]])
    swarm.offer(A, DIGESTS[:4])
    swarm.offer(B, DIGESTS[1:3])
    asked = [part for _, part in swarm.next_requests(0.0)]
    asked += [
        part
        for peer, old in ((A, PARTS[0]), (B, PARTS[2]))
        for _ in [swarm.received(peer, old, Outcome.VERIFIED, 1.0, size=1)]
        for _, part in swarm.next_requests(1.0)
    ]
    assert asked == [PARTS[0], PARTS[2], PARTS[3], PARTS[1]]


def test_the_window_grows_with_verified_chunks_up_to_its_bound() -> None:
    swarm = Swarm(_whole(DIGESTS), in_flight_max=4)
    swarm.offer(A, DIGESTS)
    first = swarm.next_requests(0.0)
    assert len(first) == 2
    for peer, part in first:
        assert swarm.received(peer, part, Outcome.VERIFIED, 1.0, size=10)
    second = swarm.next_requests(1.0)
    assert len(second) == 4
    for peer, part in second:
        swarm.received(peer, part, Outcome.VERIFIED, 2.0, size=10)
    assert len(swarm.next_requests(2.0)) == 4
    assert swarm.bytes_by_peer == {A: 60}
    assert swarm.chunks_by_peer == {A: 6}


def test_what_has_arrived_makes_room_but_no_more_of_it_than_one_window_is_stored_at_a_time() -> None:
    swarm = Swarm(_whole(DIGESTS), in_flight_max=2)
    swarm.offer(A, DIGESTS)
    asked = swarm.next_requests(0.0)
    assert asked == [(A, PARTS[0]), (A, PARTS[1])]
    swarm.arrived(A, PARTS[0], 0.1)
    assert swarm.next_requests(0.1) == [(A, PARTS[2])]
    swarm.arrived(A, PARTS[1], 0.2)
    assert swarm.next_requests(0.2) == []  # two are being stored
    assert swarm.received(A, PARTS[0], Outcome.VERIFIED, 9.0, size=5)
    assert swarm.next_requests(9.0) == [(A, PARTS[3])]
    assert swarm.bytes_by_peer == {A: 5}


def test_what_has_arrived_neither_times_out_nor_is_asked_of_another_until_it_turns_out_wrong() -> None:
    swarm = _swarm(1, timeout_s=10.0)
    swarm.offer(A, DIGESTS[:1])
    swarm.offer(B, DIGESTS[:1])
    assert swarm.next_requests(0.0) == [(A, PARTS[0])]
    swarm.arrived(A, PARTS[0], 1.0)
    assert swarm.next_requests(60.0) == []
    assert swarm.next_deadline(60.0) is None
    assert not swarm.received(A, PARTS[0], Outcome.CORRUPT, 61.0, size=5)
    assert swarm.next_requests(61.0) == [(B, PARTS[0])]


def test_how_long_an_answer_takes_is_counted_without_the_disk() -> None:
    swarm = Swarm(_whole(DIGESTS), in_flight_max=4)
    swarm.offer(A, DIGESTS)
    swarm.next_requests(0.0)
    swarm.arrived(A, PARTS[0], 0.5)
    assert swarm.received(A, PARTS[0], Outcome.VERIFIED, 5.0, size=1)  # stored for longer than answers may take
    assert len(swarm.next_requests(5.0)) == 2  # window 3, one still in flight


def test_peers_with_equal_offers_share_the_work() -> None:
    swarm = _swarm(4)
    swarm.offer(A, DIGESTS)
    swarm.offer(B, DIGESTS)
    assert swarm.next_requests(0.0) == [(A, PARTS[0]), (B, PARTS[1]), (A, PARTS[2]), (B, PARTS[3])]


def test_requests_one_at_a_time_go_to_who_has_least_to_do_and_then_to_who_has_brought_least() -> None:
    swarm = _swarm(4)
    for peer in (A, B):
        swarm.offer(peer, DIGESTS)
    assert swarm.next_requests(0.0, at_most=1) == [(A, PARTS[0])]
    assert swarm.next_requests(0.0, at_most=1) == [(B, PARTS[1])]
    assert swarm.received(A, PARTS[0], Outcome.VERIFIED, 0.1, size=5)
    assert swarm.received(B, PARTS[1], Outcome.VERIFIED, 0.1, size=4)
    assert swarm.next_requests(0.1, at_most=1) == [(B, PARTS[2])]
    assert swarm.next_requests(0.1, at_most=0) == []
    assert swarm.next_requests(0.1, at_most=9) == [(A, PARTS[3])]


def test_a_corrupt_peer_is_never_asked_again_and_its_chunks_go_to_others() -> None:
    swarm = _swarm(2)
    swarm.offer(A, DIGESTS[:2])
    assert swarm.next_requests(0.0) == [(A, PARTS[0]), (A, PARTS[1])]
    assert not swarm.received(A, PARTS[0], Outcome.CORRUPT, 1.0, size=10)
    assert (swarm.bad_peers, swarm.is_bad(A), swarm.wasted_bytes) == ((A,), True, 10)
    swarm.offer(A, DIGESTS)
    swarm.peer_gone(A)
    swarm.offer(A, DIGESTS[:1])
    assert swarm.next_requests(2.0) == []
    swarm.offer(C, [])
    assert swarm.not_offered_by(B) == DIGESTS[:2]
    swarm.offer(B, DIGESTS)
    assert swarm.next_requests(2.0) == [(B, PARTS[0]), (B, PARTS[1])]


def test_a_timeout_frees_the_chunk_pauses_the_peer_and_doubles_the_pause() -> None:
    swarm = _swarm(1, timeout_s=10.0)
    swarm.offer(A, DIGESTS)
    assert swarm.next_requests(0.0) == [(A, PARTS[0])]
    assert swarm.next_requests(9.9) == []
    assert swarm.next_deadline(9.9) == 10.0
    assert swarm.next_requests(10.0) == []
    assert swarm.next_deadline(10.0) == 20.0
    assert swarm.next_requests(20.0) == [(A, PARTS[0])]
    assert swarm.next_requests(30.0) == []
    assert swarm.next_deadline(30.0) == 50.0
    swarm.offer(B, DIGESTS)
    assert swarm.next_requests(31.0) == [(B, PARTS[0])]


def test_a_timeout_halves_the_window() -> None:
    swarm = _swarm(timeout_s=10.0)
    swarm.offer(A, DIGESTS)
    for peer, part in swarm.next_requests(0.0):
        swarm.received(peer, part, Outcome.VERIFIED, 0.0)
    assert len(swarm.next_requests(0.0)) == 4
    assert swarm.next_requests(10.0) == []
    assert len(swarm.next_requests(20.0)) == 2


def test_a_late_answer_is_taken_if_nobody_was_faster() -> None:
    swarm = _swarm(1)
    swarm.offer(A, DIGESTS)
    swarm.next_requests(0.0)
    swarm.next_requests(10.0)
    assert swarm.received(A, PARTS[0], Outcome.VERIFIED, 11.0, size=10)
    assert swarm.done
    assert not swarm.received(B, PARTS[0], Outcome.VERIFIED, 12.0, size=10)
    assert (swarm.bytes_by_peer, swarm.wasted_bytes) == ({A: 10}, 10)


def test_endgame_asks_another_for_what_one_is_slow_with_but_not_a_third() -> None:
    swarm = _swarm(1, timeout_s=10.0)
    for peer in (A, B, C):
        swarm.offer(peer, DIGESTS)
    assert swarm.next_requests(0.0) == [(A, PARTS[0])]
    assert swarm.next_requests(4.9) == []
    assert swarm.next_deadline(0.0) == 5.0
    assert swarm.next_requests(5.0) == [(B, PARTS[0])]
    assert swarm.next_requests(9.0) == []


@pytest.mark.parametrize(("answer_s", "patience_s"), [(0.01, 1.0), (0.25, 2.0), (1.0, 5.0)])
def test_patience_at_the_end_is_a_few_answers_long(answer_s: float, patience_s: float) -> None:
    swarm = _swarm(2, timeout_s=10.0)
    swarm.offer(A, DIGESTS)
    assert swarm.next_requests(0.0) == [(A, PARTS[0]), (A, PARTS[1])]
    assert swarm.received(A, PARTS[0], Outcome.VERIFIED, answer_s)
    swarm.offer(B, DIGESTS)
    assert swarm.next_deadline(answer_s) == patience_s
    assert swarm.next_requests(patience_s - 0.01) == []
    assert swarm.next_requests(patience_s) == [(B, PARTS[1])]


def test_absent_is_not_asked_again_until_offered_again() -> None:
    swarm = _swarm(1)
    swarm.offer(A, DIGESTS)
    swarm.next_requests(0.0)
    swarm.received(A, PARTS[0], Outcome.ABSENT, 1.0)
    assert swarm.next_requests(1.0) == []
    assert swarm.not_offered_by(A) == [DIGESTS[0]]
    swarm.offer(A, DIGESTS)
    assert swarm.next_requests(1.0) == [(A, PARTS[0])]


def test_busy_is_asked_again_after_a_pause_without_a_strike() -> None:
    swarm = _swarm(1)
    swarm.offer(A, DIGESTS)
    swarm.next_requests(0.0)
    swarm.received(A, PARTS[0], Outcome.BUSY, 1.0)
    assert swarm.next_requests(1.4) == []
    assert swarm.next_deadline(1.4) == 1.5
    assert swarm.next_requests(1.5) == [(A, PARTS[0])]


def test_a_peer_that_leaves_gives_its_chunks_back() -> None:
    swarm = _swarm(1)
    swarm.offer(A, DIGESTS)
    swarm.offer(B, DIGESTS)
    assert swarm.next_requests(0.0) == [(A, PARTS[0])]
    swarm.peer_gone(A)
    assert swarm.next_requests(0.1) == [(B, PARTS[0])]
    swarm.peer_gone(C)


def test_what_nobody_offers_is_asked_about_first() -> None:
    swarm = _swarm(4)
    swarm.offer(A, DIGESTS[:2])
    assert swarm.not_offered_by(B) == [DIGESTS[2], DIGESTS[3], DIGESTS[0], DIGESTS[1]]
    assert swarm.not_offered_by(A) == [DIGESTS[2], DIGESTS[3]]


_behaviours = st.lists(st.lists(st.sampled_from([*Outcome, None]), min_size=1, max_size=4), min_size=1, max_size=4)


@given(_behaviours, st.lists(st.sets(st.sampled_from(DIGESTS)), min_size=4, max_size=4))
@settings(max_examples=80)
def test_one_honest_peer_is_enough(behaviours: list[list[Outcome | None]], offers: list[set[bytes]]) -> None:
    """Whatever the others do (None: never answer), all arrives, and windows are kept."""
    swarm = _swarm(12)
    honest = b"z" * 32
    swarm.offer(honest, DIGESTS)
    for number, offer in enumerate(offers[: len(behaviours)]):
        swarm.offer(bytes([number]) * 32, offer)
    now, asked, open_requests = 0.0, 0, set[tuple[bytes, Part]]()
    while not swarm.done:
        requests = swarm.next_requests(now)
        assert len(set(requests)) == len(requests)
        assert not any(swarm.is_bad(peer) for peer, _ in requests)
        for peer, part in requests:
            asked += 1
            open_requests.add((peer, part))
            outcome = Outcome.VERIFIED
            if peer != honest:
                behaviour = behaviours[peer[0]]
                outcome_or_none = behaviour[asked % len(behaviour)]
                if outcome_or_none is None:
                    continue
                outcome = outcome_or_none
            swarm.received(peer, part, outcome, now, size=10)
        if not requests and not swarm.done:
            deadline = swarm.next_deadline(now)
            assert deadline is not None
            assert deadline > now
            now = deadline
        assert asked < 2000
    assert sum(swarm.chunks_by_peer.values()) == 12


def _ranges(digest: bytes, count: int) -> list[Part]:
    return [Part(digest, number * 64, 64) for number in range(count)]


def test_a_content_falls_into_parts_once_its_first_is_verified_and_peers_share_them() -> None:
    one, two, three, four = _ranges(DIGESTS[0], 4)
    swarm = Swarm({DIGESTS[0]: [one]})
    for peer in (A, B):
        swarm.offer(peer, DIGESTS)
    assert swarm.next_requests(0.0) == [(A, one)]
    assert swarm.received(A, one, Outcome.VERIFIED, 1.0, size=10, left=[two, three, four])
    assert swarm.missing == {DIGESTS[0]}
    assert (swarm.is_open(one), swarm.is_open(four), swarm.first_part(DIGESTS[0])) == (False, True, two)
    assert swarm.next_requests(1.0) == [(A, two), (B, three), (A, four)]
    assert swarm.received(B, three, Outcome.VERIFIED, 2.0, size=10, left=[two, four])
    assert swarm.next_requests(2.0) == []
    assert swarm.received(A, four, Outcome.VERIFIED, 2.0, size=10, left=[two])
    assert swarm.received(A, two, Outcome.VERIFIED, 2.0, size=10)
    assert swarm.done
    assert (swarm.bytes_by_peer, swarm.chunks_by_peer) == ({A: 30, B: 10}, {A: 1})
    assert not swarm.received(B, two, Outcome.VERIFIED, 3.0, size=10)
    assert swarm.wasted_bytes == 10


def test_what_was_begun_comes_first_and_from_its_beginning() -> None:
    ranges = _ranges(DIGESTS[3], 2)
    swarm = Swarm(_whole(DIGESTS[:3]) | {DIGESTS[3]: ranges}, begun=[DIGESTS[3]], in_flight_max=2)
    swarm.offer(A, DIGESTS)
    swarm.offer(B, DIGESTS[3:])
    assert swarm.next_requests(0.0) == [(A, ranges[0]), (B, ranges[1]), (A, PARTS[0])]


def test_a_part_of_a_corrupt_or_vanished_peer_goes_to_another_and_the_rest_stays() -> None:
    ranges = _ranges(DIGESTS[0], 3)
    swarm = Swarm({DIGESTS[0]: ranges})
    swarm.offer(A, DIGESTS)
    assert swarm.next_requests(0.0) == [(A, ranges[0]), (A, ranges[1])]
    assert swarm.received(A, ranges[0], Outcome.VERIFIED, 0.0, left=ranges[1:])
    assert not swarm.received(A, ranges[1], Outcome.CORRUPT, 0.0, size=10)
    swarm.offer(B, DIGESTS)
    swarm.offer(C, DIGESTS)
    assert swarm.next_requests(0.0) == [(B, ranges[1]), (C, ranges[2])]
    swarm.peer_gone(B)
    assert swarm.next_requests(0.0) == [(C, ranges[1])]


def test_a_content_that_has_to_begin_again_is_asked_for_again_with_the_part_that_just_came() -> None:
    ranges = _ranges(DIGESTS[0], 2)
    swarm = Swarm({DIGESTS[0]: ranges[1:]}, begun=[DIGESTS[0]])
    swarm.offer(A, DIGESTS)
    assert swarm.next_requests(0.0) == [(A, ranges[1])]
    assert swarm.received(A, ranges[1], Outcome.VERIFIED, 0.0, left=ranges)
    assert swarm.next_requests(0.0) == [(A, ranges[0]), (A, ranges[1])]


def test_what_is_absent_isnt_asked_for_in_other_parts_either() -> None:
    ranges = _ranges(DIGESTS[0], 3)
    swarm = Swarm({DIGESTS[0]: ranges})
    swarm.offer(A, DIGESTS)
    swarm.next_requests(0.0)
    swarm.received(A, ranges[0], Outcome.ABSENT, 0.0)
    swarm.received(A, ranges[1], Outcome.ABSENT, 0.0)
    assert swarm.next_requests(0.0) == []
