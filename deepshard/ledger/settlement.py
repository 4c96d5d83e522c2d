"""Closing a training round: the verdict is written, stakes move, and the model changes or the batch waits again."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from deepshard.ledger import funds, keys
from deepshard.ledger.receipts import NOBODY, Receipts, round_subject
from deepshard.ledger.records import (
    Agenda,
    ModelVersion,
    RoundScoring,
    Seat,
    TrainerEntry,
    TrainingRound,
    WaitingProposal,
)
from deepshard.ledger.rewards import (
    ProposalGain,
    Split,
    divide,
    informant_rewards,
    proposal_gains,
    split_minted,
)
from deepshard.ledger.state import Draft, View
from deepshard.ledger.verdict import Finding, Verdict, WeighedReport, judge

VOID_ROUNDS_MAX: Final = 3
"""After this many void rounds a proposal becomes contested: it may be what trainers can't agree on."""
EMPTY_ROUNDS_DOUBLED_MAX: Final = 10
"""A round that nobody joins says nothing about its data; the wait for the next doubles up to this many times."""
VALUE_MAX: Final = 1 << 60


def weighed_reports(view: View, number: int, seats: tuple[Seat, ...]) -> list[WeighedReport]:
    """Reports of a round with the stake of their validators, in the order of `seats`."""
    found = [(seat.stake, view.report(number, seat.address)) for seat in seats]
    return [WeighedReport(stake, report.submissions) for stake, report in found if report is not None]


def settle(draft: Draft, receipts: Receipts, round_: TrainingRound, height: int) -> None:
    """Judge the round and carry out the verdict."""
    active = draft.active().validators
    reporters = set(round_.reporters)
    seats = tuple(Seat(entry.address, entry.stake) for entry in active if entry.address in reporters)
    known = draft.scoring(round_.number)
    probes = known.probes if known else ()
    validators_stake = sum(entry.stake for entry in active)
    draft.write(keys.scoring_key(round_.number), RoundScoring(probes, seats, validators_stake))
    reports = weighed_reports(draft, round_.number, seats)
    verdict = judge(round_.trainers, probes, reports, validators_stake, draft.params().verdict)
    slashed = sum(finding.stake for finding in verdict.findings if finding.outcome == "slashed")
    if verdict.accepted:
        paid = _accept(draft, receipts, round_, verdict, slashed, height)
    else:
        paid = {}
        funds.to_treasury(draft, slashed)
        _wait_again(draft, round_, height)
        facts: dict[str, int | str] = {"round": round_.number, "slashed": slashed}
        facts |= {"reporting_stake": verdict.reporting_stake, "validators_stake": validators_stake}
        facts |= {"passed_stake": verdict.passed_stake, "cluster_stake": verdict.cluster_stake}
        receipts.add("round-void", NOBODY, round_subject(round_.number), 0, verdict.reason, **facts)
    _close(draft, receipts, round_, verdict, paid, height)


def _close(
    draft: Draft, receipts: Receipts, round_: TrainingRound, verdict: Verdict, paid: dict[bytes, int], height: int
) -> None:
    """Give back or take the stakes, write each trainer's outcome and receipt."""
    subject = round_subject(round_.number)
    accepted_stake = sum(finding.stake for finding in verdict.findings if finding.outcome == "accepted")
    entries: list[TrainerEntry] = []
    for entry, finding in zip(round_.trainers, verdict.findings, strict=True):
        facts = finding_facts(finding)
        if finding.outcome == "slashed":
            funds.seize(draft, entry.address, entry.stake)
            amount = -entry.stake
            receipts.add("trainer-slash", entry.address, subject, amount, finding.reason, **facts)
        else:
            funds.unlock(draft, entry.address, entry.stake)
            amount = paid.get(entry.address, 0)
            funds.credit(draft, entry.address, amount)
            kind = "trainer-reward" if finding.outcome == "accepted" else "trainer-returned"
            if finding.outcome == "accepted":
                facts |= {"pool": sum(paid.values()), "accepted_stake": accepted_stake}
            receipts.add(kind, entry.address, subject, amount, finding.reason, **facts)
        entries.append(replace(entry, outcome=finding.outcome, reason=finding.reason, paid=amount))
    draft.put_round(
        replace(
            round_,
            status="closed" if verdict.accepted else "void",
            deadline=height,
            trainers=tuple(entries),
            medoid=verdict.medoid,
            reason=verdict.reason,
        )
    )


def finding_facts(finding: Finding) -> dict[str, int | str]:
    """The numbers of a finding by name, without those that weren't measured."""
    names = ("gain_batch", "gain_reference", "gain_rejected", "profile_distance", "update_distance")
    facts: dict[str, int | str] = {"stake": finding.stake, "available_stake": finding.available_stake}
    facts |= {name: value for name in names if (value := getattr(finding, name)) is not None}
    if finding.failed and finding.failed != finding.reason:
        facts["failed"] = finding.failed
    return facts


