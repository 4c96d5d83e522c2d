"""The verdict as chapter 11.5 words it (clauses 13 to 18), from integers to integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

from deepshard.conformance.vectors.document import Json

Score = tuple[int, int, int]
Distances = dict[tuple[int, int], tuple[int, int]]
"""Profile and update distance of each pair, by places."""


@dataclass(slots=True)
class Trainer:
    """Who joined: `profile` and `sketch` are set once it has come so far."""

    address: bytes
    stake: int
    committed: bool = True
    revealed: bool = True
    profile: list[Score] = field(default_factory=list)
    sketch: list[int] = field(default_factory=list)
    finding: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """What one validator says of each revealed submission: none where it was not available."""

    stake: int
    submissions: list[tuple[list[Score], list[int]] | None]


def median(values: Sequence[int], weights: Sequence[int]) -> int:
    """11.4/11."""
    reached = 0
    for value, weight in sorted(zip(values, weights, strict=True)):
        reached += weight
        if 2 * reached >= sum(weights):
            return value
    raise AssertionError(values)


def judge(
    trainers: list[Trainer], pools: Sequence[str], reports: Sequence[Report], validators_stake: int, limits: Json
) -> Json:
    """The verdict of a round."""
    for trainer in trainers:
        failed = "not-committed" if not trainer.committed else "" if trainer.revealed else "not-revealed"
        trainer.finding = {"available_stake": 0, "failed": failed}
    reporting = sum(report.stake for report in reports)
    verdict: Json = {"reporting_stake": reporting, "passed_stake": 0, "cluster_stake": 0, "medoid": None}
    revealed = [trainer for trainer in trainers if not trainer.finding["failed"]]
    if not revealed:
        return _void("void-no-submission", trainers, verdict)
    if 3 * reporting <= 2 * validators_stake:
        return _void("void-no-reports", trainers, verdict)
    for place, trainer in enumerate(revealed):
        _measure(trainer, place, pools, reports, limits)
    return _group([trainer for trainer in revealed if not trainer.finding["failed"]], trainers, verdict, limits)


def _measure(trainer: Trainer, place: int, pools: Sequence[str], reports: Sequence[Report], limits: Json) -> None:
    seen = [(report.stake, said) for report in reports if (said := report.submissions[place]) is not None]
    available = trainer.finding["available_stake"] = sum(stake for stake, _ in seen)
    if 3 * available < 2 * sum(report.stake for report in reports):
        trainer.finding["failed"] = "unavailable"
        return
    stakes = [stake for stake, _ in seen]
    for number in range(len(pools)):
        a, b, c = (median([said[0][number][part] for _, said in seen], stakes) for part in range(3))
        trainer.profile.append((a, b, c))
    trainer.sketch = [median(column, stakes) for column in zip(*(said[1] for _, said in seen), strict=True)]

    def gain(*names: str) -> int | None:
        values = [score[0] for score, pool in zip(trainer.profile, pools, strict=True) if pool in names]
        return sum(values) // len(values) if values else None

    b, f, j = gain("batch") or 0, gain("heldout", "general") or 0, gain("rejected")
    trainer.finding |= {"gain_batch": b, "gain_reference": f} | ({} if j is None else {"gain_rejected": j})
    if b - f < max(1, limits["progress_margin"]):
        trainer.finding["failed"] = "no-progress"
    elif f < -limits["heldout_loss_max"] or (j is not None and (j - f) * 10_000 > limits["rejected_gain_bp"] * (b - f)):
        trainer.finding["failed"] = "unsound"


def distances(one: Trainer, other: Trainer) -> tuple[int, int]:
    """11.5/16."""
    squares = sum(
        16 * (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2
        for a, b in zip(one.profile, other.profile, strict=True)
    )
    profile = isqrt(squares // (16 * len(one.profile))) if one.profile else 0
    norm = max(sum(s * s for s in one.sketch), sum(t * t for t in other.sketch))
    apart = sum((s - t) ** 2 for s, t in zip(one.sketch, other.sketch, strict=True))
    return profile, 10_000 * apart // norm if norm else 0


def _groups(count: int, apart: Distances, limits: Json) -> list[list[int]]:
    """11.5/17."""
    most, most_bp = limits["profile_distance_max"], limits["update_distance_max_bp"]
    groups = [[place] for place in range(count)]
    while True:
        linkages: list[tuple[int, list[int], list[int]]] = []
        for one in groups:
            for other in groups:
                pairs = [apart[i, j] for i in one for j in other]
                if one < other and all(p <= most and u <= most_bp for p, u in pairs):
                    p, u = max(p for p, _ in pairs), max(u for _, u in pairs)
                    linkages.append((max(10_000 * p // max(1, most), 10_000 * u // max(1, most_bp)), one, other))
        if not linkages:
            return groups
        _, one, other = min(linkages)
        groups = sorted([group for group in groups if group not in (one, other)] + [sorted(one + other)])


def _group(passed: list[Trainer], trainers: list[Trainer], verdict: Json, limits: Json) -> Json:
    apart = {(i, j): distances(a, b) for i, a in enumerate(passed) for j, b in enumerate(passed)}
    groups = _groups(len(passed), apart, limits)
    stakes = [sum(passed[place].stake for place in group) for group in groups]
    verdict |= {"passed_stake": sum(trainer.stake for trainer in passed), "cluster_stake": max(stakes, default=0)}
    if 2 * verdict["cluster_stake"] <= verdict["passed_stake"]:
        return _void("void-no-majority", trainers, verdict)
    group = groups[stakes.index(verdict["cluster_stake"])]

    def rank(place: int) -> tuple[int, int, bytes]:
        sums = [sum(apart[place, other][part] for other in group) for part in (0, 1)]
        return sums[0], sums[1], passed[place].address

    medoid = min(group, key=rank)
    for place, trainer in enumerate(passed):
        profile, update = apart[place, medoid]
        trainer.finding |= {"profile_distance": profile, "update_distance": update}
        if place not in group:
            trainer.finding["failed"] = "dissimilar"
    for trainer in trainers:
        reason = "medoid" if trainer is passed[medoid] else trainer.finding["failed"] or "similar-majority"
        outcome = "slashed" if trainer.finding["failed"] else "accepted"
        trainer.finding |= {"outcome": outcome, "reason": reason}
    return verdict | {"reason": "similar-majority", "medoid": passed[medoid].address} | _found(trainers)


def _void(reason: str, trainers: list[Trainer], verdict: Json) -> Json:
    for trainer in trainers:
        missed = trainer.finding["failed"] in {"not-committed", "not-revealed"}
        outcome = "slashed" if missed else "returned"
        trainer.finding |= {"outcome": outcome, "reason": trainer.finding["failed"] if missed else reason}
    return verdict | {"reason": reason} | _found(trainers)


def _found(trainers: list[Trainer]) -> dict[str, Any]:
    return {"findings": [{"address": trainer.address, **trainer.finding} for trainer in trainers]}
