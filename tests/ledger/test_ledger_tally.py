from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_network import PARAMS
from msgspec.structs import replace

from deepshard.ledger.params import Params, TallyRule
from deepshard.ledger.records import Tally
from deepshard.ledger.tally import (
    Ballot,
    ProposalOutcome,
    dispersion_bp,
    dynamic_threshold,
    segment_weight,
    tally,
    weighted_median,
)


def yes(stake: int, *, predicted: int = 5000, harmful: bool = False, score: int = 6000) -> Ballot:
    scores = ((score, score, score, score, score),)
    return Ballot(stake, accept=True, harmful=harmful, predicted_accept_bp=predicted, scores=scores)


def no(stake: int, *, predicted: int = 5000, harmful: bool = False) -> Ballot:
    return dataclasses.replace(yes(stake, predicted=predicted, harmful=harmful), accept=False)


def params(rule: TallyRule = "dynamic-threshold") -> Params:
    return replace(PARAMS, tally_rule=rule)


def judged(ballots: list[Ballot], rule: TallyRule = "dynamic-threshold") -> tuple[ProposalOutcome, Tally]:
    return tally(params(rule), ballots, 1, sum(one.stake for one in ballots))


@pytest.mark.clause("11.4/11")
@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(1, 9)), min_size=1, max_size=12))
def test_weighted_median_is_the_middle_of_the_repeated_values(pairs: list[tuple[int, int]]) -> None:
    repeated = sorted(value for value, weight in pairs for _ in range(weight))
    got = weighted_median([value for value, _ in pairs], [weight for _, weight in pairs])
    assert got == repeated[(len(repeated) - 1) // 2]


def test_a_minority_of_stake_cannot_move_a_median_out_of_the_majority() -> None:
    assert weighted_median([0, 10_000, 7000, 7100], [10, 39, 26, 25]) == 7100
    assert weighted_median([10_000, 0, 0], [49, 26, 25]) == 0


@pytest.mark.clause("11.4/11")
@pytest.mark.parametrize(
    ("medians", "weight"),
    [
        ((10_000, 10_000, 10_000, 10_000, 10_000), 10_000),
        ((5000, 4000, 9000, 8000, 3000), (2 * 5000 + 4000 + 3 * 9000 + 3 * 8000 + 3000) // 10),
        ((10_000, 10_000, 1999, 10_000, 10_000), 0),
        ((10_000, 10_000, 10_000, 1999, 10_000), 0),
        ((0, 0, 2000, 2000, 0), 1200),
    ],
)
def test_segment_weight(medians: tuple[int, int, int, int, int], weight: int) -> None:
    assert segment_weight(medians) == weight


@pytest.mark.clause("11.4/9")
@pytest.mark.parametrize(
    ("accept_bp", "dispersion", "threshold"),
    [(10_000, 0, 5500), (5000, 10_000, 8000), (7500, 7500, 7375), (0, 0, 5500), (9000, 3600, 6400)],
)
def test_threshold_rises_with_dispersion(accept_bp: int, dispersion: int, threshold: int) -> None:
    assert dispersion_bp(accept_bp) == dispersion
    assert dynamic_threshold(PARAMS, dispersion) == threshold


def test_threshold_stays_between_floor_and_ceiling() -> None:
    assert dynamic_threshold(replace(PARAMS, threshold_base_bp=1000), 0) == 5000
    assert dynamic_threshold(replace(PARAMS, threshold_base_bp=8000), 10_000) == 9000


@pytest.mark.clause("11.4/10")
@pytest.mark.parametrize(
    ("accepting", "outcome"),
    [(100, "accepted"), (75, "accepted"), (74, "contested"), (71, "contested"), (70, "rejected"), (0, "rejected")],
)
def test_dynamic_threshold_with_its_contested_band(accepting: int, outcome: str) -> None:
    got, numbers = judged([yes(accepting), no(100 - accepting)])
    assert got == outcome, numbers
    assert numbers.accept_bp == accepting * 100


@pytest.mark.clause("11.4/10")
def test_harmful_needs_more_than_two_thirds() -> None:
    assert judged([no(67, harmful=True), no(33)])[0] == "harmful"
    assert judged([no(2, harmful=True), no(1)])[0] == "rejected"
    assert judged([yes(67, harmful=True), yes(33)])[0] == "harmful"


@pytest.mark.clause("11.4/8")
def test_without_a_quorum_the_proposal_is_contested() -> None:
    assert tally(PARAMS, [no(50, harmful=True)], 1, 100)[0] == "contested"
    assert tally(PARAMS, [yes(51)], 1, 100)[0] == "accepted"
    outcome, numbers = tally(PARAMS, [], 3, 100)
    assert outcome == "contested"
    assert [verdict.weight_bp for verdict in numbers.segments] == [0, 0, 0]


@pytest.mark.clause("11.4/7")
def test_quadratic_counts_the_root_of_stake() -> None:
    ballots = [no(10_000), *(yes(100) for _ in range(40))]
    assert judged(ballots)[0] == "rejected"
    outcome, numbers = judged(ballots, "quadratic")
    assert outcome == "accepted"
    assert numbers.accept_bp == 8000


@pytest.mark.clause("11.4/9")
@pytest.mark.parametrize("informed", [20, 30, 45])
def test_surprisingly_popular_follows_galileo(informed: int) -> None:
    """An informed minority accepts and knows that most won't; the others expect hardly anyone to accept."""
    minority = [yes(1, predicted=2000) for _ in range(informed)]
    majority = [no(1, predicted=500) for _ in range(100 - informed)]
    assert judged(minority + majority)[0] != "accepted"
    outcome, numbers = judged(minority + majority, "surprisingly-popular")
    assert outcome == "accepted"
    assert numbers.predicted_bp == (informed * 2000 + (100 - informed) * 500) // 100 == numbers.threshold_bp


@pytest.mark.clause("11.4/10")
def test_surprisingly_popular_refuses_what_is_merely_popular() -> None:
    crowd = [yes(1, predicted=9500) for _ in range(70)] + [no(1, predicted=9000) for _ in range(30)]
    assert judged(crowd, "surprisingly-popular")[0] == "rejected"
    assert judged([yes(1, predicted=10_000)], "surprisingly-popular")[0] == "accepted"
    assert judged([no(1, predicted=0)], "surprisingly-popular")[0] == "rejected"
    nearly = [yes(90, predicted=9300), no(10, predicted=9300)]
    assert judged(nearly, "surprisingly-popular")[0] == "contested"
