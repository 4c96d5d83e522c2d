"""Repair: the least safe first, nothing that is there already, and how many failures a shard survives."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshard.placement import Candidate, place, shard_key
from deepshard.primitives import tagged_hash
from deepshard.shards.repair import RepairPlan, failures_to_lose, plan_repairs


def _address(number: int) -> bytes:
    return tagged_hash("test address", bytes([number]))[:20]


A, B, C, D, E = (_address(number) for number in range(5))
_labels = st.sampled_from(("", "a", "b", "c"))
_copies = st.lists(st.tuples(_labels, _labels), max_size=5).map(
    lambda labels: [Candidate(_address(number), 1, *both) for number, both in enumerate(labels)]
)


@given(_copies)
@settings(max_examples=200)
def test_failures_to_lose_is_the_smallest_number_of_failures_that_take_all(copies: list[Candidate]) -> None:
    failures = [
        *({each.address} for each in copies),
        *({one.address for one in copies if one.operator == each.operator} for each in copies if each.operator),
        *({one.address for one in copies if one.network == each.network} for each in copies if each.network),
    ]
    everybody = {each.address for each in copies}
    enough = (
        count
        for count in range(len(copies) + 1)
        if any(everybody <= set().union(*some) for some in combinations(failures, count))
    )
    assert failures_to_lose(copies) == next(enough)


@pytest.mark.clause("8.10/6")
def test_the_least_safe_comes_first_and_a_first_copy_before_a_second() -> None:
    labels = {A: Candidate(A, 1, "x"), B: Candidate(B, 1, "x"), C: Candidate(C, 1), D: Candidate(D, 1)}
    wanted = [(A, C, D), (A, B, C), (C, D, A), (B, D, C)]
    held_by = [{A, C}, {A, B}, {C}, {B}]
    plan = plan_repairs(wanted, held_by, {A, B, C, D}, labels)
    assert [(each.shard, each.to, each.safety, each.copies) for each in plan.fetches] == [
        (2, D, 1, 1),  # one copy
        (3, D, 1, 1),
        (1, C, 1, 2),  # two copies that one failure takes
        (0, D, 2, 2),
        (2, A, 2, 2),
        (3, C, 2, 2),
    ]
    assert plan.lost == ()
    assert plan.fetches[0].sources == (C,)


def test_who_is_not_present_neither_fetches_nor_counts_and_a_leaver_still_serves() -> None:
    plan = plan_repairs([(A, B), (A, B), (A, B)], [{B, C}, {E}, {C}], {A, E}, {A: Candidate(A, 1), B: Candidate(B, 1)})
    assert [(each.shard, each.to, each.sources) for each in plan.fetches] == [(1, A, (E,))]
    assert plan.lost == (0, 2)


_networks = st.lists(
    st.builds(Candidate, st.integers(0, 40).map(_address), st.integers(1, 2**62), _labels, st.just("")),
    unique_by=lambda candidate: candidate.address,
    min_size=2,
    max_size=10,
)


@given(_networks, st.integers(1, 4), st.data())
@settings(max_examples=60)
def test_after_a_departure_repair_moves_what_was_lost_and_restores_every_shard(
    candidates: list[Candidate], replication: int, data: st.DataObject
) -> None:
    keys = [shard_key("layer", row) for row in range(20)]
    gone = data.draw(st.sampled_from(candidates)).address
    rest = [each for each in candidates if each.address != gone]
    before, wanted = place(keys, candidates, replication), place(keys, rest, replication)
    present = {each.address for each in rest}
    plan = plan_repairs(wanted, before, present, {each.address: each for each in rest})
    held = [set(holders) - {gone} for holders in before]
    for fetch in plan.fetches:
        assert set(fetch.sources) == set(before[fetch.shard]) & present
        held[fetch.shard].add(fetch.to)
    lost = {shard for shard, holders in enumerate(before) if gone in holders}
    assert {fetch.shard for fetch in plan.fetches} | set(plan.lost) <= lost
    assert len(plan.fetches) <= len(lost)
    for shard, holders in enumerate(held):
        assert len(holders) == min(replication, len(rest)) or shard in plan.lost
    assert list(plan.lost) == [shard for shard, holders in enumerate(before) if set(holders) == {gone}]


def test_nothing_is_fetched_where_nothing_is_missing() -> None:
    candidates = [Candidate(each, 1) for each in (A, B, C, D)]
    placed = place([shard_key("layer", row) for row in range(50)], candidates, 3)
    plan = plan_repairs(placed, placed, {A, B, C, D}, {each.address: each for each in candidates})
    assert plan == RepairPlan((), ())
