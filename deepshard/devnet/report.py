"""The report of a run: what was observed, as one value that is shown to people, checked, and written as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from deepshard.devnet.narration import Grid
from deepshard.primitives import format_amount

Json = dict[str, Any]
MIB = 1024 * 1024
RoundOutcome = Literal["", "accepted", "void"]


class ProposalReport(msgspec.Struct, kw_only=True):
    """A data proposal: what its maker expected of an honest network, and what became of it. Amounts in base units."""

    id: str
    title: str
    expected: Literal["accepted", "rejected"]
    status: str
    stake: int
    slashed: int
    tally: Json


class TrainerReport(msgspec.Struct, kw_only=True):
    """A trainer: as configured, and as judged. `amount` is its reward, or minus its slash, in base units."""

    name: str
    address: str
    honest: bool
    outcome: str
    reason: str
    amount: int


class LicenceReport(msgspec.Struct, kw_only=True):
    """The licence the inference operator bought."""

    version: int
    price: int
    height: int


class DownloadReport(msgspec.Struct, kw_only=True):
    """Downloads of the inference node: by serving peer, and by version."""

    bytes_by_peer: dict[str, int] = {}
    chunks_verified: int = 0
    bytes_by_version: dict[str, int] = {}
    weights_root: str = ""
    light_client_height: int = 0


class AnswersReport(msgspec.Struct, kw_only=True):
    """What the model said to the prompt, before and after the epoch, and once more as a stream."""

    prompt: str = ""
    before: str = ""
    after: str = ""
    streamed: str = ""
    streamed_pieces: int = 0


class BalanceReport(msgspec.Struct, kw_only=True):
    """An account's total (balance and all stake) in base units."""

    address: str
    before: int
    after: int


class AuditReport(msgspec.Struct, kw_only=True):
    """Shards that a validator was asked for in storage audits, how many of them it failed to show, and what it lost."""

    asked: int = 0
    failed: int = 0
    lost: int = 0


class TrafficReport(msgspec.Struct, kw_only=True):
    """Bytes on the wire of one node, over all its links since it started."""

    bytes_in: int
    bytes_out: int


class ProcessReport(msgspec.Struct, kw_only=True):
    """A node process: `exit_code` is None while it runs, minus the signal's number if a signal ended it."""

    name: str
    role: str
    pid: int
    exit_code: int | None


class StorageReport(msgspec.Struct, kw_only=True):
    """Shards of the newest version a validator is assigned, and holds."""

    version: int
    assigned: int
    held: int


class FaultReport(msgspec.Struct, kw_only=True):
    """A fault: as asked for, and what it did.

    Attributes:
        began_in: phase in which it began; empty if it never did.
        ended_in: phase in which it was undone.
        pid: process that it was done to.
        facts: how it is known to have taken hold; empty if it isn't.
        height_before: the network's height when it began.
        height_after: the network's height when it was undone.
        recovery_s: seconds from then until the node was at that height and had signed a block above it.
        signed_height: height of the first such block; 0 if there is none.
    """

    kind: str
    node: str
    phase: str
    seconds: int
    began_in: str = ""
    ended_in: str = ""
    pid: int = 0
    facts: str = ""
    height_before: int = 0
    height_after: int = 0
    recovery_s: float = 0.0
    signed_height: int = 0


class Check(msgspec.Struct, kw_only=True):
    """One thing that has to be true at the end, with the facts it was judged by."""

    name: str
    passed: bool
    facts: str


class Report(msgspec.Struct, kw_only=True):
    """Everything a run found out; fields keep their empty values where a run failed before it got there."""

    ok: bool = False
    failed_step: str = ""
    failure: str = ""
    model: str = ""
    dishonest: int = 0
    parameters: int = 0
    accepted: list[ProposalReport] = []
    rejected: list[ProposalReport] = []
    undecided: list[ProposalReport] = []
    round_outcome: RoundOutcome = ""
    round_reason: str = ""
    trainers: list[TrainerReport] = []
    supply: dict[str, int] = {}
    supply_held: int = 0
    supply_conserved: bool = False
    weights_root_before: str = ""
    weights_root_after: str = ""
    verdict_replayed: bool = False
    gain_millinats: int = 0
    logprob_before: float | None = None
    logprob_after: float | None = None
    licence: LicenceReport | None = None
    download: DownloadReport = msgspec.field(default_factory=DownloadReport)
    answers: AnswersReport = msgspec.field(default_factory=AnswersReport)
    balances: dict[str, BalanceReport] = {}
    bytes_moved: dict[str, TrafficReport] = {}
    storage: dict[str, StorageReport] = {}
    agreement_height: int = 0
    state_roots: dict[str, str] = {}
    bonds: dict[str, BalanceReport] = {}
    audits: dict[str, AuditReport] = {}
    equivocations: list[str] = []
    scored_by: dict[str, str] = {}
    """Operator and path through which each validator scored the submissions."""
    faults: list[FaultReport] = []
    phase_seconds: dict[str, float] = {}
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    peak_memory_measure: str = "none"
    processes: list[ProcessReport] = []
    checks: list[Check] = []


