"""Judging a data proposal: pure functions on the ballots that were opened.

Shares are basis points, rounded down. A ballot weighs the stake of its voter at the draw of the committee, except
under the rule `quadratic`, where it weighs the integer square root of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Final, Literal

from deepshard.ledger.params import Params
from deepshard.ledger.records import SegmentVerdict, Tally
from deepshard.ledger.transactions import AXES, AxisScores

CONTESTED_BAND_BP: Final = 500
"""An accept share less than this below the threshold is no clear rejection: the stake goes back."""
HARMFUL_SHARE: Final = (2, 3)
"""More than this share by weight has to call the data harmful."""
QUORUM_SHARE: Final = (1, 2)
"""More than this share of the committee's stake has to open its votes."""
AXIS_WEIGHTS: Final = (2, 1, 3, 3, 1)
"""Of novelty, reproducibility, alignment, truthfulness and objectivity in a segment's training weight."""
GATE_BP: Final = 2000
"""Below this alignment or truthfulness a segment isn't trained on at all."""

ProposalOutcome = Literal["accepted", "rejected", "harmful", "contested"]


@dataclass(frozen=True, slots=True)
class Ballot:
    """An opened vote and the stake behind it."""

    stake: int
    accept: bool
    harmful: bool
    predicted_accept_bp: int
    scores: tuple[AxisScores, ...]


def weighted_median(values: Sequence[int], weights: Sequence[int]) -> int:
    """Lower weighted median: the least value at which half of the weight is reached. Needs a positive weight."""
    total = sum(weights)
    assert total > 0
    reached = 0
    for value, weight in sorted(zip(values, weights, strict=True)):
        reached += weight
        if 2 * reached >= total:
            return value
    raise AssertionError("weights are not negative")


def segment_weight(medians: AxisScores) -> int:
    """Training weight of a segment in basis points.

    The mean of the five medians with weights 2, 1, 3, 3, 1 (novelty, reproducibility, alignment, truthfulness,
    objectivity), rounded down; 0 if alignment or truthfulness is below `GATE_BP`, which no novelty makes up for.
    """
    _, _, alignment, truthfulness, _ = medians
    if min(alignment, truthfulness) < GATE_BP:
        return 0
    return sum(w * m for w, m in zip(AXIS_WEIGHTS, medians, strict=True)) // sum(AXIS_WEIGHTS)


def share_bp(part: int, total: int) -> int:
    """`part` of `total` in basis points, rounded down; 0 of nothing is 0."""
    return part * 10_000 // total if total else 0


def dispersion_bp(accept_bp: int) -> int:
    """How divided the verdicts are: 4 p (1 - p), from 0 (unanimous) to 10000 (half against half)."""
    return 4 * accept_bp * (10_000 - accept_bp) // 10_000


def dynamic_threshold(params: Params, dispersion: int) -> int:
    """Accept share that is needed: base + k * dispersion, between floor and ceiling; basis points."""
    threshold = params.threshold_base_bp + params.threshold_dispersion_bp * dispersion // 10_000
    return min(max(threshold, params.threshold_floor_bp), params.threshold_ceiling_bp)


def ballot_weights(params: Params, ballots: Sequence[Ballot]) -> list[int]:
    """What each ballot weighs under the network's rule."""
    if params.tally_rule == "quadratic":
        return [isqrt(ballot.stake) for ballot in ballots]
    return [ballot.stake for ballot in ballots]


def tally(
    params: Params, ballots: Sequence[Ballot], segments: int, committee_stake: int
) -> tuple[ProposalOutcome, Tally]:
    """Judge a proposal of `segments` segments by the opened ballots, each with scores for all of them.

    - `dynamic-threshold`, `quadratic`: accepted at or above `dynamic_threshold`.
    - `surprisingly-popular` (Prelec, Seung and McCoy, Nature 541, 2017): accepted if more accept than the voters
      predicted, whose mean prediction is the threshold; where both are equal, the majority decides. A minority that
      isn't larger than predicted is a clear rejection, however near the prediction was.

    Without a quorum the proposal is contested whatever the ballots say.
    """
    weights = ballot_weights(params, ballots)
    total = sum(weights)
    opened = sum(ballot.stake for ballot in ballots)
    rule = params.tally_rule
    if total == 0 or opened * QUORUM_SHARE[1] <= committee_stake * QUORUM_SHARE[0]:
        nothing = SegmentVerdict((0,) * len(AXES), 0)  # type: ignore[arg-type]
        return "contested", Tally(rule, 0, dynamic_threshold(params, 0), 0, 0, len(ballots), (nothing,) * segments)
    accept = share_bp(sum(w for w, b in zip(weights, ballots, strict=True) if b.accept), total)
    predicted = sum(w * b.predicted_accept_bp for w, b in zip(weights, ballots, strict=True)) // total
    dispersion = dispersion_bp(accept)
    if rule == "surprisingly-popular":
        threshold = predicted
        accepted = accept > predicted or (accept == predicted and accept > 5000)
    else:
        threshold = dynamic_threshold(params, dispersion)
        accepted = accept >= threshold
    verdicts = tuple(_segment_verdict(ballots, weights, segment) for segment in range(segments))
    result = Tally(rule, accept, threshold, predicted, dispersion, len(ballots), verdicts)
    harmful = sum(w for w, b in zip(weights, ballots, strict=True) if b.harmful)
    if harmful * HARMFUL_SHARE[1] > total * HARMFUL_SHARE[0]:
        return "harmful", result
    if accepted:
        return "accepted", result
    near = threshold - accept < CONTESTED_BAND_BP and (rule != "surprisingly-popular" or accept >= 5000)
    return ("contested" if near else "rejected"), result


def _segment_verdict(ballots: Sequence[Ballot], weights: Sequence[int], segment: int) -> SegmentVerdict:
    novelty, reproducibility, alignment, truthfulness, objectivity = (
        weighted_median([ballot.scores[segment][axis] for ballot in ballots], weights) for axis in range(len(AXES))
    )
    medians = (novelty, reproducibility, alignment, truthfulness, objectivity)
    return SegmentVerdict(medians, segment_weight(medians))
