"""Four validators as real processes under load: committed transactions a second, latency, processor time, memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Final

import msgspec

from bench.wire.alone import signature_seconds
from bench.wire.rows import Row
from deepshard.limits import MIB

from .load import Load, Result
from .network import NodeProcess, key_of, prepare, running

ACCOUNTS: Final = 400
WAITING_MAX: Final = 6000
SAMPLE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """How long is measured: a steady load after some warming up, then as much as gets in."""

    validators: int
    warm_s: float
    steady_s: float
    full_s: float
    rate: float


QUICK: Final = Plan(validators=2, warm_s=0.5, steady_s=4.0, full_s=0.0, rate=200.0)
FULL: Final = Plan(validators=4, warm_s=130.0, steady_s=60.0, full_s=30.0, rate=600.0)
"""Ids that gossip has seen are remembered for up to 120 s: before that, memory grows by design."""
FULL_RATE: Final = 1e6
"""More than gets in."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A moment: resident bytes and processor time of each node."""

    at: float
    resident: tuple[int, ...]
    processor_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """A load and what was seen of the nodes meanwhile, in seconds since it began."""

    result: Result
    samples: list[Sample]

    def rate(self, start: float, end: float) -> float:
        """Transactions committed a second."""
        return sum(start <= at < end for at in self.result.committed) / (end - start)

    def latencies(self, start: float, end: float) -> list[float]:
        """Seconds from submission to commitment of what was submitted in this time."""
        pairs = zip(self.result.submitted, self.result.committed, strict=True)
        return [done - sent for sent, done in pairs if start <= sent < end and done > 0]

    def during(self, start: float, end: float) -> list[Sample]:
        """Samples of this time."""
        return [sample for sample in self.samples if start <= sample.at < end]


def under_load(nodes: Sequence[NodeProcess], folder: Path, *, rate: float, seconds: float) -> Run:
    """Run the load against these nodes."""
    load = Load(
        genesis=str(folder / "genesis.json"),
        validators=tuple(node.listen for node in nodes),
        accounts=ACCOUNTS,
        rate=rate,
        seconds=seconds,
        waiting_max=WAITING_MAX,
    )
    (folder / "load.json").write_bytes(msgspec.json.encode(load))
    command = [sys.executable, "-m", "bench.consensus.load", str(folder / "load.json")]
    samples: list[Sample] = []
    with (folder / "result.json").open("wb") as output, subprocess.Popen(command, stdout=output) as client:
        began = time.monotonic()
        while client.poll() is None:
            samples.append(_sample(nodes, time.monotonic() - began))
            time.sleep(min(SAMPLE_S, seconds / 8))
    assert client.returncode == 0
    return Run(msgspec.json.decode((folder / "result.json").read_bytes(), type=Result), samples)


def _sample(nodes: Sequence[NodeProcess], at: float) -> Sample:
    resident, processor_s = [], []
    for node in nodes:
        with node.statistics.oneshot():
            resident.append(node.statistics.memory_info().rss)
            times = node.statistics.cpu_times()
            processor_s.append(times.user + times.system)
    return Sample(at, tuple(resident), tuple(processor_s))


def throughput_rows(plan: Plan) -> list[Row]:
    """The rows of the table."""
    with tempfile.TemporaryDirectory(prefix="bench-consensus-") as name:
        folder = Path(name)
        nodes = _network(folder, plan)
        with running(nodes):
            steady = under_load(nodes, folder, rate=plan.rate, seconds=plan.warm_s + plan.steady_s)
        rows = _rows(plan, steady)
    if plan.full_s:
        rows[0].beside["with all that gets in (1/s)"] = _most(plan)
    return rows


def _most(plan: Plan) -> float:
    """Transactions a second of a fresh network that is offered more than it takes."""
    with tempfile.TemporaryDirectory(prefix="bench-consensus-") as name:
        folder = Path(name)
        nodes = _network(folder, plan)
        with running(nodes):
            full = under_load(nodes, folder, rate=FULL_RATE, seconds=plan.full_s)
    return full.rate(plan.full_s / 3, plan.full_s)


def _network(folder: Path, plan: Plan) -> list[NodeProcess]:
    validators = [key_of("validator", number) for number in range(plan.validators)]
    return prepare(folder, validators, [key_of("account", number) for number in range(ACCOUNTS)])


def _rows(plan: Plan, steady: Run) -> list[Row]:
    start, end = plan.warm_s, plan.warm_s + plan.steady_s
    committed = steady.rate(start, end)
    latencies = steady.latencies(start, end)
    samples = steady.during(start, end)
    spent = [after - before for before, after in zip(samples[0].processor_s, samples[-1].processor_s, strict=True)]
    span = samples[-1].at - samples[0].at
    _, verify_s = signature_seconds(runs=3)
    beside = {
        "offered (1/s)": plan.rate,
        "never committed": float(sum(at < 0 for at in steady.result.committed)),
        "latency to the block, median (ms)": 1e3 * median(latencies),
        "latency to the block, 99th percentile (ms)": 1e3 * quantiles(latencies, n=100)[98],
        "processor us per transaction and node": 1e6 * mean(spent) / (span * committed),
        "of these to verify its signature": 1e6 * verify_s,
        "cores busy with the four nodes": sum(spent) / span,
        "limit: signatures alone, every node, on 2 cores (1/s)": 2 / (plan.validators * verify_s),
    }
    before, after = (
        [mean(sample.resident[number] for sample in part) / MIB for number in range(plan.validators)]
        for part in (samples[:4], samples[-4:])
    )
    memory = {
        "resident MiB at the start, mean of nodes": mean(before),
        "resident MiB at the end, mean of nodes": mean(after),
        "warmed up before (s)": plan.warm_s,
    }
    growth = max(100 * (late / early - 1) for early, late in zip(before, after, strict=True))
    return [
        Row(
            f"{plan.validators} processes: transactions committed", committed, "1/s", 500, at_least=True, beside=beside
        ),
        Row("  largest growth of a node's memory meanwhile", growth, "%", 10, at_least=False, beside=memory),
    ]
