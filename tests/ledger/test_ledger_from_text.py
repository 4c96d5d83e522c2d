"""The tally, the clusters and the receipts as protocol-spec writes them, against the code."""

from __future__ import annotations

from math import isqrt
from pathlib import Path

import pytest
from audit_network import HOLDERS, AuditNetwork
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_evidence import two_votes
from ledger_network import BUYER, ONIONS, PARAMS, TOKEN, TRAINERS, VALIDATORS, Network
from msgspec.structs import replace

from deepshard.ledger.params import TallyRule
from deepshard.ledger.similarity import Distances, Position, clusters, medoid
from deepshard.ledger.tally import Ballot, tally
from deepshard.ledger.transactions import Bond, BuyLicence, OfferStorage, ReportEvidence, Transfer, Unbond, Unjail

SPEC = Path(__file__).parents[2] / "protocol-spec"
BP = st.integers(0, 10_000)
BALLOTS = st.lists(st.tuples(st.integers(0, 2**50), st.booleans(), st.booleans(), BP, st.tuples(BP, BP, BP, BP, BP)))


def median(values: list[int], weights: list[int]) -> int:
    """11.4/11: the first value, ascending, at which twice the weight so far is at least the total."""
    reached = 0
    for value, weight in sorted(zip(values, weights, strict=True)):
        reached += weight
        if 2 * reached >= sum(weights):
            return value
    raise AssertionError("no weight")


