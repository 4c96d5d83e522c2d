"""Checks of `verdict.json`."""

from __future__ import annotations

from typing import Any

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json, unspell
from deepshard.ledger.params import VerdictLimits
from deepshard.ledger.records import Probe, TrainerEntry
from deepshard.ledger.transactions import ProbeScore, SubmissionReport
from deepshard.ledger.verdict import Finding, WeighedReport, judge
from deepshard.primitives import ZERO_DIGEST, tagged_hash

_MEASURED = ("gain_batch", "gain_reference", "gain_rejected", "profile_distance", "update_distance")


def check(case: Fields) -> Json:
    """Judge a round."""
    trainers = [_trainer(listed) for listed in case["trainers"]]
    revealed = [entry.address for entry in trainers if entry.manifest != ZERO_DIGEST]
    probes = [Probe(pool, tagged_hash("any", bytes([place]))) for place, pool in enumerate(case["pools"])]
    reports = [
        WeighedReport(int(listed["stake"]), tuple(map(_submission, revealed, listed["submissions"])))
        for listed in case["reports"]
    ]
    limits = VerdictLimits(**case["limits"])
    verdict = judge(trainers, probes, reports, case.number("validators_stake"), limits)
    names = ("reporting_stake", "passed_stake", "cluster_stake", "medoid", "reason")
    findings = [_finding(finding) for finding in verdict.findings]
    return {"verdict": {name: getattr(verdict, name) for name in names} | {"findings": findings}}


def _trainer(listed: Json) -> TrainerEntry:
    commitment = tagged_hash("any") if listed["committed"] else ZERO_DIGEST
    manifest = tagged_hash("any") if listed["revealed"] else ZERO_DIGEST
    stake, address = int(listed["stake"]), unspell(listed["address"])
    return TrainerEntry(address, stake, commitment, manifest, manifest, manifest, 9, manifest, "pending", "", 0)


def _submission(address: bytes, listed: Any) -> SubmissionReport:  # noqa: ANN401
    if listed is None:
        return SubmissionReport(address, available=False, profile=(), sketch=())
    profile = tuple(ProbeScore(*map(int, score)) for score in listed["profile"])
    return SubmissionReport(address, available=True, profile=profile, sketch=tuple(map(int, listed["sketch"])))


def _finding(finding: Finding) -> Json:
    measured = {name: value for name in _MEASURED if (value := getattr(finding, name)) is not None}
    names = ("address", "available_stake", "failed", "outcome", "reason")
    return {name: getattr(finding, name) for name in names} | measured