def write_report(report: Report, path: Path) -> None:
    """Write the report as indented JSON, whole or not at all."""
    unfinished = path.with_suffix(".json.unfinished")
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    unfinished.replace(path)


def report_grids(report: Report) -> list[Grid]:
    """The report as tables for people."""
    return [
        _proposal_grid(report),
        _trainer_grid(report),
        _balance_grid(report),
        _traffic_grid(report),
        _fact_grid(report),
        *([_fault_grid(report)] if report.faults else []),
        Grid(
            "Seconds per phase",
            ("phase", "seconds"),
            tuple((name, f"{seconds:.1f}") for name, seconds in report.phase_seconds.items()),
        ),
        Grid(
            "Checks",
            ("check", "result", "facts"),
            tuple((check.name, "passed" if check.passed else "FAILED", check.facts) for check in report.checks),
        ),
    ]


def _proposal_grid(report: Report) -> Grid:
    rows = tuple(
        (
            each.title,
            each.status,
            _share(each.tally, "accept_bp"),
            _share(each.tally, "threshold_bp"),
            _tokens(-each.slashed),
        )
        for each in (*report.accepted, *report.rejected, *report.undecided)
    )
    return Grid("Proposals", ("title", "status", "in favour", "needed", "stake lost"), rows)


def _trainer_grid(report: Report) -> Grid:
    rows = tuple(
        (each.name, "honest" if each.honest else "dishonest", each.outcome, each.reason, _tokens(each.amount))
        for each in report.trainers
    )
    return Grid(
        f"Trainers (round {report.round_outcome})", ("trainer", "configured", "outcome", "reason", "tokens"), rows
    )


def _balance_grid(report: Report) -> Grid:
    rows = tuple(
        (name, format_amount(each.before), format_amount(each.after), _tokens(each.after - each.before), each.address)
        for name, each in report.balances.items()
    )
    return Grid("Tokens (balance and stake)", ("account", "before", "after", "change", "address"), rows)


def _traffic_grid(report: Report) -> Grid:
    served = report.download.bytes_by_peer
    rows = tuple(
        (name, _mib(each.bytes_out), _mib(each.bytes_in), _mib(served.get(name, 0)))
        for name, each in report.bytes_moved.items()
    )
    return Grid("MiB moved", ("node", "sent", "received", "weights served to inference"), rows)


def _fact_grid(report: Report) -> Grid:
    licence = report.licence
    rows = [
        ("weights root before", report.weights_root_before),
        ("weights root after", report.weights_root_after),
        (
            "log-prob of the accepted text",
            f"{_nats(report.logprob_before)} -> {_nats(report.logprob_after)} nats a token",
        ),
        ("validators scored through", _scored_by(report)),
        ("gain the validators measured", f"{report.gain_millinats / 1000:.3f} nats a token, summed over segments"),
        ("licence", "none" if licence is None else f"{format_amount(licence.price)} tokens at height {licence.height}"),
        ("chunks verified by the inference node", str(report.download.chunks_verified)),
        ("supply conserved", "yes" if report.supply_conserved else "NO"),
        ("peak memory", f"{report.peak_memory_bytes / MIB:.0f} MiB ({report.peak_memory_measure})"),
        ("processes", str(len(report.processes))),
        ("question", report.answers.prompt),
        ("answer before", report.answers.before),
        ("answer after", report.answers.after),
    ]
    return Grid("Facts", ("what", "value"), tuple((name, " ".join(value.split())) for name, value in rows))


def _scored_by(report: Report) -> str:
    paths = sorted(set(report.scored_by.values()))
    return "; ".join(f"{path}: {', '.join(n for n, own in report.scored_by.items() if own == path)}" for path in paths)


def _fault_grid(report: Report) -> Grid:
    rows = tuple(
        (
            each.node,
            each.kind,
            each.began_in or "never",
            f"{each.height_before} -> {each.height_after}",
            f"{each.recovery_s:.1f} s" if each.signed_height else "-",
            str(each.signed_height) if each.signed_height else "-",
        )
        for each in report.faults
    )
    columns = ("node", "fault", "during", "height of the others", "back after", "signed again at height")
    return Grid("Faults", columns, rows)


def _share(tally: Json, key: str) -> str:
    value = tally.get(key)
    return f"{value / 100:.1f} %" if isinstance(value, int) else "-"


def _tokens(units: int) -> str:
    return ("+" if units > 0 else "") + format_amount(units)


def _mib(size: int) -> str:
    return f"{size / MIB:.2f}"


def _nats(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