@pytest.mark.clause("11.4/7", "11.4/8", "11.4/9", "11.4/10", "11.4/11")
@settings(max_examples=300)
@given(
    BALLOTS,
    st.sampled_from(["dynamic-threshold", "quadratic", "surprisingly-popular"]),
    st.tuples(BP, BP, BP, BP),
    st.integers(0, 2**52),
)
def test_the_tally(
    cast: list[tuple[int, bool, bool, int, tuple[int, int, int, int, int]]],
    rule: TallyRule,
    bounds: tuple[int, int, int, int],
    absent: int,
) -> None:
    base, slope, floor, ceiling = bounds
    params = replace(
        PARAMS,
        tally_rule=rule,
        threshold_base_bp=base,
        threshold_dispersion_bp=slope,
        threshold_floor_bp=min(floor, ceiling),
        threshold_ceiling_bp=max(floor, ceiling),
    )
    stakes = [stake for stake, *_ in cast]
    weights = [isqrt(stake) for stake in stakes] if rule == "quadratic" else stakes
    ballots = [
        Ballot(stake, accept, harmful, predicted, (scores,)) for stake, accept, harmful, predicted, scores in cast
    ]
    outcome, result = tally(params, ballots, 1, sum(stakes) + absent)

    def threshold_at(dispersion: int) -> int:
        return min(max(base + slope * dispersion // 10_000, min(floor, ceiling)), max(floor, ceiling))

    total = sum(weights)
    if total == 0 or 2 * sum(stakes) <= sum(stakes) + absent:
        assert outcome == "contested"
        assert (result.accept_bp, result.threshold_bp, result.voters) == (0, threshold_at(0), len(cast))
        return
    accept = 10_000 * sum(w for w, (_, yes, *_) in zip(weights, cast, strict=True) if yes) // total
    predicted = sum(w * guess for w, (_, _, _, guess, _) in zip(weights, cast, strict=True)) // total
    dispersion = 4 * accept * (10_000 - accept) // 10_000
    popular = rule == "surprisingly-popular"
    threshold = predicted if popular else threshold_at(dispersion)
    accepted = accept >= threshold
    if popular:
        accepted = accept > predicted or (accept == predicted and accept > 5000)
    harmful = sum(w for w, (_, _, bad, *_) in zip(weights, cast, strict=True) if bad)
    expected = "rejected"
    if 3 * harmful > 2 * total:
        expected = "harmful"
    elif accepted:
        expected = "accepted"
    elif threshold - accept < 500 and (not popular or accept >= 5000):
        expected = "contested"
    novelty, repro, alignment, truth, objectivity = (
        median([scores[axis] for *_, scores in cast], weights) for axis in range(5)
    )
    weight = 0
    if min(alignment, truth) >= 2000:
        weight = (2 * novelty + repro + 3 * alignment + 3 * truth + objectivity) // 10
    assert outcome == expected
    assert (result.accept_bp, result.predicted_bp, result.dispersion_bp) == (accept, predicted, dispersion)
    assert (result.threshold_bp, result.segments[0].weight_bp) == (threshold, weight)


@pytest.mark.clause("11.5/17", "11.5/18")
@settings(max_examples=300)
@given(st.integers(1, 6).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, 9), min_size=n * n * 2))))
def test_groups_and_their_medoid(drawn: tuple[int, list[int]]) -> None:
    count, numbers = drawn
    matrix = [[[0] * count for _ in range(count)] for _ in range(2)]
    for which in range(2):
        for i in range(count):
            for j in range(i):
                matrix[which][i][j] = matrix[which][j][i] = numbers[which * count * count + i * count + j]
    limits = replace(PARAMS.verdict, profile_distance_max=6, update_distance_max_bp=7)

    def linkage(one: tuple[int, ...], other: tuple[int, ...]) -> int | None:
        p = max(matrix[0][i][j] for i in one for j in other)
        u = max(matrix[1][i][j] for i in one for j in other)
        return None if p > 6 or u > 7 else max(10_000 * p // 6, 10_000 * u // 7)

    groups: list[tuple[int, ...]] = [(i,) for i in range(count)]
    while True:
        defined = [
            (found, i, j)
            for i in range(len(groups))
            for j in range(i + 1, len(groups))
            if (found := linkage(groups[i], groups[j])) is not None
        ]
        if not defined:
            break
        _, i, j = min(defined)
        rest = [group for place, group in enumerate(groups) if place not in {i, j}]
        groups = sorted([*rest, tuple(sorted(groups[i] + groups[j]))])
    distances = Distances(tuple(map(tuple, matrix[0])), tuple(map(tuple, matrix[1])))
    assert clusters(distances, limits) == groups

    positions = [Position(bytes([i]) * 20, 1, (), ()) for i in range(count)]
    for group in groups:
        sums = [(sum(matrix[0][i][j] for j in group), sum(matrix[1][i][j] for j in group), i) for i in group]
        assert medoid(distances, positions, group) == min(sums)[2]


def described_facts() -> dict[str, list[str]]:
    """Names of the facts of each kind of receipt, from the table of 11.9; findings are left out."""
    text = (SPEC / "11-transactions.md").read_text(encoding="utf-8")
    table = text.partition("| kind | account | subject | amount | reason | facts |\n")[2]
    found: dict[str, list[str]] = {}
    for line in table.splitlines()[1:]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        first, *others = (kind.strip().strip("`") for kind in cells[0].split(","))
        stem = first.partition("-")[0]
        facts = [fact.split(" ")[0].rstrip(":") for fact in cells[5].split(", ") if fact]
        for kind in (first, *(stem + other for other in others)):
            found[kind] = facts
    return found


FINDINGS = ["stake", "available_stake", "gain_batch", "gain_reference", "gain_rejected", "profile_distance"]
FINDINGS += ["update_distance", "failed"]


@pytest.mark.clause("11.9/1", "11.9/2", "11.9/3")
def test_receipts_carry_the_facts_of_the_table() -> None:
    network = Network()
    network.block(*network.sign(BUYER, Transfer(TRAINERS[0].address, 5)))
    network.block(*network.sign(BUYER, BuyLicence(0, 2**61)))
    network.vote(network.propose("x"), *[False] * 4)
    network.vote(network.propose("y"), *[True] * 4, harmful=True)
    network.vote(network.propose("a", "b", "c"), *[True] * 4)
    network.epoch(["honest", "honest", "base"])
    network.vote(network.propose("d"), *[True] * 4)
    network.epoch(["honest", "injector"])
    network.block(*network.sign(BUYER, Bond(600 * TOKEN, ONIONS[BUYER.address].tip)))
    network.block(*network.sign(VALIDATORS[0], Unbond(100 * TOKEN)))
    network.blocks_until(lambda _: {"epoch", "unbonded"} <= {receipt.kind for receipt in network.receipts})
    network.block(*network.sign(VALIDATORS[0], OfferStorage(9, "operator", "network")))
    height = network.state.chain().height + 1
    network.block(*network.sign(VALIDATORS[0], ReportEvidence(two_votes(VALIDATORS[1], height))))
    network.blocks_until(lambda state: state.chain().height == height + PARAMS.jail_blocks)
    network.block(*network.sign(VALIDATORS[1], Unjail()))
    audited = AuditNetwork()
    audited.until_audit()
    audited.answer_all(without=(HOLDERS[0], HOLDERS[1]))
    audited.close()
    receipts = [*network.receipts, *audited.receipts]
    table = described_facts()
    seen = {receipt.kind for receipt in receipts}
    assert seen <= table.keys()
    assert table.keys() - seen == {"proposal-contested"}
    for receipt in receipts:
        names = [name for name, _ in receipt.facts]
        expected = table[receipt.kind]
        if expected[:1] == ["findings"]:
            own = [name for name in names if name not in expected]
            assert own == [name for name in FINDINGS if name in own], receipt.kind
            assert names[len(own) :] == expected[1:], receipt.kind
        else:
            assert names == expected, receipt.kind
