"""Replaying a decision from what the state keeps, with every number beside its limit.

The verdict and the tally are computed anew from reports and votes, never read from the record: `agrees` says whether
the record shows the same. Values are JSON-ready: amounts in base units, addresses `ds1...`, digests hex, gains and
profile distances in millinats, update distances in basis points.
"""

from __future__ import annotations

from typing import Any

from deepshard.errors import UsageError
from deepshard.ledger.audits import audit_counts, draw_shards
from deepshard.ledger.params import VerdictLimits
from deepshard.ledger.proposals import opened_ballots
from deepshard.ledger.records import DataProposal, RoundScoring, TrainerEntry, TrainingRound
from deepshard.ledger.rewards import proposal_gains
from deepshard.ledger.settlement import finding_facts, weighed_reports
from deepshard.ledger.state import View
from deepshard.ledger.tally import Ballot, tally, weighted_median
from deepshard.ledger.transactions import AXES
from deepshard.ledger.verdict import Finding, Verdict, judge
from deepshard.limits import AUDITS_KEPT
from deepshard.primitives import format_address

Json = dict[str, Any]
TESTS = ("committed", "revealed", "available", "progressed", "sound", "similar")
_FAILED_TEST = {
    "not-committed": "committed",
    "not-revealed": "revealed",
    "unavailable": "available",
    "no-progress": "progressed",
    "unsound": "sound",
    "dissimilar": "similar",
}


def explain_round(view: View, number: int) -> Json:
    """Why a training round ended as it did; a running one is explained as far as it is.

    Raises:
        UsageError: no such round.
    """
    round_ = view.round(number)
    if round_ is None:
        raise UsageError(f"no such round: {number}")
    scoring = view.scoring(number)
    explained: Json = {
        "round": number,
        "status": round_.status,
        "reason": round_.reason,
        "base_version": round_.base_version,
        "opened_height": round_.opened_height,
        "deadline": round_.deadline,
        "proposals": [proposal.hex() for proposal in round_.proposals],
        "segments": len(round_.batch),
        "order_seed": round_.order_seed.hex(),
        "probe_seed": round_.probe_seed.hex(),
        "probes": [{"pool": probe.pool, "digest": probe.digest.hex()} for probe in scoring.probes] if scoring else [],
        "limits": _limits(view),
        "medoid": None if round_.medoid is None else format_address(round_.medoid),
    }
    if round_.status in {"closed", "void"} and scoring is not None:
        verdict = replay_verdict(view, round_, scoring)
        explained |= _verdict_json(view, round_, scoring, verdict)
    else:
        explained["trainers"] = [_recorded(entry) for entry in round_.trainers]
    return explained


def _limits(view: View) -> dict[str, int]:
    limits = view.params().verdict
    return {name: getattr(limits, name) for name in VerdictLimits.__struct_fields__}


def replay_verdict(view: View, round_: TrainingRound, scoring: RoundScoring) -> Verdict:
    """The verdict on a finished round, computed from its reports."""
    reports = weighed_reports(view, round_.number, scoring.reporting)
    return judge(round_.trainers, scoring.probes, reports, scoring.validators_stake, view.params().verdict)


def _verdict_json(view: View, round_: TrainingRound, scoring: RoundScoring, verdict: Verdict) -> Json:
    limits = view.params().verdict
    trainers = [
        _recorded(entry) | _replayed(finding, verdict, limits)
        for entry, finding in zip(round_.trainers, verdict.findings, strict=True)
    ]
    gains = proposal_gains(verdict.medoid_profile, scoring.probes, round_.batch) if verdict.accepted else ()
    return {
        "agrees": verdict.medoid == round_.medoid
        and verdict.reason == round_.reason
        and all(trainer["outcome"] == trainer["replayed_outcome"] for trainer in trainers)
        and all(trainer["reason"] == trainer["replayed_reason"] for trainer in trainers),
        "validators_stake": scoring.validators_stake,
        "reporting_stake": verdict.reporting_stake,
        "reporters": [{"validator": format_address(seat.address), "stake": seat.stake} for seat in scoring.reporting],
        "passed_stake": verdict.passed_stake,
        "cluster_stake": verdict.cluster_stake,
        "trainers": trainers,
        "log_prob": _log_prob(view, round_, scoring, verdict),
        "gains": [
            {"proposal": gain.proposal.hex(), "gain": gain.gain, "probed": gain.probed, "segments": gain.segments}
            for gain in gains
        ],
    }


