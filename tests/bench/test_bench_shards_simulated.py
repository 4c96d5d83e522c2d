"""The simulated rows of the bench of shards: their checks catch what they are there for, and their links keep time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest

from bench.shards.joining import joining_rows
from bench.shards.joining_links import Links, Plan
from bench.shards.leaving import (
    FAILING,
    WAYS,
    any_six,
    holders_of,
    leaving_rows,
    operator_and_network,
    ring,
    ring_with_domains,
    two_operators,
)
from deepshard.placement import Candidate, shard_key

KEYS = [shard_key("layer", row) for row in range(200)]


def test_the_rows_of_leaving_meet_their_targets_in_short() -> None:
    rows = leaving_rows(quick=True)
    assert all(row.met for row in rows)
    by_name = {row.name.partition(":")[0]: row for row in rows if row.name.startswith("6 of 20")}
    # Without domains the same failures do lose shards: the draws are no empty test.
    assert "rendezvous without domains" in by_name["6 of 20 fail, two operators of three"].beside
    for name in ("6 of 20 fail, two operators of three", "6 of 20 fail, an operator and a network"):
        assert not str(by_name[name].beside["rendezvous without domains"]).startswith("0 draws")
        assert str(by_name[name].beside["with domains"]).startswith("0 draws")
    assert by_name["6 of 20 fail, any six"].value


@pytest.mark.parametrize("draw", [two_operators, operator_and_network, any_six])
def test_six_of_twenty_fail(draw: Callable[[Random, Sequence[Candidate]], set[int]]) -> None:
    candidates = holders_of(3)
    for seed in range(20):
        assert len(draw(Random(seed), candidates)) == FAILING


def test_the_rings_hold_what_they_promise() -> None:
    candidates = holders_of(1)
    known = {each.address: each for each in candidates}
    for way in (ring, ring_with_domains):
        placed = way(KEYS, candidates)
        assert all(len(set(held_by)) == 3 for held_by in placed)
        rest = candidates[1:]
        after = way(KEYS, rest)
        for old, new in zip(placed, after, strict=True):
            assert (candidates[0].address in old) == (set(old) != set(new))
    for held_by in ring_with_domains(KEYS, candidates):
        assert len({known[address].operator for address in held_by}) == 3
    assert set(WAYS) >= {"ring", "with domains"}


def test_a_node_alone_takes_what_its_link_takes_and_the_latency() -> None:
    plan = Plan(nodes=1, contents=20, degree=2, latency_s=0.0)
    joined = Links(plan).run()
    assert plan.one_link_s <= joined.done_s[0] <= plan.one_link_s + 1.1
    assert joined.seeder_bytes == plan.total_bytes
    assert joined.wasted_bytes == 0


def test_a_few_nodes_help_each_other() -> None:
    (row,) = joining_rows(quick=True)
    # One after the other from the seeder alone would take 40 times as long as one link.
    assert row.value is not None
    assert 1.0 <= row.value < 5
