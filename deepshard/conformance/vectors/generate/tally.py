"""`tally.json`: ballots on a data proposal and what they decide (chapter 11.4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import isqrt
from typing import Final

from deepshard.conformance.vectors.document import Json, accept, document

_CLAUSES: Final = ("11.4/7", "11.4/8", "11.4/9", "11.4/10", "11.4/11")
_LIMITS: Final = {
    "threshold_base_bp": 5500,
    "threshold_dispersion_bp": 2500,
    "threshold_floor_bp": 5000,
    "threshold_ceiling_bp": 9000,
}
_RULES: Final = ("dynamic-threshold", "quadratic", "surprisingly-popular")


@dataclass(frozen=True, slots=True)
class _Ballot:
    stake: int
    accept: bool
    harmful: bool = False
    predicted: int = 5000
    scores: list[list[int]] = field(default_factory=lambda: [[6000, 6000, 6000, 6000, 6000]])

    def shown(self) -> Json:
        return {
            "stake": self.stake,
            "accept": self.accept,
            "harmful": self.harmful,
            "predicted_accept_bp": self.predicted,
            "scores": self.scores,
        }


def make() -> Json:
    """The file."""
    return document(
        "tally",
        "Tallies of data proposals (chapter 11.4/7 to 11.4/11): ballots, the numbers that follow, the outcome.",
        [*_thresholds(), *_harmful(), *_quorums(), *_popular(), *_scores()],
    )


def _median(values: Sequence[int], weights: Sequence[int]) -> int:
    reached = 0
    for value, weight in sorted(zip(values, weights, strict=True)):
        reached += weight
        if 2 * reached >= sum(weights):
            return value
    raise AssertionError(values)


def _verdict(ballots: Sequence[_Ballot], weights: Sequence[int], segment: int) -> Json:
    medians = [_median([ballot.scores[segment][axis] for ballot in ballots], weights) for axis in range(5)]
    novelty, reproducibility, alignment, truthfulness, objectivity = medians
    weight = (2 * novelty + reproducibility + 3 * alignment + 3 * truthfulness + objectivity) // 10
    return {"medians": medians, "weight_bp": 0 if min(alignment, truthfulness) < 2000 else weight}


def _threshold(limits: Json, dispersion: int) -> int:
    base = limits["threshold_base_bp"] + limits["threshold_dispersion_bp"] * dispersion // 10_000
    return int(min(max(base, limits["threshold_floor_bp"]), limits["threshold_ceiling_bp"]))


def _tally(rule: str, limits: Json, ballots: Sequence[_Ballot], segments: int, committee: int) -> tuple[str, Json]:
    weights = [isqrt(ballot.stake) if rule == "quadratic" else ballot.stake for ballot in ballots]
    total = sum(weights)
    result: Json = {"rule": rule, "accept_bp": 0, "threshold_bp": _threshold(limits, 0), "predicted_bp": 0}
    result |= {"dispersion_bp": 0, "voters": len(ballots)}
    if total == 0 or 2 * sum(ballot.stake for ballot in ballots) <= committee:
        return "contested", result | {"segments": [{"medians": [0] * 5, "weight_bp": 0}] * segments}
    pairs = list(zip(weights, ballots, strict=True))
    share = 10_000 * sum(weight for weight, ballot in pairs if ballot.accept) // total
    predicted = sum(weight * ballot.predicted for weight, ballot in pairs) // total
    dispersion = 4 * share * (10_000 - share) // 10_000
    threshold = _threshold(limits, dispersion)
    accepted = share >= threshold
    if rule == "surprisingly-popular":
        threshold, accepted = predicted, share > predicted or (share == predicted and share > 5000)
    result |= {"accept_bp": share, "threshold_bp": threshold, "predicted_bp": predicted, "dispersion_bp": dispersion}
    result |= {"segments": [_verdict(ballots, weights, segment) for segment in range(segments)]}
    if 3 * sum(weight for weight, ballot in pairs if ballot.harmful) > 2 * total:
        return "harmful", result
    if accepted:
        return "accepted", result
    near = threshold - share < 500 and (rule != "surprisingly-popular" or share >= 5000)
    return "contested" if near else "rejected", result


def _case(
    name: str, ballots: Sequence[_Ballot], *, rule: str = _RULES[0], committee: int | None = None, **limits: int
) -> Json:
    bounds = {**_LIMITS, **limits}
    segments = len(ballots[0].scores) if ballots else 3
    stake = sum(ballot.stake for ballot in ballots) if committee is None else committee
    outcome, result = _tally(rule, bounds, ballots, segments, stake)
    fields: Json = {"rule": rule, "limits": bounds, "committee_stake": stake, "segments": segments}
    fields |= {"ballots": [ballot.shown() for ballot in ballots], "outcome": outcome, "tally": result}
    return accept(f"{rule}: {name}", _CLAUSES, **fields)


def _yes(stake: int, predicted: int = 5000) -> _Ballot:
    return _Ballot(stake, accept=True, predicted=predicted)


def _no(stake: int, predicted: int = 5000) -> _Ballot:
    return _Ballot(stake, accept=False, predicted=predicted)


def _thresholds() -> Iterator[Json]:
    for accepting in (100, 75, 74, 71, 70, 50, 0):
        ballots = [ballot for ballot in (_yes(accepting), _no(100 - accepting)) if ballot.stake]
        yield _case(f"{accepting} of 100 accept", ballots)
    half = [_yes(50), _no(50)]
    yield _case("a floor", half, threshold_base_bp=0, threshold_dispersion_bp=0)
    yield _case("a ceiling", half, threshold_base_bp=9000, threshold_dispersion_bp=10_000)
    yield _case("exactly at the threshold", [_yes(55), _no(45)], threshold_dispersion_bp=0)
    yield _case("one basis point below", [_yes(5499), _no(4501)], threshold_dispersion_bp=0)
    yield _case("500 below", [_yes(5000), _no(5000)], threshold_dispersion_bp=0)
    yield _case("499 below", [_yes(5001), _no(4999)], threshold_dispersion_bp=0)
    whale = [_no(10_000), *(_yes(100) for _ in range(40))]
    for rule in _RULES[:2]:
        yield _case("one rich voter against forty", whale, rule=rule)
    yield _case("roots are rounded down", [_yes(99), _no(80)], rule="quadratic")
    yield _case("large stakes", [_yes(2**60), _no(2**59), _no(2**53 + 1)])


def _harmful() -> Iterator[Json]:
    for stake in (67, 66, 2):
        ballots = [_Ballot(stake, accept=True, harmful=True), _no(33 if stake > 2 else 1)]
        yield _case(f"{stake} say harmful", ballots)
    yield _case("exactly two thirds say harmful", [_Ballot(2, accept=False, harmful=True), _yes(1)])


def _quorums() -> Iterator[Json]:
    yield _case("nobody voted", [], committee=100)
    yield _case("half of the stake voted", [_yes(50)], committee=100)
    yield _case("more than half voted", [_yes(51)], committee=100)
    yield _case("no quorum, all harmful", [_Ballot(10, accept=False, harmful=True)], committee=100)
    yield _case("a stake that weighs nothing", [_yes(0)], committee=0)
    yield _case("roots that weigh nothing", [_yes(0)], committee=0, rule="quadratic")


def _popular() -> Iterator[Json]:
    rule = _RULES[2]
    for informed in (20, 45):
        ballots = [
            *(_yes(1, predicted=2000) for _ in range(informed)),
            *(_no(1, predicted=500) for _ in range(100 - informed)),
        ]
        yield _case(f"{informed} know better", ballots, rule=rule)
    crowd = [*(_yes(1, predicted=9500) for _ in range(7)), *(_no(1, predicted=9000) for _ in range(3))]
    yield _case("merely popular", crowd, rule=rule)
    yield _case("all as predicted", [_yes(1, predicted=10_000)], rule=rule)
    yield _case("half as predicted", [_yes(1, predicted=5000), _no(1, predicted=5000)], rule=rule)
    yield _case("nobody, as predicted", [_no(1, predicted=0)], rule=rule)
    yield _case("nearly as predicted", [_yes(90, predicted=9300), _no(10, predicted=9300)], rule=rule)


def _scores() -> Iterator[Json]:
    def ballot(stake: int, *segments: list[int]) -> _Ballot:
        return _Ballot(stake, accept=True, scores=list(segments))

    flat, steep = [10_000] * 5, [0, 2500, 5000, 7500, 10_000]
    yield _case("two segments", [ballot(3, flat, steep), ballot(2, steep, flat)])
    yield _case("an even split takes the lower", [ballot(1, [1000] * 5), ballot(1, [9000] * 5)])
    yield _case(
        "a minority can't move a median",
        [ballot(s, [v] * 5) for s, v in ((10, 0), (39, 10_000), (26, 7000), (25, 7100))],
    )
    for name, scores in (
        ("alignment below the gate", [10_000, 10_000, 1999, 10_000, 10_000]),
        ("truthfulness below the gate", [10_000, 10_000, 10_000, 1999, 10_000]),
        ("both at the gate", [0, 0, 2000, 2000, 0]),
        ("uneven axes", [5000, 4000, 9000, 8001, 3000]),
    ):
        yield _case(name, [ballot(1, scores)])