def _log_prob(view: View, round_: TrainingRound, scoring: RoundScoring, verdict: Verdict) -> Json | None:
    """Mean log-prob of the probes from the batch, in millinats a token: under the base, and under what was accepted.

    The base's is the median of the reports, weighted by stake, like every other number.
    """
    reports = [
        (seat.stake, report.base)
        for seat in scoring.reporting
        if (report := view.report(round_.number, seat.address)) is not None and report.base
    ]
    places = [place for place, probe in enumerate(scoring.probes) if probe.pool == "batch"]
    if not reports or not places or not verdict.accepted:
        return None
    stakes = [stake for stake, _ in reports]
    before = [weighted_median([base[place].log_prob for _, base in reports], stakes) for place in places]
    gains = [verdict.medoid_profile[place].log_prob for place in places]
    return {
        "before": sum(before) // len(places),
        "after": (sum(before) + sum(gains)) // len(places),
        "probes": len(places),
    }


def _recorded(entry: TrainerEntry) -> Json:
    return {
        "address": format_address(entry.address),
        "stake": entry.stake,
        "outcome": entry.outcome,
        "reason": entry.reason,
        "paid": entry.paid,
        "commitment": entry.commitment.hex(),
        "manifest": entry.manifest.hex(),
        "weights_root": entry.weights_root.hex(),
    }


def _replayed(finding: Finding, verdict: Verdict, limits: VerdictLimits) -> Json:
    return {
        "replayed_outcome": finding.outcome,
        "replayed_reason": finding.reason,
        "numbers": finding_facts(finding),
        "tests": _tests(finding, verdict, limits),
    }


def _tests(finding: Finding, verdict: Verdict, limits: VerdictLimits) -> list[Json]:
    """The tests in their order up to the one that failed, each with what was measured and what was asked."""
    measured = _measured(finding, verdict, limits)
    shown: list[Json] = []
    for name in TESTS:
        failed = _FAILED_TEST.get(finding.failed) == name
        if name == "available" and verdict.reason in {"void-no-reports", "void-no-submission"} and not failed:
            break  # nothing was measured
        if name == "similar" and not failed and finding.outcome != "accepted":
            shown.append({"test": name, "passed": False, **measured[name]})
            break
        shown.append({"test": name, "passed": not failed, **measured[name]})
        if failed:
            break
    return shown


