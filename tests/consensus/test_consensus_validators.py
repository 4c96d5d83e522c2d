from __future__ import annotations

import itertools
from collections import Counter

import pytest
from consensus_network import secret_keys, validator_set
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshard.consensus.types import Validator
from deepshard.consensus.validators import TOTAL_POWER_MAX, ValidatorSet, proposer
from deepshard.encoding import decode, encode
from deepshard.errors import MalformedMessage
from deepshard.limits import VALIDATOR_SET_BYTES_MAX, VALIDATORS_MAX

MEMBERS = validator_set(1, 1, 1).validators


@pytest.mark.clause("10.1/1")
@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ((), "0 validators"),
        (MEMBERS[::-1], "out of order"),
        ((MEMBERS[0], MEMBERS[0]), "repeated"),
        ((Validator(MEMBERS[0].address, MEMBERS[1].public_key, 1),), "key of another address"),
        ((Validator(MEMBERS[0].address, MEMBERS[0].public_key, 0),), "no power"),
        (tuple(Validator(entry.address, entry.public_key, TOTAL_POWER_MAX) for entry in MEMBERS), "total power"),
    ],
)
def test_a_set_that_breaks_its_rules_is_neither_built_nor_decoded(members: tuple[Validator, ...], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        ValidatorSet(members)
    with pytest.raises(MalformedMessage):
        decode(encode((members,)), ValidatorSet, bytes_max=VALIDATOR_SET_BYTES_MAX)


def test_a_set_round_trips_and_the_largest_fits_its_bound() -> None:
    largest = validator_set(*[TOTAL_POWER_MAX // VALIDATORS_MAX] * VALIDATORS_MAX)
    data = encode(largest)
    assert len(data) <= VALIDATOR_SET_BYTES_MAX
    assert decode(data, ValidatorSet, bytes_max=VALIDATOR_SET_BYTES_MAX) == largest
    assert decode(data, ValidatorSet, bytes_max=VALIDATOR_SET_BYTES_MAX).hash() == largest.hash()


def test_building_sorts_and_drops_who_has_no_power() -> None:
    keys = secret_keys(4)
    built = ValidatorSet.of([(keys[3].public, 2), (keys[1].public, 5), (keys[2].public, 0)])
    assert [(entry.address, entry.power) for entry in built.validators] == [(keys[1].address, 5), (keys[3].address, 2)]
    assert built.total_power == 7
    assert [built.power_of(key.address) for key in keys] == [0, 5, 0, 2]


@pytest.mark.parametrize(
    ("powers", "power", "quorum", "honest"),
    [
        ((1, 1, 1), 2, False, True),
        ((1, 1, 1), 1, False, False),
        ((1, 1, 1, 1), 3, True, True),
        ((2, 2, 3), 5, True, True),
    ],
)
def test_thresholds_are_strict(powers: tuple[int, ...], power: int, quorum: bool, honest: bool) -> None:  # noqa: FBT001
    validators = validator_set(*powers)
    assert (validators.is_quorum(power), validators.has_honest(power)) == (quorum, honest)


@settings(max_examples=50, deadline=None)
@given(
    powers=st.lists(st.integers(1, 10**15), min_size=1, max_size=12),
    start=st.integers(0, 10**12),
    slots=st.integers(1, 600),
)
def test_turns_follow_power_in_every_window(powers: list[int], start: int, slots: int) -> None:
    validators = validator_set(*powers)
    turns = Counter(proposer(validators, start + slot, 0).address for slot in range(slots))
    for entry in validators.validators:
        share = slots * entry.power / validators.total_power
        assert abs(turns[entry.address] - share) < 4


def test_a_dead_proposer_costs_one_round() -> None:
    validators = validator_set(37, 21, 21, 21)
    turns = [proposer(validators, 1, round_).address for round_ in range(1000)]
    assert all(first != second for first, second in itertools.pairwise(turns))


@pytest.mark.clause("9.4/1")
def test_the_proposer_order_is_fixed() -> None:
    validators = validator_set(1, 1, 1, 1)
    turns = [validators.validators.index(proposer(validators, 1, round_)) for round_ in range(12)]
    assert turns == [2, 0, 3, 1, 0, 2, 1, 3, 2, 0, 3, 1]
