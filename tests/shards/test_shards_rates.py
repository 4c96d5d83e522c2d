"""The cap on bytes per second: what it lets through in the long run, after a silence, and of pieces larger than it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepshard.shards.rates import BURST_S, RateCap


def test_no_cap_never_waits() -> None:
    cap = RateCap(0)
    cap.spend(1 << 40, 0.0)
    assert not cap.is_set
    assert cap.wait_s(0.0) == cap.wait_s(0.0, 1 << 40) == 0.0


def test_a_piece_larger_than_the_burst_goes_at_once_and_the_next_waits_for_it() -> None:
    cap = RateCap(100.0)
    assert cap.is_set
    assert cap.wait_s(7.0, 1000) == 0.0
    cap.spend(1000, 7.0)
    assert cap.wait_s(7.0, 1000) == pytest.approx(10.0)
    assert cap.wait_s(7.0) == pytest.approx(10.0 - BURST_S)
    assert cap.wait_s(12.0, 1000) == pytest.approx(5.0)
    assert cap.wait_s(17.0, 1000) == 0.0


def test_what_did_not_go_is_given_back_and_never_more() -> None:
    cap = RateCap(100.0)
    cap.spend(1000, 0.0)
    cap.spend(-600, 1.0)
    assert cap.wait_s(1.0, 1000) == pytest.approx(3.0)
    cap.spend(-5000, 1.0)
    cap.spend(100, 1.0)
    assert cap.wait_s(1.0, 1000) == pytest.approx(1.0)


def test_a_silence_saves_up_no_more_than_the_burst() -> None:
    cap = RateCap(100.0)
    for _ in range(5):
        assert cap.wait_s(1000.0, 10) == 0.0
        cap.spend(10, 1000.0)
    assert cap.wait_s(1000.0, 10) == pytest.approx(0.1)


@given(st.lists(st.tuples(st.integers(1, 3000), st.floats(0.0, 5.0)), min_size=1, max_size=40))
def test_who_waits_as_told_stays_below_the_rate(pieces: list[tuple[int, float]]) -> None:
    cap, now, gone = RateCap(1000.0), 0.0, 0
    for size, idle_s in pieces:
        now += idle_s
        now += cap.wait_s(now, size)
        cap.spend(size, now)
        gone += size
        assert gone <= 1000.0 * (now + BURST_S) + 3000 + 1