def _measured(finding: Finding, verdict: Verdict, limits: VerdictLimits) -> dict[str, Json]:
    excess = None
    if finding.gain_batch is not None and finding.gain_reference is not None:
        excess = finding.gain_batch - finding.gain_reference
    rejected = None
    if finding.gain_rejected is not None and finding.gain_reference is not None:
        rejected = finding.gain_rejected - finding.gain_reference
    return {
        "committed": {},
        "revealed": {},
        "available": {"stake": finding.available_stake, "stake_min": -(-verdict.reporting_stake * 2 // 3)},
        "progressed": {
            "gain_batch": finding.gain_batch,
            "gain_reference": finding.gain_reference,
            "excess": excess,
            "excess_min": max(1, limits.progress_margin),
        },
        "sound": {
            "gain_reference": finding.gain_reference,
            "gain_reference_min": -limits.heldout_loss_max,
            "excess_rejected": rejected,
            "excess_rejected_max": None if excess is None else limits.rejected_gain_bp * excess // 10_000,
        },
        "similar": {
            "profile_distance": finding.profile_distance,
            "profile_distance_max": limits.profile_distance_max,
            "update_distance_bp": finding.update_distance,
            "update_distance_max_bp": limits.update_distance_max_bp,
            "cluster_stake": verdict.cluster_stake,
            "cluster_stake_above": verdict.passed_stake // 2,
        },
    }


def explain_proposal(view: View, proposal_id: bytes) -> Json:
    """Why a data proposal was decided as it was; an open one is explained as far as it is.

    Raises:
        UsageError: no such proposal.
    """
    proposal = view.proposal(proposal_id)
    if proposal is None:
        raise UsageError(f"no such proposal: {proposal_id.hex()}")
    ballots, committee_stake = opened_ballots(view, proposal)
    explained: Json = {
        "proposal": proposal_id.hex(),
        "proposer": format_address(proposal.proposer),
        "title": proposal.title,
        "status": proposal.status,
        "stake": proposal.stake,
        "opened_height": proposal.opened_height,
        "decided_height": proposal.decided_height,
        "committee_stake": committee_stake,
        "opened_stake": sum(ballot.stake for ballot in ballots),
        "votes": _votes(view, proposal),
    }
    if proposal.tally is not None:
        explained |= _tally_json(view, proposal, ballots, committee_stake)
    return explained


def _votes(view: View, proposal: DataProposal) -> list[Json]:
    committee = view.committee(proposal.id)
    committed = {voter for voter, _ in proposal.commitments}
    votes: list[Json] = []
    for seat in committee.seats if committee else ():
        vote = view.vote(proposal.id, seat.address)
        entry: Json = {
            "voter": format_address(seat.address),
            "stake": seat.stake,
            "committed": seat.address in committed,
            "opened": vote is not None,
        }
        if vote is not None:
            entry |= {
                "accept": vote.accept,
                "harmful": vote.harmful,
                "predicted_accept_bp": vote.predicted_accept_bp,
                "scores": [list(scores) for scores in vote.scores],
            }
        votes.append(entry)
    return votes


def _tally_json(view: View, proposal: DataProposal, ballots: list[Ballot], committee_stake: int) -> Json:
    outcome, replayed = tally(view.params(), ballots, len(proposal.segments), committee_stake)
    # An accepted proposal becomes `trained` later, or `contested` when too many rounds on it were void.
    later = {"trained": "accepted", "contested": outcome if outcome == "accepted" else "contested"}
    return {
        "agrees": replayed == proposal.tally and outcome == later.get(proposal.status, proposal.status),
        "outcome": outcome,
        "rule": replayed.rule,
        "accept_bp": replayed.accept_bp,
        "threshold_bp": replayed.threshold_bp,
        "predicted_bp": replayed.predicted_bp,
        "dispersion_bp": replayed.dispersion_bp,
        "axes": list(AXES),
        "segments": [
            {"digest": segment.digest.hex(), "medians": list(verdict.medians), "weight_bp": verdict.weight_bp}
            for segment, verdict in zip(proposal.segments, replayed.segments, strict=True)
        ],
    }


_CRIMES = {
    "duplicate-vote": "signed two different votes for one place",
    "duplicate-proposal": "proposed two different blocks in one round",
    "amnesia": "voted against a block that it was locked on, without a proof-of-lock",
}


def explain_conviction(view: View, address: bytes) -> Json | None:
    """What a validator was convicted of the latest time, what it lost, and until when it is jailed; None if never."""
    conviction = view.conviction(address)
    if conviction is None:
        return None
    params = view.params()
    text = (
        f"It {_CRIMES[conviction.kind]} at height {conviction.offence_height}; the block of height {conviction.height} "
        f"has the two signatures. That cost {params.equivocation_slash_bp} basis points of its bond and of what "
        f"it was withdrawing, and settles all that it did up to height {conviction.covered_height}."
    )
    if conviction.jailed_until:
        text += f" It is jailed; from height {conviction.jailed_until} on it may ask to be let back (Unjail)."
    return {
        "kind": conviction.kind,
        "evidence": conviction.evidence.hex(),
        "offence_height": conviction.offence_height,
        "height": conviction.height,
        "covered_height": conviction.covered_height,
        "jailed_until": conviction.jailed_until or None,
        "slash_bp": params.equivocation_slash_bp,
        "slashed": conviction.slashed,
        "count": conviction.count,
        "text": text,
    }


def explain_audit(view: View, epoch: int) -> Json:
    """What the audit of an epoch asked of whom, who answered, and what who didn't lost; an open one as far as it is.

    The draw and the counts are computed anew: `agrees` says whether the record shows the same.

    Raises:
        UsageError: no such audit.
    """
    audit = view.audit(epoch)
    if audit is None:
        raise UsageError(f"no such audit: there was none in epoch {epoch}, or it is over {AUDITS_KEPT} epochs ago")
    params, model = view.params(), view.model(audit.version)
    drawn = draw_shards(audit.seed, 0 if model is None else model.shard_count, params.audits_per_epoch)
    counts = [(holder, len(asked), len(failed)) for holder, asked, failed in audit_counts(audit)]
    recorded = [(outcome.holder, outcome.asked, outcome.failed) for outcome in audit.outcomes]
    return {
        "epoch": epoch,
        "version": audit.version,
        "status": "closed" if audit.closed else "open",
        "opened_height": audit.opened_height,
        "deadline": audit.deadline,
        "seed": audit.seed.hex(),
        "slash_bp": params.audit_slash_bp,
        "agrees": drawn == tuple(shard.shard for shard in audit.shards) and (not audit.closed or recorded == counts),
        "shards": [
            {
                "number": shard.shard,
                "shown": shard.shown,
                "due": [format_address(holder) for holder in shard.due],
                "answered": [format_address(holder) for holder in shard.answered],
            }
            for shard in audit.shards
        ],
        "outcomes": [
            {
                "holder": format_address(outcome.holder),
                "asked": outcome.asked,
                "failed": outcome.failed,
                "lost": outcome.bonded + outcome.unbonding,
            }
            for outcome in audit.outcomes
        ],
    }
