from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_network import PARAMS, digest, submission_report

from deepshard.ledger.params import VerdictLimits
from deepshard.ledger.records import Probe, ProbePool, TrainerEntry
from deepshard.ledger.similarity import (
    Position,
    clusters,
    distances_of,
    medoid,
    profile_distance,
    update_distance,
)
from deepshard.ledger.transactions import ProbeScore, SubmissionReport
from deepshard.ledger.verdict import Verdict, WeighedReport, judge, mean_gain
from deepshard.primitives import ZERO_DIGEST

POOLS: tuple[ProbePool, ...] = ("batch", "batch", "batch", "heldout", "heldout", "rejected", "rejected", "general")
PROBES = tuple(Probe(pool, digest(f"{pool} {i}")) for i, pool in enumerate(POOLS))
LIMITS = PARAMS.verdict


def trainer(index: int, behaviour: str, stake: int = 100) -> TrainerEntry:
    commitment = ZERO_DIGEST if behaviour == "uncommitted" else digest("commitment")
    manifest = ZERO_DIGEST if behaviour in {"uncommitted", "unrevealed"} else digest(f"manifest {index}")
    address = bytes([index]) * 20
    return TrainerEntry(address, stake, commitment, manifest, manifest, manifest, 9, manifest, "pending", "", 0)


def verdict_of(
    behaviours: list[str], *, stakes: list[int] | None = None, reporting: tuple[int, ...] = (1, 1, 1, 1), total: int = 4
) -> Verdict:
    sizes = stakes or [100] * len(behaviours)
    trainers = [trainer(i, what, size) for i, (what, size) in enumerate(zip(behaviours, sizes, strict=True))]
    submissions = tuple(
        submission_report(entry.address, PROBES, what)
        for entry, what in zip(trainers, behaviours, strict=True)
        if entry.manifest != ZERO_DIGEST
    )
    reports = [WeighedReport(stake, submissions) for stake in reporting]
    return judge(trainers, PROBES, reports, total, LIMITS)


SAME, VOID = "similar-majority", "void-no-majority"


@pytest.mark.clause("11.5/18")
@pytest.mark.parametrize(
    ("behaviours", "reasons"),
    [
        (["honest"] * 4, ["medoid", SAME, SAME, SAME]),
        (["honest"], ["medoid"]),
        (["noisy", "honest", "honest"], [SAME, "medoid", SAME]),
        (["honest", "honest", "honest", "injector"], ["medoid", SAME, SAME, "dissimilar"]),
        (["base", "honest", "honest", "honest"], ["no-progress", "medoid", SAME, SAME]),
        (["honest", "leaker", "honest"], ["medoid", "unsound", SAME]),
        (["honest", "forgetter", "honest"], ["medoid", "unsound", SAME]),
        (["honest", "unavailable", "honest"], ["medoid", "unavailable", SAME]),
        (["honest", "unrevealed", "honest"], ["medoid", "not-revealed", SAME]),
        (["uncommitted", "honest", "honest"], ["not-committed", "medoid", SAME]),
        # two against two who collude, and against two who differ: half isn't a majority
        (["honest", "injector", "honest", "injector"], [VOID] * 4),
        (["honest", "injector", "honest", "other"], [VOID] * 4),
        # dishonest ones who fail the earlier tests don't count against the honest
        (["honest", "base", "honest", "leaker"], ["medoid", "no-progress", SAME, "unsound"]),
        (["honest", "injector", "honest", "base"], ["medoid", "dissimilar", SAME, "no-progress"]),
        # a void round blames nobody for measurements, but for missed deadlines
        (["honest", "injector", "base", "uncommitted"], [VOID, VOID, VOID, "not-committed"]),
        (["base", "base"], [VOID, VOID]),
        (["unavailable", "unavailable"], [VOID, VOID]),
        (["uncommitted", "unrevealed"], ["not-committed", "not-revealed"]),
    ],
)
def test_verdicts(behaviours: list[str], reasons: list[str]) -> None:
    verdict = verdict_of(behaviours)
    assert [finding.reason for finding in verdict.findings] == reasons
    accepted = {"medoid", SAME}
    for finding in verdict.findings:
        expected = "accepted" if finding.reason in accepted else "returned" if finding.reason == VOID else "slashed"
        assert finding.outcome == expected
    assert verdict.accepted == ("medoid" in reasons)
    if verdict.accepted:
        assert verdict.medoid == bytes([reasons.index("medoid")]) * 20


