from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from deepshard.errors import LocalError
from deepshard.ledger.onion import OnionChain, onion_layer_above
from deepshard.ledger.params import ProbePlan
from deepshard.ledger.probes import ProbePools, draw_probes, perturb
from deepshard.ledger.rounds import data_order
from deepshard.ledger.sampling import Draws
from deepshard.primitives import expand

PLAN = ProbePlan(
    batch=2, heldout=3, rejected=1, general=2, perturbations=2, tokens_max=64, replaced_bp=1500, span_tokens=3
)


@pytest.mark.clause("1.4/2", "1.4/3")
def test_draws_read_the_documented_stream() -> None:
    words = [
        int.from_bytes(block[i : i + 8], "little")
        for block in (expand(b"seed" + number.to_bytes(8, "little"), "tag", 1024) for number in range(2))
        for i in range(0, 1024, 8)
    ]
    draws = Draws(b"seed", "tag")
    assert [draws.below(2**64) for _ in range(200)] == words[:200]
    draws = Draws(b"seed", "tag")
    assert [draws.below(10) for _ in range(200)] == [word % 10 for word in words[:200]]
    bound = 2**63 + 1  # nearly half of all words must be drawn again
    draws = Draws(b"seed", "tag")
    assert [draws.below(bound) for _ in range(60)] == [word for word in words if word < bound][:60]


@pytest.mark.clause("11.5/9", "11.5/10")
@given(st.binary(max_size=8), st.integers(0, 30), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_samples_are_distinct_and_permutations_complete(seed: bytes, size: int, count: int) -> None:
    sample = Draws(seed, "t").sample(size, count)
    assert len(sample) == len(set(sample)) == min(size, count)
    assert set(sample) <= set(range(size))
    assert sorted(Draws(seed, "t").permutation(size)) == list(range(size))
    weights = [i % 3 for i in range(size)]
    drawn = Draws(seed, "t").weighted_sample(weights, count)
    assert len(drawn) == len(set(drawn)) == min(count, sum(1 for weight in weights if weight))
    assert all(weights[index] for index in drawn)


def test_samples_reach_every_place_equally_often() -> None:
    first = [Draws(i.to_bytes(4, "big"), "t").sample(5, 2) for i in range(2000)]
    for place in range(2):
        counts = [sum(1 for sample in first if sample[place] == value) for value in range(5)]
        assert all(330 < count < 470 for count in counts)


def test_weighted_draws_follow_the_weights() -> None:
    first = [Draws(i.to_bytes(4, "big"), "t").weighted_sample([1, 3, 0, 6], 1)[0] for i in range(2000)]
    assert 150 < first.count(0) < 250
    assert 520 < first.count(1) < 680
    assert first.count(2) == 0


@pytest.mark.clause("11.5/9", "11.5/12")
def test_data_order_is_pinned() -> None:
    assert data_order(bytes(32), 6, 2) == ((5, 2, 3, 0, 1, 4), (1, 4, 0, 5, 2, 3))
    assert data_order(bytes(32), 0, 1) == ((),)
    assert len(set(data_order(b"s", 20, 5))) == 5


def test_probes_come_pool_by_pool_and_short_pools_give_all() -> None:
    names = {name: [f"{name} {i}".encode().ljust(32) for i in range(n)] for name, n in
             (("batch", 5), ("heldout", 2), ("rejected", 0), ("general", 9))}  # fmt: skip
    pools = ProbePools(**names)
    probes = draw_probes(pools, PLAN, b"seed")
    assert [probe.pool for probe in probes] == ["batch"] * 2 + ["heldout"] * 2 + ["general"] * 2
    assert len(set(probes)) == 6
    assert all(probe.digest in names[probe.pool] for probe in probes)
    assert probes == draw_probes(pools, PLAN, b"seed") != draw_probes(pools, PLAN, b"seee")


TOKENS = tuple(range(100, 140))
TABLE = (*TOKENS, *range(500, 600))


@pytest.mark.clause("11.10/4")
def test_perturbation_is_pinned() -> None:
    got = perturb(tuple(range(10)), tuple(range(50, 60)), plan=PLAN, seed=bytes(32), probe=1, index=2)
    assert got == (0, 1, 2, 3, 4, 5, 6, 58, 56, 9)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 60), st.integers(0, 10_000), st.integers(1, 9))
@settings(max_examples=80, deadline=None)
def test_perturbation_replaces_exactly_its_share(seed: bytes, length: int, share: int, span: int) -> None:
    tokens = tuple(range(100, 100 + length))
    plan = replace(PLAN, replaced_bp=share, span_tokens=span)
    got = perturb(tokens, TABLE, plan=plan, seed=seed, probe=0, index=0)
    changed = [i for i in range(length) if got[i] != tokens[i]]
    assert len(got) == length
    assert len(changed) == max(0, min(-(-length * share // 10_000), length - 1))
    assert 0 not in changed
    assert all(got[i] in TABLE for i in changed)


def test_perturbations_replace_spans_and_differ_by_probe_and_index() -> None:
    plan = replace(PLAN, replaced_bp=1500, span_tokens=6)
    runs = []
    seen = set()
    for index in range(40):
        got = perturb(TOKENS, TABLE, plan=plan, seed=b"s" * 32, probe=0, index=index)
        seen.add(got)
        changed = [i for i in range(40) if got[i] != TOKENS[i]]
        runs.append(1 + sum(1 for a, b in pairwise(changed) if b != a + 1))
    assert len(seen) == 40
    assert max(runs) <= 3  # six tokens in spans of six: one whole span, or an end piece and a part of others
    assert runs.count(1) > 20
    assert perturb(TOKENS, TABLE, plan=plan, seed=b"s" * 32, probe=1, index=0) not in seen


def test_a_table_without_another_token_leaves_the_text() -> None:
    plan = replace(PLAN, replaced_bp=10_000)
    assert perturb((7, 7, 7), (7, 7), plan=plan, seed=bytes(32), probe=0, index=0) == (7, 7, 7)
    assert perturb((7, 7, 7), (), plan=plan, seed=bytes(32), probe=0, index=0) == (7, 7, 7)
    assert perturb((7, 7, 7), (7, 8), plan=plan, seed=bytes(32), probe=0, index=0) == (7, 8, 8)


def test_onion_opens_layer_by_layer_until_it_is_used_up() -> None:
    onion = OnionChain(b"secret" * 5, 520)
    tip = onion.tip
    assert onion.index_of(tip) == 520
    for left in range(520, 0, -1):
        below = onion.preimage(tip)
        assert onion_layer_above(below) == tip
        assert onion.index_of(below) == left - 1
        tip = below
    with pytest.raises(LocalError, match="used up"):
        onion.preimage(tip)


def test_onion_knows_a_foreign_tip() -> None:
    with pytest.raises(LocalError, match="wrong seed"):
        OnionChain(b"one", 300).preimage(OnionChain(b"two", 300).tip)
