"""Ways to the light block of a height: up, down, from a block that a person names, past peers that lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from light_network import CHAIN, GENESIS, LENGTH, PERIOD_MS, START_MS, Chain, grow, sets, truth
from msgspec.structs import replace

from deepshard.consensus.light import (
    InvalidLightBlock,
    LightBlock,
    LightState,
    TrustExpired,
    WrongTrustedHeader,
    trust_genesis,
    trusted_state,
)
from deepshard.consensus.light_route import HeaderRoute
from deepshard.limits import LIGHT_BACKWARD_HEADERS_MAX, SYNC_BLOCKS_MAX

SEED = 1
NOW_MS = START_MS + 1000 * LENGTH


def genesis() -> LightState:
    return trust_genesis(CHAIN, GENESIS, START_MS, sets(SEED)[1])


def state(height: int) -> LightState:
    return genesis() if height == 0 else trusted_state(CHAIN, truth(SEED)[height])


def answer(chain: Mapping[int, LightBlock], first: int, count: int, *, fit: int = SYNC_BLOCKS_MAX) -> list[LightBlock]:
    """What a server with this chain shows: as many as fit, from the lowest on."""
    return [chain[height] for height in range(first, first + count) if height in chain][:fit]


def walk(route: HeaderRoute, chain: Chain, *, fit: int = SYNC_BLOCKS_MAX, now_ms: int = NOW_MS) -> int:
    """Go the whole way with one peer; the number of questions."""
    for questions in range(10_000):
        if route.light is not None:
            return questions
        shown = answer(chain, *route.wanted(), fit=fit)
        assert route.take(shown, now_ms=now_ms, trusting_period_ms=PERIOD_MS)
    raise AssertionError("no end")


@settings(max_examples=60, deadline=None)
@given(start=st.integers(0, LENGTH), goal=st.integers(1, LENGTH), fit=st.sampled_from([1, 2, 7, SYNC_BLOCKS_MAX]))
@pytest.mark.clause("10.5/9")
def test_every_height_is_reached_from_every_other(start: int, goal: int, fit: int) -> None:
    if start == goal:
        return
    route = HeaderRoute(state(start), goal)
    walk(route, truth(SEED), fit=fit)
    assert route.light == truth(SEED)[goal]


@settings(max_examples=40, deadline=None)
@given(named=st.integers(1, LENGTH), goal=st.integers(1, LENGTH))
@pytest.mark.clause("10.5/8")
def test_a_named_block_comes_before_what_is_trusted(named: int, goal: int) -> None:
    chain = truth(SEED)
    route = HeaderRoute(genesis(), goal, named=(named, chain[named].header.block_id()))
    assert route.wanted() == (named, 1)
    other = grow(sets(SEED), LENGTH, mark="other")
    with pytest.raises(WrongTrustedHeader):
        route.take([other[named]], now_ms=NOW_MS, trusting_period_ms=PERIOD_MS)
    assert not route.take([], now_ms=NOW_MS, trusting_period_ms=PERIOD_MS)
    assert route.wanted() == (named, 1)
    walk(route, chain)
    assert route.light == chain[goal]


def test_a_named_block_that_is_too_old_is_no_beginning() -> None:
    chain = truth(SEED)
    route = HeaderRoute(genesis(), LENGTH, named=(3, chain[3].header.block_id()))
    late = chain[3].header.time_ms + PERIOD_MS
    with pytest.raises(TrustExpired):
        route.take([chain[3]], now_ms=late, trusting_period_ms=PERIOD_MS)


@settings(max_examples=40, deadline=None)
@given(start=st.integers(2, LENGTH), data=st.data())
def test_a_way_down_ends_only_at_the_header_that_the_ids_name(start: int, data: st.DataObject) -> None:
    goal = data.draw(st.integers(1, start - 1))
    false = data.draw(st.integers(goal, start - 1))
    other = grow(sets(SEED), LENGTH, mark="other")
    mixed = {height: other[height] if height == false else block for height, block in truth(SEED).items()}
    route = HeaderRoute(state(start), goal)
    with pytest.raises(InvalidLightBlock):
        walk(route, mixed)
    turn = route.turn
    route.pass_over()
    assert route.turn is not turn
    walk(route, truth(SEED))
    assert route.light == truth(SEED)[goal]


def test_the_light_block_at_the_end_of_a_way_down_carries_its_own_certificate() -> None:
    chain: Chain = truth(SEED)
    swapped = LightBlock(chain[10].header, chain[11].certificate, chain[10].validators)
    route = HeaderRoute(state(20), 10)
    with pytest.raises(InvalidLightBlock):
        walk(route, {**chain, 10: swapped})
    assert route.light is None


def test_what_leads_nowhere_is_said_so_and_too_far_is_too_far() -> None:
    route = HeaderRoute(state(20), 10)
    for useless in ([], [truth(SEED)[30]]):
        assert not _taken(route, useless)
    header = replace(truth(SEED)[LENGTH].header, height=5000)
    top = replace(state(LENGTH), height=5000, header=header)
    assert HeaderRoute(top, 5000 - LIGHT_BACKWARD_HEADERS_MAX).is_possible
    assert not HeaderRoute(top, 5000 - LIGHT_BACKWARD_HEADERS_MAX - 1).is_possible


def _taken(route: HeaderRoute, blocks: Sequence[LightBlock]) -> bool:
    return route.take(blocks, now_ms=NOW_MS, trusting_period_ms=PERIOD_MS)
