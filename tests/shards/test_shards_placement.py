"""Placement: agreed, balanced by weight, and moved as little as possible."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshard.primitives import ZERO_DIGEST, tagged_hash
from deepshard.shards.manifest import Manifest, ShardEntry, TensorEntry, TensorSlice
from deepshard.shards.placement import holders, log2_fixed, shard_identity, shard_key, shard_keys, shards_of

KEYS = [shard_key("layer", row) for row in range(400)]


def _address(number: int) -> bytes:
    return tagged_hash("test address", bytes([number]))[:20]


_validators = st.lists(
    st.tuples(st.integers(0, 40).map(_address), st.integers(0, 2**62)), unique_by=lambda pair: pair[0], max_size=12
)


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


@pytest.mark.clause("8.10/1", "8.10/2", "8.10/3")
@given(_validators, st.integers(0, 6), st.integers(0, 2**31 - 1))
def test_holders_are_those_of_the_specification(
    validators: list[tuple[bytes, int]], replication: int, row: int
) -> None:
    key = tagged_hash("shard position", b"layer.0", row.to_bytes(8, "little"))
    assert shard_key("layer.0", row) == key
    ranked = sorted((_cost(key, address) * 2**64 // weight, address) for address, weight in validators if weight)
    assert holders(key, validators, replication) == tuple(address for _, address in ranked[:replication])


@pytest.mark.clause("8.10/3")
def test_a_known_placement_never_changes() -> None:
    validators = [(_address(number), weight) for number, weight in enumerate((10, 20, 30, 40))]
    table = [holders(key, validators, 2) for key in KEYS[:6]]
    numbers = {address: number for number, (address, _) in enumerate(validators)}
    assert [[numbers[address] for address in row] for row in table] == KNOWN_TABLE


KNOWN_TABLE = [[3, 2], [1, 3], [2, 1], [3, 2], [0, 3], [0, 3]]


@given(_validators, st.integers(0, 399), st.integers(0, 5))
@settings(max_examples=80)
def test_holders_are_distinct_agreed_and_as_many_as_asked(
    validators: list[tuple[bytes, int]], shard: int, replication: int
) -> None:
    held_by = holders(KEYS[shard], validators, replication)
    able = {address for address, weight in validators if weight}
    assert len(held_by) == len(set(held_by)) == min(replication, len(able))
    assert set(held_by) <= able
    assert holders(KEYS[shard], validators[::-1], replication) == held_by


@given(_validators, st.integers(0, 399), st.integers(1, 4))
@settings(max_examples=80)
def test_who_leaves_is_replaced_and_nobody_else_moves(
    validators: list[tuple[bytes, int]], shard: int, replication: int
) -> None:
    before = holders(KEYS[shard], validators, replication)
    for leaver, _ in validators:
        after = holders(KEYS[shard], [pair for pair in validators if pair[0] != leaver], replication)
        assert set(before) - set(after) == {leaver} & set(before)
        assert len(set(after) - set(before)) <= len(set(before) & {leaver})


@given(_validators, st.integers(0, 399), st.integers(1, 4), st.integers(1, 2**62))
@settings(max_examples=80)
def test_more_weight_never_loses_a_shard(
    validators: list[tuple[bytes, int]], shard: int, replication: int, extra: int
) -> None:
    before = holders(KEYS[shard], validators, replication)
    for grower, weight in validators:
        grown = [(address, w + extra if address == grower else w) for address, w in validators]
        after = holders(KEYS[shard], grown, replication)
        assert weight == 0 or grower not in before or grower in after
        assert set(after) - set(before) <= {grower}


def test_shares_follow_the_weights() -> None:
    validators = [(_address(number), weight) for number, weight in enumerate((1, 2, 3, 4))]
    keys = [shard_key("layer", row) for row in range(3000)]
    counts = Counter(holders(key, validators, 1)[0] for key in keys)
    for address, weight in validators:
        share = weight / 10
        deviation = math.sqrt(share * (1 - share) * len(keys))
        assert abs(counts[address] - share * len(keys)) < 4 * deviation


def test_every_shard_is_held_replication_times_and_equal_validators_share_evenly() -> None:
    validators = [(_address(number), 100) for number in range(4)]
    held = {address: shards_of(address, KEYS, validators, 3) for address, _ in validators}
    assert Counter(number for shards in held.values() for number in shards) == dict.fromkeys(range(400), 3)
    assert all(250 < len(shards) < 350 for shards in held.values())


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
