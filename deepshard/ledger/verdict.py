"""Telling honest trainers from the others: the tests of a round, on integers, in their order.

| test | fails where | reason |
|---|---|---|
| committed | no commitment by the deadline | `not-committed` |
| revealed | no reveal, or none that opens the commitment | `not-revealed` |
| available | validators with 2/3 of the reporting stake couldn't retrieve and score it | `unavailable` |
| progressed | its gain on the batch isn't above that on reference text by the margin | `no-progress` |
| sound | it lost too much on reference text, or gained on rejected text | `unsound` |
| similar | it is outside of the cluster that holds the majority of the stake that passed so far | `dissimilar` |

*Reference* text is the held-out and general probes together. A gain is the mean, over probes, of the change in mean
log-prob against the base model, in millinats, rounded down. What several validators measured is taken as the weighted
median by stake, number by number, over those who could score the submission.

A round without reports from more than two thirds of the validators' stake is void, and so is one where no cluster
holds more than half of the stake of the trainers that passed the tests before. In a void round nobody is slashed for
what was *measured*: if the tests can't agree on a model, they can't blame one either. Missing a commit or a reveal
needs no measurement, and is slashed in any round; otherwise joining and never committing would be free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deepshard.ledger.params import VerdictLimits
from deepshard.ledger.records import OutcomeReason, Probe, ProbePool, TrainerEntry, TrainerOutcome
from deepshard.ledger.similarity import Position, clusters, distances_of, medoid
from deepshard.ledger.tally import weighted_median
from deepshard.ledger.transactions import ProbeScore, SubmissionReport
from deepshard.primitives import ZERO_DIGEST

REFERENCE: tuple[ProbePool, ...] = ("heldout", "general")


@dataclass(frozen=True, slots=True)
class WeighedReport:
    """A validator's report and the stake behind it; submissions are the revealed ones, ordered by address."""

    stake: int
    submissions: tuple[SubmissionReport, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """What the tests found of one trainer; numbers that a failed test made meaningless are None.

    Gains are in millinats; distances are those to the medoid.
    """

    address: bytes
    stake: int
    outcome: TrainerOutcome
    reason: OutcomeReason
    available_stake: int = 0
    gain_batch: int | None = None
    gain_reference: int | None = None
    gain_rejected: int | None = None
    profile_distance: int | None = None
    update_distance: int | None = None
    failed: OutcomeReason = ""
    """The test that was failed, also where a void round slashes nobody for it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Outcome of a round: findings in the order of trainers, and the accepted one with its median profile.

    `reason` is `similar-majority`, or why the round is void.
    """

    reason: OutcomeReason
    medoid: bytes | None
    medoid_profile: tuple[ProbeScore, ...]
    reporting_stake: int
    passed_stake: int
    cluster_stake: int
    findings: tuple[Finding, ...]

    @property
    def accepted(self) -> bool:
        """Whether the round gives a new model."""
        return self.medoid is not None


def mean_gain(profile: Sequence[ProbeScore], probes: Sequence[Probe], pools: Sequence[ProbePool]) -> int | None:
    """Mean log-prob change over the probes of `pools` in millinats, rounded down; None without such probes."""
    values = [score.log_prob for score, probe in zip(profile, probes, strict=True) if probe.pool in pools]
    return sum(values) // len(values) if values else None


def _position(entry: TrainerEntry, reports: Sequence[tuple[int, SubmissionReport]]) -> Position:
    """Medians of what those who could score the submission reported of it."""
    stakes = [stake for stake, _ in reports]
    profiles = [report.profile for _, report in reports]
    sketches = [report.sketch for _, report in reports]
    profile = tuple(
        ProbeScore(
            weighted_median([score.log_prob for score in column], stakes),
            weighted_median([score.conditional_curvature for score in column], stakes),
            weighted_median([score.perturbation_curvature for score in column], stakes),
        )
        for column in zip(*profiles, strict=True)
    )
    sketch = tuple(weighted_median(column, stakes) for column in zip(*sketches, strict=True))
    return Position(entry.address, entry.stake, profile, sketch)


def _measure(
    finding: Finding, profile: Sequence[ProbeScore], probes: Sequence[Probe], limits: VerdictLimits
) -> Finding:
    """Tests `progressed` and `sound`."""
    batch = mean_gain(profile, probes, ("batch",)) or 0
    reference = mean_gain(profile, probes, REFERENCE) or 0
    rejected = mean_gain(profile, probes, ("rejected",))
    failed: OutcomeReason = ""
    if batch - reference < max(1, limits.progress_margin):
        failed = "no-progress"
    elif reference < -limits.heldout_loss_max or (
        rejected is not None and (rejected - reference) * 10_000 > limits.rejected_gain_bp * (batch - reference)
    ):
        failed = "unsound"
    return replace(finding, gain_batch=batch, gain_reference=reference, gain_rejected=rejected, failed=failed)


def judge(
    trainers: Sequence[TrainerEntry],
    probes: Sequence[Probe],
    reports: Sequence[WeighedReport],
    validators_stake: int,
    limits: VerdictLimits,
) -> Verdict:
    """The verdict of a round.

    Args:
        trainers: all who joined, ordered by address, with what they committed and revealed.
        probes: those drawn for the round, in the order of every profile.
        reports: each lists exactly the revealed trainers in order, with profiles as long as `probes`.
        validators_stake: stake of all validators, whether they reported or not.
        limits: the network's bounds.
    """
    reporting = sum(report.stake for report in reports)
    findings = {entry.address: _deadlines(entry) for entry in trainers}
    revealed = [entry for entry in trainers if not findings[entry.address].failed]
    if not revealed:
        return _void("void-no-submission", reporting, 0, findings)
    if reporting * 3 <= validators_stake * 2:
        return _void("void-no-reports", reporting, 0, findings)
    positions: list[Position] = []
    for index, entry in enumerate(revealed):
        submissions = [(report.stake, report.submissions[index]) for report in reports]
        available = [(stake, submission) for stake, submission in submissions if submission.available]
        available_stake = sum(stake for stake, _ in available)
        finding = replace(findings[entry.address], available_stake=available_stake)
        if available_stake * 3 < reporting * 2:
            findings[entry.address] = replace(finding, failed="unavailable")
            continue
        position = _position(entry, available)
        finding = _measure(finding, position.profile, probes, limits)
        findings[entry.address] = finding
        if not finding.failed:
            positions.append(position)
    return _similar(positions, reporting, findings, limits)


def _deadlines(entry: TrainerEntry) -> Finding:
    failed: OutcomeReason = ""
    if entry.commitment == ZERO_DIGEST:
        failed = "not-committed"
    elif entry.manifest == ZERO_DIGEST:
        failed = "not-revealed"
    return Finding(entry.address, entry.stake, "pending", "", failed=failed)


def _similar(
    positions: Sequence[Position], reporting: int, findings: dict[bytes, Finding], limits: VerdictLimits
) -> Verdict:
    passed_stake = sum(position.stake for position in positions)
    distances = distances_of(positions)
    groups = clusters(distances, limits)
    held = [sum(positions[index].stake for index in group) for group in groups]
    cluster_stake = max(held, default=0)
    if cluster_stake * 2 <= passed_stake:
        return _void("void-no-majority", reporting, passed_stake, findings, cluster_stake)
    group = groups[held.index(cluster_stake)]
    chosen = medoid(distances, positions, group)
    for index, position in enumerate(positions):
        outcome: TrainerOutcome = "accepted" if index in group else "slashed"
        reason: OutcomeReason = "similar-majority" if index in group else "dissimilar"
        findings[position.address] = replace(
            findings[position.address],
            outcome=outcome,
            reason="medoid" if index == chosen else reason,
            profile_distance=distances.profile[index][chosen],
            update_distance=distances.update[index][chosen],
            failed="" if index in group else "dissimilar",
        )
    settled = tuple(
        finding if finding.outcome != "pending" else replace(finding, outcome="slashed", reason=finding.failed)
        for finding in findings.values()
    )
    return Verdict(
        "similar-majority",
        positions[chosen].address,
        positions[chosen].profile,
        reporting,
        passed_stake,
        cluster_stake,
        settled,
    )


def _void(
    reason: OutcomeReason, reporting: int, passed_stake: int, findings: dict[bytes, Finding], cluster_stake: int = 0
) -> Verdict:
    settled = tuple(
        replace(finding, outcome="slashed", reason=finding.failed)
        if finding.failed in {"not-committed", "not-revealed"}
        else replace(finding, outcome="returned", reason=reason)
        for finding in findings.values()
    )
    return Verdict(reason, None, (), reporting, passed_stake, cluster_stake, settled)
