"""Each check passes on a good report and fails on the report that is wrong in exactly its point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from deepshard.devnet.checks import run_checks
from deepshard.devnet.report import (
    AnswersReport,
    AuditReport,
    BalanceReport,
    DownloadReport,
    FaultReport,
    LicenceReport,
    ProcessReport,
    ProposalReport,
    Report,
    StorageReport,
    TrainerReport,
)


def trainer(number: int, *, honest: bool, outcome: str, amount: int) -> TrainerReport:
    return TrainerReport(
        name=f"trainer-{number}",
        address=f"ds1trainer{number}",
        honest=honest,
        outcome=outcome,
        reason="",
        amount=amount,
    )


def proposal(title: str, expected: Any, status: str, slashed: int) -> ProposalReport:
    return ProposalReport(
        id=title,
        title=title,
        expected=expected,
        status=status,
        stake=100,
        slashed=slashed,
        tally={"accept_bp": 9000},
    )


def good_report() -> Report:
    return Report(
        model="tiny",
        dishonest=1,
        accepted=[proposal("sound", "accepted", "trained", 0)],
        rejected=[proposal("worthless", "rejected", "rejected", 30)],
        round_outcome="accepted",
        trainers=[
            *(trainer(number, honest=True, outcome="accepted", amount=40) for number in (1, 2, 3)),
            trainer(4, honest=False, outcome="slashed", amount=-100),
        ],
        supply={"genesis": 1000, "minted": 120, "burned": 20, "treasury": 50},
        supply_held=1100,
        supply_conserved=True,
        weights_root_before="aa" * 32,
        weights_root_after="bb" * 32,
        verdict_replayed=True,
        gain_millinats=900,
        logprob_before=-4.0,
        logprob_after=-2.5,
        licence=LicenceReport(version=0, price=100, height=4),
        download=DownloadReport(
            bytes_by_peer={"validator-1": 10, "validator-2": 20},
            chunks_verified=7,
            bytes_by_version={"0": 25, "1": 5},
            weights_root="bb" * 32,
            light_client_height=90,
        ),
        answers=AnswersReport(prompt="?", before="one", after="two", streamed="two", streamed_pieces=2),
        storage={f"validator-{n}": StorageReport(version=1, assigned=3, held=3) for n in (1, 2, 3, 4)},
        agreement_height=95,
        state_roots=dict.fromkeys(("validator-1", "validator-2", "validator-3", "validator-4"), "cc"),
        bonds={f"validator-{n}": BalanceReport(address="", before=1000, after=1000) for n in (1, 2, 3, 4)},
        audits={f"validator-{n}": AuditReport(asked=3) for n in (1, 2, 3, 4)},
        scored_by={f"validator-{n}": "deepshard::perturbation_score (cpu, packed)" for n in (1, 2, 3)},
        processes=[ProcessReport(name=f"node-{n}", role="any", pid=n, exit_code=0) for n in range(1, 11)],
    )


def void_report() -> Report:
    report = good_report()
    report.dishonest = 2
    report.round_outcome, report.round_reason = "void", "void-no-majority"
    report.trainers = [
        *(trainer(number, honest=True, outcome="returned", amount=0) for number in (1, 2)),
        *(trainer(number, honest=False, outcome="returned", amount=0) for number in (3, 4)),
    ]
    report.weights_root_after = report.weights_root_before
    report.download.weights_root = report.weights_root_before
    report.storage = {name: StorageReport(version=0, assigned=3, held=3) for name in report.storage}
    return report


def fault(kind: str, node: str, phase: str, height: int) -> FaultReport:
    return FaultReport(
        kind=kind,
        node=node,
        phase=phase,
        seconds=20,
        began_in=phase,
        ended_in=phase,
        pid=1,
        facts="was hurt",
        height_before=height,
        height_after=height + 10,
        recovery_s=1.5,
        signed_height=height + 12,
    )


def faulted_report() -> Report:
    """One validator was killed, and another one stopped."""
    report = good_report()
    report.faults = [fault("kill", "validator-3", "joining", 20), fault("stop", "validator-2", "scoring", 40)]
    report.faults[1].pid = 2
    report.processes[0] = ProcessReport(name="validator-3", role="validator", pid=1, exit_code=-9)
    report.processes.append(ProcessReport(name="validator-3", role="validator", pid=11, exit_code=0))
    return report


def failed(report: Report) -> list[str]:
    return [check.name for check in run_checks(report) if not check.passed]


@pytest.mark.parametrize("report", [good_report(), void_report(), faulted_report()])
def test_a_good_report_passes_every_check(report: Report) -> None:
    assert failed(report) == []
    assert len(run_checks(report)) >= 18


def test_one_dishonest_must_not_void_the_round() -> None:
    report = void_report()
    report.dishonest = 1
    report.trainers[2].honest = True
    assert failed(report) == ["the round was decided"]


def test_two_dishonest_may_be_slashed_while_the_honest_are_accepted() -> None:
    report = good_report()
    report.dishonest = 2
    report.trainers[2] = trainer(3, honest=False, outcome="slashed", amount=-100)
    assert failed(report) == []


def no_trainer(report: Report) -> None:
    report.trainers.clear()


def set_to(path: str, value: Any) -> Callable[[Report], None]:
    *inner, last = path.split(".")

    def change(report: Report) -> None:
        place: Any = report
        for name in inner:
            place = (
                place[int(name)] if name.isdigit() else place[name] if isinstance(place, dict) else getattr(place, name)
            )
        if isinstance(place, dict):
            place[last] = value
        else:
            setattr(place, last, value)

    return change


CASES = [
    (set_to("rejected", []), "one proposal accepted, one rejected"),
    (set_to("accepted.0.expected", "rejected"), "one proposal accepted, one rejected"),
    (set_to("accepted.0.tally", {}), "one proposal accepted, one rejected"),
    (set_to("undecided", [proposal("third", "rejected", "contested", 0)]), "one proposal accepted, one rejected"),
    (set_to("rejected.0.slashed", 0), "the rejected stake is cut"),
    (set_to("rejected.0.slashed", 101), "the rejected stake is cut"),
    (set_to("accepted.0.slashed", 1), "the rejected stake is cut"),
    (set_to("round_outcome", ""), "the round was decided"),
    (no_trainer, "all trainers took part"),
    (set_to("trainers.3.outcome", "accepted"), "no dishonest submission accepted"),
    (set_to("trainers.3.outcome", "accepted"), "exactly the dishonest are slashed"),
    (set_to("trainers.3.amount", 0), "exactly the dishonest are slashed"),
    (set_to("trainers.0.outcome", "slashed"), "no honest trainer slashed"),
    (set_to("trainers.0.outcome", "returned"), "every honest trainer is paid"),
    (set_to("trainers.0.amount", 0), "every honest trainer is paid"),
    (set_to("weights_root_after", "aa" * 32), "the weights changed"),
    (set_to("logprob_after", -4.0), "the accepted text became more likely"),
    (set_to("logprob_after", None), "the accepted text became more likely"),
    (set_to("storage.validator-2", StorageReport(version=1, assigned=3, held=2)), "validators hold their shards"),
    (set_to("storage.validator-2", StorageReport(version=0, assigned=3, held=3)), "validators hold their shards"),
    (
        set_to("storage", {f"validator-{n}": StorageReport(version=1, assigned=0, held=0) for n in (1, 2, 3, 4)}),
        "validators hold their shards",
    ),
    (set_to("gain_millinats", 0), "validators measured a gain on it"),
    (set_to("scored_by", {}), "validators scored through the kernels"),
    (set_to("scored_by.validator-2", "plain logits"), "validators scored through the kernels"),
    (set_to("verdict_replayed", value=False), "the verdict follows from the reports"),
    (set_to("licence", None), "a licence was paid for"),
    (set_to("licence.price", 0), "a licence was paid for"),
    (set_to("download.bytes_by_peer", {"validator-1": 30}), "downloaded from several validators, verified"),
    (set_to("download.bytes_by_peer.validator-1", 0), "downloaded from several validators, verified"),
    (set_to("download.chunks_verified", 0), "downloaded from several validators, verified"),
    (set_to("download.bytes_by_version.1", 25), "the upgrade is smaller than the full copy"),
    (set_to("download.weights_root", "dd"), "the inference node verified the chain's weights"),
    (set_to("download.light_client_height", 0), "the light client followed the chain"),
    (set_to("answers.before", " "), "the model answered before and after"),
    (set_to("answers.streamed", "three"), "the answer also came as a stream"),
    (set_to("answers.streamed_pieces", 1), "the answer also came as a stream"),
    (set_to("supply_held", 1099), "supply is conserved"),
    (set_to("supply_conserved", value=False), "supply is conserved"),
    (set_to("state_roots.validator-4", "ee"), "validators agree on the state"),
    (set_to("state_roots", {"validator-1": "cc"}), "validators agree on the state"),
    (set_to("bonds", {}), "no validator lost stake"),
    (set_to("bonds.validator-3.after", 999), "no validator lost stake"),
    (set_to("bonds.validator-3.before", 0), "no validator lost stake"),
    (set_to("audits.validator-3.failed", 1), "validators showed what audits asked for"),
    (set_to("equivocations", ["validator-1 saw validator-3 sign twice at height 7"]), "nobody signed twice"),
    (set_to("processes.9.pid", 9), "every node is a process of its own"),
    (set_to("processes.9.exit_code", 1), "every node shut down cleanly"),
]


@pytest.mark.parametrize(("change", "name"), CASES)
def test_a_wrong_report_fails_its_check(change: Callable[[Report], None], name: str) -> None:
    report = good_report()
    change(report)
    assert name in failed(report)


def test_a_void_round_that_changed_weights_fails() -> None:
    report = void_report()
    report.weights_root_after = report.download.weights_root = "bb" * 32
    assert failed(report) == ["a void round changes no weights"]


def test_the_faulty_may_miss_audits_and_lose_what_they_cost() -> None:
    report = faulted_report()
    report.audits["validator-3"] = AuditReport(asked=2, failed=2, lost=5)
    report.bonds["validator-3"].after -= 5
    assert {each.node for each in report.faults} >= {"validator-3"}
    assert failed(report) == []
    report.bonds["validator-3"].after -= 1
    assert failed(report) == ["no validator lost stake"]


FAULT_CASES = [
    (set_to("faults.0.began_in", ""), "each fault came when it should, and took hold"),
    (set_to("faults.1.began_in", "training"), "each fault came when it should, and took hold"),
    (set_to("faults.1.facts", ""), "each fault came when it should, and took hold"),
    (set_to("faults.0.height_after", 20), "the network went on under each fault"),
    (set_to("faults.1.height_before", 0), "the network went on under each fault"),
    (set_to("faults.1.signed_height", 0), "the faulty caught up and sign again"),
    (set_to("faults.1.signed_height", 50), "the faulty caught up and sign again"),
    (set_to("faults.0.node", "validator-9"), "the faulty caught up and sign again"),
    (set_to("processes.10.pid", 10), "every node is a process of its own"),
    (set_to("processes.10.exit_code", -9), "every node shut down cleanly"),
    (set_to("faults.0.kind", "stop"), "every node shut down cleanly"),
]


@pytest.mark.parametrize(("change", "name"), FAULT_CASES)
def test_what_faults_must_show_and_only_the_killed_process_may_die(change: Callable[[Report], None], name: str) -> None:
    report = faulted_report()
    change(report)
    assert name in failed(report)


def test_running_processes_are_not_judged_by_their_exit() -> None:
    report = good_report()
    report.processes[0].exit_code = None
    names = [check.name for check in run_checks(report)]
    assert "every node shut down cleanly" not in names
    assert failed(report) == []


def test_an_empty_report_passes_nothing_by_accident() -> None:
    passed = {check.name for check in run_checks(Report()) if check.passed}
    # Of an empty list of trainers nobody is dishonest and nobody slashed. All else must have happened to pass.
    assert passed <= {
        "the rejected stake is cut",
        "no dishonest submission accepted",
        "no honest trainer slashed",
        "every node shut down cleanly",
        "nobody signed twice",
    }
    assert msgspec.json.decode(msgspec.json.encode(Report()), type=Report) == Report()
