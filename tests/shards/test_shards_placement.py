"""Placement: agreed, balanced by weight, and moved as little as possible."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshard.placement import Candidate, holders, log2_fixed, place, shard_key
from deepshard.primitives import ZERO_DIGEST, tagged_hash
from deepshard.shards.layout import shard_identity, shard_keys
from deepshard.shards.manifest import Manifest, ShardEntry, TensorEntry, TensorSlice

_Listed = list[Candidate]
KEYS = [shard_key("layer", row) for row in range(400)]


def _address(number: int) -> bytes:
    return tagged_hash("test address", bytes([number]))[:20]


_labels = st.sampled_from(("", "a", "b", "c"))


def _candidates(operators: st.SearchStrategy[str], networks: st.SearchStrategy[str]) -> st.SearchStrategy[_Listed]:
    one = st.builds(Candidate, st.integers(0, 40).map(_address), st.integers(0, 2**62), operators, networks)
    return st.lists(one, unique_by=lambda candidate: candidate.address, max_size=12)


_any_labels = _candidates(_labels, _labels)
_one_kind = st.one_of(_candidates(_labels, st.just("")), _candidates(st.just(""), _labels))


@given(st.integers(1, 2**64))
@settings(max_examples=100)
def test_the_fixed_point_logarithm_is_the_logarithm(value: int) -> None:
    assert abs(log2_fixed(value) / 2**32 - math.log2(value)) < 1e-8


@pytest.mark.clause("8.10/2")
def test_the_fixed_point_logarithm_at_known_points() -> None:
    assert [log2_fixed(1), log2_fixed(2), log2_fixed(2**64)] == [0, 1 << 32, 64 << 32]
    assert log2_fixed(3) == 6_807_362_105  # floor(log2(3) * 2^32)


def _cost(key: bytes, address: bytes) -> int:
    """Clause 8.10/2, word for word."""
    argument = int.from_bytes(tagged_hash("placement", key, address)[:8], "little") + 1
    position = argument.bit_length() - 1
    m, r = argument * 2 ** (64 - position), position
    for _ in range(32):
        m = m * m // 2**64
        b = m // 2**65
        m //= 2**b
        r = 2 * r + b
    return 64 * 2**32 - r


def _chosen(key: bytes, candidates: _Listed, replication: int) -> list[bytes]:
    """Clause 8.10/4, word for word."""
    chosen: list[Candidate] = []

    def conflicts(one: Candidate) -> int:
        operators = sum(1 for each in chosen if each.operator and each.operator == one.operator)
        return operators + sum(1 for each in chosen if each.network and each.network == one.network)

    def order(one: Candidate) -> tuple[int, int, bytes]:
        return conflicts(one), _cost(key, one.address) * 2**64 // one.weight, one.address

    left = [one for one in candidates if one.weight]
    while left and len(chosen) < replication:
        best = min(left, key=order)
        left.remove(best)
        chosen.append(best)
    return [one.address for one in chosen]


@pytest.mark.clause("8.10/1", "8.10/2", "8.10/4")
@given(_any_labels, st.integers(0, 6), st.integers(0, 2**31 - 1))
def test_holders_are_those_of_the_specification(candidates: _Listed, replication: int, row: int) -> None:
    key = tagged_hash("shard position", b"layer.0", row.to_bytes(8, "little"))
    assert shard_key("layer.0", row) == key
    banded = tagged_hash("shard position", b"layer.0", row.to_bytes(8, "little"), (9).to_bytes(8, "little"))
    assert shard_key("layer.0", row, 9) == banded
    assert holders(key, candidates, replication) == tuple(_chosen(key, candidates, replication))


@pytest.mark.clause("8.10/4")
def test_a_known_placement_never_changes() -> None:
    candidates = [Candidate(_address(number), weight) for number, weight in enumerate((10, 20, 30, 40))]
    numbers = {each.address: number for number, each in enumerate(candidates)}
    table = [[numbers[address] for address in row] for row in place(KEYS[:6], candidates, 2)]
    assert table == [[3, 2], [1, 3], [2, 1], [3, 2], [0, 3], [0, 3]]
    # Two and three go together: whoever of them comes later makes way for the next.
    together = [each._replace(network="n" if number > 1 else "") for number, each in enumerate(candidates)]
    table = [[numbers[address] for address in row] for row in place(KEYS[:6], together, 2)]
    assert table == [[3, 0], [1, 3], [2, 1], [3, 1], [0, 3], [0, 3]]


@given(_any_labels, st.integers(0, 399), st.integers(0, 5))
@settings(max_examples=80)
def test_holders_are_distinct_agreed_and_as_many_as_asked(candidates: _Listed, shard: int, replication: int) -> None:
    held_by = holders(KEYS[shard], candidates, replication)
    able = {each.address for each in candidates if each.weight}
    assert len(held_by) == len(set(held_by)) == min(replication, len(able))
    assert set(held_by) <= able
    assert holders(KEYS[shard], candidates[::-1], replication) == held_by


@given(_one_kind, st.integers(0, 399), st.integers(1, 5))
@settings(max_examples=150)
def test_who_leaves_is_replaced_by_one_and_nobody_else_moves(candidates: _Listed, shard: int, replication: int) -> None:
    before = set(holders(KEYS[shard], candidates, replication))
    able = {each.address for each in candidates if each.weight}
    for leaver in candidates:
        after = set(holders(KEYS[shard], [each for each in candidates if each != leaver], replication))
        assert before - after == {leaver.address} & before
        replaced = leaver.address in before and len(able) > replication
        assert len(after - before) == int(replaced)


@given(_any_labels, st.integers(0, 399), st.integers(1, 4))
@settings(max_examples=80)
def test_who_leaves_without_holding_a_shard_moves_nothing_of_it(
    candidates: _Listed, shard: int, replication: int
) -> None:
    before = holders(KEYS[shard], candidates, replication)
    for bystander in candidates:
        if bystander.address not in before:
            rest = [each for each in candidates if each != bystander]
            assert holders(KEYS[shard], rest, replication) == before


def test_a_move_rarely_pushes_a_second_one_where_operators_and_networks_cross() -> None:
    candidates = [
        Candidate(_address(number), 100, f"operator {number % 7}", f"network {number % 6}") for number in range(20)
    ]
    before = place(KEYS, candidates, 3)
    for leaver in candidates[:4]:
        after = place(KEYS, [each for each in candidates if each != leaver], 3)
        lost = sum(leaver.address in held for held in before)
        moved = sum(len(set(new) - set(old)) for old, new in zip(before, after, strict=True))
        assert lost <= moved <= 1.2 * lost


@given(_any_labels, st.integers(0, 399), st.integers(1, 5))
@settings(max_examples=150)
def test_no_two_holders_share_a_domain_where_enough_domains_are_free(
    candidates: _Listed, shard: int, replication: int
) -> None:
    able = [each for each in candidates if each.weight]
    by_address = {each.address: each for each in able}
    held_by = [by_address[address] for address in holders(KEYS[shard], candidates, replication)]
    for place_, each in enumerate(held_by):
        others = held_by[:place_]
        taken = {("o", other.operator) for other in others} | {("n", other.network) for other in others}
        free = [
            one
            for one in able
            if one not in others
            and (not one.operator or ("o", one.operator) not in taken)
            and (not one.network or ("n", one.network) not in taken)
        ]
        assert not free or each in free


@given(_one_kind, st.integers(0, 399), st.integers(1, 4), st.integers(1, 2**62))
@settings(max_examples=80)
def test_more_weight_never_loses_a_shard(candidates: _Listed, shard: int, replication: int, extra: int) -> None:
    before = holders(KEYS[shard], candidates, replication)
    for grower in candidates:
        grown = [each._replace(weight=each.weight + extra * (each == grower)) for each in candidates]
        after = holders(KEYS[shard], grown, replication)
        assert grower.weight == 0 or grower.address not in before or grower.address in after
        assert set(after) - set(before) <= {grower.address}


@pytest.mark.parametrize("operators", [("",) * 4, ("a", "a", "b", "b")])
def test_shares_follow_the_weights(operators: tuple[str, ...]) -> None:
    candidates = [
        Candidate(_address(number), weight, operator)
        for number, (weight, operator) in enumerate(zip((1, 2, 3, 4), operators, strict=True))
    ]
    keys = [shard_key("layer", row) for row in range(3000)]
    counts = Counter(holders(key, candidates, 1)[0] for key in keys)
    for each in candidates:
        share = each.weight / 10
        deviation = math.sqrt(share * (1 - share) * len(keys))
        assert abs(counts[each.address] - share * len(keys)) < 4 * deviation


def test_every_shard_is_held_replication_times_and_equals_share_evenly() -> None:
    placed = place(KEYS, [Candidate(_address(number), 100) for number in range(4)], 3)
    counts = Counter(address for held in placed for address in held)
    assert all(len(set(held)) == 3 for held in placed)
    assert all(250 < count < 350 for count in counts.values())


@pytest.mark.clause("8.10/1")
def test_a_shards_key_is_its_position_whatever_the_version() -> None:
    def manifest(content: bytes) -> Manifest:
        shards = tuple(
            ShardEntry((TensorSlice(0, row, 2),), 4, content, "raw", content, 4, ZERO_DIGEST) for row in (0, 2)
        )
        return Manifest(1, ZERO_DIGEST, ZERO_DIGEST, (TensorEntry("t", "i8", (4, 2)),), shards, ())

    assert shard_keys(manifest(bytes(32))) == shard_keys(manifest(b"x" * 32))
    assert shard_keys(manifest(bytes(32))) == [shard_key("t", 0), shard_key("t", 2)]
    assert shard_identity(manifest(bytes(32)), 1) == shard_key("t", 2)
    assert shard_key("t", 0) != shard_key("t", 2) != shard_key("u", 2)