def test_stake_decides_which_cluster_is_the_majority() -> None:
    verdict = verdict_of(["honest", "honest", "injector"], stakes=[100, 100, 201])
    assert [finding.reason for finding in verdict.findings] == ["dissimilar", "dissimilar", "medoid"]
    assert verdict.cluster_stake == 201
    assert verdict_of(["honest", "honest", "injector"], stakes=[100, 100, 200]).reason == VOID


@pytest.mark.clause("11.5/13")
@pytest.mark.parametrize(
    ("reporting", "total", "reason"),
    [((1, 1, 1), 4, SAME), ((1, 1), 3, "void-no-reports"), ((), 4, "void-no-reports"), ((7,), 10, SAME)],
)
def test_reports_need_more_than_two_thirds_of_the_stake(reporting: tuple[int, ...], total: int, reason: str) -> None:
    verdict = verdict_of(["honest", "injector", "honest", "unrevealed"], reporting=reporting, total=total)
    assert verdict.reason == reason
    if reason == "void-no-reports":
        assert [f.reason for f in verdict.findings] == [reason, reason, reason, "not-revealed"]


def test_nobody_revealed_is_no_submission() -> None:
    assert verdict_of(["uncommitted", "unrevealed"], reporting=()).reason == "void-no-submission"


def test_a_third_of_the_validators_can_neither_hide_nor_frame_a_submission() -> None:
    trainers = [trainer(0, "honest"), trainer(1, "honest")]

    def lie(what: str) -> tuple[SubmissionReport, ...]:
        return tuple(submission_report(entry.address, PROBES, what) for entry in trainers)

    for lies in ("unavailable", "base", "leaker", "injector"):
        reports = [WeighedReport(2, lie("honest")), WeighedReport(1, lie(lies))]
        verdict = judge(trainers, PROBES, reports, 3, LIMITS)
        assert [finding.reason for finding in verdict.findings] == ["medoid", SAME], lies
    reports = [WeighedReport(199, lie("honest")), WeighedReport(101, lie("unavailable"))]
    assert [finding.failed for finding in judge(trainers, PROBES, reports, 300, LIMITS).findings] == ["unavailable"] * 2


def one_probe(**gains: int) -> Verdict:
    probes = tuple(Probe(pool, digest(pool)) for pool in ("batch", "heldout", "rejected", "general"))
    profile = tuple(ProbeScore(gains.get(probe.pool, 0), 0, 0) for probe in probes)
    entry = trainer(1, "honest")
    report = SubmissionReport(entry.address, available=True, profile=profile, sketch=(1,))
    return judge([entry], probes, [WeighedReport(1, (report,))], 1, LIMITS)


@pytest.mark.clause("11.5/15")
@pytest.mark.parametrize(
    ("gains", "failed"),
    [
        ({"batch": 50}, ""),
        ({"batch": 49}, "no-progress"),
        ({"batch": 150, "heldout": 200}, ""),
        ({"batch": 149, "heldout": 200}, "no-progress"),
        ({"batch": 100, "heldout": -1000, "rejected": -500}, ""),
        (
            {"batch": 100, "heldout": -1001, "rejected": -500},
            "unsound",
        ),  # a mean of -500.5
        ({"batch": 100, "rejected": 50}, ""),
        ({"batch": 100, "rejected": 51}, "unsound"),
        ({"batch": 300, "heldout": 200, "general": 0, "rejected": 200}, ""),
        ({"batch": 300, "heldout": 200, "general": 0, "rejected": 201}, "unsound"),
    ],
)
def test_progress_and_soundness_at_their_limits(gains: dict[str, int], failed: str) -> None:
    (finding,) = one_probe(**gains).findings
    assert finding.failed == failed