def _accept(
    draft: Draft, receipts: Receipts, round_: TrainingRound, verdict: Verdict, slashed: int, height: int
) -> dict[bytes, int]:
    """Install the medoid's model, mint and pay; what each trainer is to be credited."""
    params = draft.params()
    scoring = draft.scoring(round_.number)
    assert scoring is not None
    split = split_minted(params, funds.mintable(draft, params.mint_per_round))
    gains = proposal_gains(verdict.medoid_profile, scoring.probes, round_.batch)
    total_gain = sum(gain.gain for gain in gains)
    minted = split.trainers + _pay_informants(draft, receipts, round_, split, gains)
    stakes = {finding.address: finding.stake for finding in verdict.findings if finding.outcome == "accepted"}
    paid = divide(slashed + split.trainers, stakes)
    funds.to_treasury(draft, slashed + split.trainers - sum(paid.values()))
    funds.mint(draft, minted)
    version = _install(draft, round_, verdict, total_gain, height)
    agenda = draft.agenda()
    draft.put_agenda(Agenda(agenda.voting, tuple(e for e in agenda.waiting if e.id not in round_.proposals)))
    for proposal_id in round_.proposals:
        proposal = draft.proposal(proposal_id)
        assert proposal is not None
        draft.put_proposal(replace(proposal, status="trained"))
    for segment in round_.batch:
        draft.add_to_pool("heldout", segment.digest)
    facts: dict[str, int | str] = {"round": round_.number, "version": version, "minted": minted, "slashed": slashed}
    facts |= {"gain": total_gain, "reporting_stake": verdict.reporting_stake}
    facts |= {"passed_stake": verdict.passed_stake, "cluster_stake": verdict.cluster_stake}
    assert verdict.medoid is not None
    receipts.add("round-accepted", verdict.medoid, round_subject(round_.number), 0, verdict.reason, **facts)
    return paid


def _install(draft: Draft, round_: TrainingRound, verdict: Verdict, total_gain: int, height: int) -> int:
    chain, model = draft.chain(), draft.current_model()
    entry = next(entry for entry in round_.trainers if entry.address == verdict.medoid)
    version = chain.version + 1
    value = min(VALUE_MAX, model.value + total_gain)
    model = ModelVersion(
        version, entry.manifest, entry.weights_root, entry.chunks_root, entry.shard_count, height, value
    )
    draft.write(keys.model_key(version), model)
    draft.write(keys.CHAIN, replace(chain, version=version))
    return version


def _pay_informants(
    draft: Draft, receipts: Receipts, round_: TrainingRound, split: Split, gains: tuple[ProposalGain, ...]
) -> int:
    """Credit informants for the measured gain of their data; the sum paid."""
    by_informant: dict[bytes, int] = {}
    for gain in gains:
        proposal = draft.proposal(gain.proposal)
        assert proposal is not None
        by_informant[proposal.proposer] = by_informant.get(proposal.proposer, 0) + gain.gain
    rewards = informant_rewards(split, by_informant)
    total_gain = sum(by_informant.values())
    for informant, reward in rewards.items():
        funds.credit(draft, informant, reward)
        facts = {"gain": by_informant[informant], "total_gain": total_gain}
        limits = {"pool": split.informants, "cap": split.informant_cap}
        receipts.add("informant-reward", informant, round_subject(round_.number), reward, "", **facts, **limits)
    return sum(rewards.values())


def _wait_again(draft: Draft, round_: TrainingRound, height: int) -> None:
    """After a void round: its proposals wait for another, or become contested after too many."""
    freeze = draft.params().freeze_blocks
    waiting: list[WaitingProposal] = []
    agenda = draft.agenda()
    for entry in agenda.waiting:
        if entry.id not in round_.proposals:
            waiting.append(entry)
        elif not round_.trainers:
            not_before = height + (freeze << min(entry.empty_rounds + 1, EMPTY_ROUNDS_DOUBLED_MAX))
            waiting.append(replace(entry, not_before=not_before, empty_rounds=entry.empty_rounds + 1))
        elif entry.void_rounds + 1 < VOID_ROUNDS_MAX:
            again = replace(entry, not_before=height + freeze, void_rounds=entry.void_rounds + 1, empty_rounds=0)
            waiting.append(again)
        else:
            _contest(draft, entry.id)
    draft.put_agenda(Agenda(agenda.voting, tuple(waiting)))


def _contest(draft: Draft, proposal_id: bytes) -> None:
    proposal = draft.proposal(proposal_id)
    assert proposal is not None
    draft.put_proposal(replace(proposal, status="contested"))
    for segment in proposal.segments:
        if draft.segment_owner(segment.digest) == proposal_id:
            draft.write(keys.segment_key(segment.digest), None)