def test_means_round_down_and_are_none_without_probes() -> None:
    profile = [ProbeScore(value, 0, 0) for value in (-1, -2, 5)]
    probes = [Probe("batch", digest("a")), Probe("batch", digest("b")), Probe("general", digest("c"))]
    assert mean_gain(profile, probes, ("batch",)) == -2
    assert mean_gain(profile, probes, ("general", "heldout")) == 5
    assert mean_gain(profile, probes, ("rejected",)) is None


@pytest.mark.clause("11.5/16")
def test_profile_distance_counts_curvatures_a_quarter() -> None:
    zero = ProbeScore(0, 0, 0)
    assert profile_distance([zero], [ProbeScore(30, 0, 0)]) == 30
    assert profile_distance([zero], [ProbeScore(0, 120, 0)]) == 30
    assert profile_distance([zero], [ProbeScore(0, 0, 120)]) == 30
    assert profile_distance([zero] * 4, [ProbeScore(60, 0, 0), zero, zero, zero]) == 30
    assert profile_distance([zero], [ProbeScore(3, 16, 0)]) == 5
    assert profile_distance([], []) == 0


@pytest.mark.clause("11.5/16")
def test_update_distance_is_a_share_of_the_larger_norm() -> None:
    assert update_distance((3, 4), (3, 4)) == 0
    assert update_distance((0, 0), (0, 0)) == 0
    assert update_distance((10, 0), (0, 0)) == 10_000
    assert update_distance((10, 0), (0, 10)) == 20_000
    assert update_distance((10, 0), (-10, 0)) == 40_000
    assert update_distance((10, 0), (9, 0)) == 100


def line(*places: int) -> list[Position]:
    return [Position(bytes([i]) * 20, 100, (ProbeScore(place, 0, 0),), (1,)) for i, place in enumerate(places)]


@pytest.mark.clause("11.5/17")
def test_complete_linkage_does_not_chain() -> None:
    limits = VerdictLimits(0, 0, 0, 100, 500)
    assert clusters(distances_of(line(0, 90, 180)), limits) == [(0, 1), (2,)]
    assert clusters(distances_of(line(0, 90, 100)), limits) == [(0, 1, 2)]
    assert clusters(distances_of(line(0, 300, 1, 301, 2)), limits) == [(0, 2, 4), (1, 3)]


def test_similar_profiles_with_other_updates_are_apart() -> None:
    positions = [
        Position(bytes([i]) * 20, 1, (ProbeScore(0, 0, 0),), sketch) for i, sketch in enumerate([(9, 0), (0, 9)])
    ]
    assert clusters(distances_of(positions), LIMITS) == [(0,), (1,)]


@pytest.mark.clause("11.5/18")
def test_medoid_is_the_middle_then_the_least_address() -> None:
    positions = line(0, 10, 20)
    assert medoid(distances_of(positions), positions, (0, 1, 2)) == 1
    positions = line(5, 5, 5)
    assert medoid(distances_of(positions), positions, (0, 1, 2)) == 0


BEHAVIOURS = st.sampled_from(["honest", "noisy", "injector", "other", "base", "leaker", "unavailable", "uncommitted"])


@settings(max_examples=80, deadline=None)
@given(st.lists(BEHAVIOURS, min_size=1, max_size=7))
def test_with_an_honest_majority_none_but_the_honest_are_accepted(behaviours: list[str]) -> None:
    verdict = verdict_of(behaviours)
    honest = [what in {"honest", "noisy"} for what in behaviours]
    if 2 * sum(honest) > len(behaviours):
        assert verdict.accepted
        assert [finding.outcome == "accepted" for finding in verdict.findings] == honest
    if not verdict.accepted:
        slashed = {finding.reason for finding in verdict.findings if finding.outcome == "slashed"}
        assert slashed <= {"not-committed", "not-revealed"}


def test_order_of_reports_does_not_matter() -> None:
    entries = [trainer(0, "honest"), trainer(1, "noisy")]
    reports = [
        WeighedReport(stake, tuple(submission_report(entry.address, PROBES, what) for entry in entries))
        for stake, what in ((3, "honest"), (2, "noisy"), (4, "injector"), (1, "other"))
    ]
    first = judge(entries, PROBES, reports, 10, LIMITS)
    assert judge(entries, PROBES, reports[::-1], 10, LIMITS) == first
