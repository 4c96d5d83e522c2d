"""Many seeds: in parallel processes, with what each exercised counted over the set."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from deepshard.testing.simulate.observing import BRANCHES
from deepshard.testing.simulate.plan import CRASH_MODES, FAULT_KINDS, RUN_SET, Plan, draw
from deepshard.testing.simulate.running import run_plan
from deepshard.testing.simulate.shrink import shrink

SETS = {"ci": range(60), "small": range(1000), "full": range(10_000)}
ANY_SCENARIO = "set"
_RARE_FROM = 1000
"""Sets of so many seeds have to exercise what is rare, too."""
_RARE = frozenset(
    {
        "core.lock.changed",
        "core.lock-proof",
        "core.prevote.against-lock-by-proof",
        "core.decide.round-left-behind",
        "core.valid-without-lock",
        "core.resume.locked",
        "blamed",
        "forked",
        "evidence.amnesia",
        "evidence.duplicate-vote",
        "consensus.amnesia",
        "convicted.amnesia",
        "evidence.awaited",
        "bit-rot.refused",
        "join.installed",
    }
)
SOMETIMES = frozenset(
    (
        *FAULT_KINDS,
        *(f"crash.{mode}" for mode in CRASH_MODES),
        *BRANCHES,
        *_RARE,
        "chain.synced",
        "consensus.equivocation",
        "convicted.duplicate-proposal",
        "convicted.duplicate-vote",
        "light.trusted",
        "liveness.checked",
        "peer.banned",
        "peer.penalised",
        "proposal.invalid",
        "transaction.refused",
        "work.bond",
        "work.transfer",
        "work.unbond",
    )
)
"""What a run set has to exercise: every kind of fault, every branch of the core, and these events of services."""
_CHUNK_SEEDS = 5


@dataclass(slots=True)
class Tally:
    """What came of a set.

    Attributes:
        failures: seed, scenario and violation of each run that broke a promise.
    """

    seeds: int = 0
    blocks: int = 0
    virtual_s: float = 0.0
    seen: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Count what another part of the set came to."""
        self.seeds += other.seeds
        self.blocks += other.blocks
        self.virtual_s += other.virtual_s
        self.seen.update(other.seen)
        self.failures += other.failures

    def never(self) -> list[str]:
        """What should have been exercised and wasn't."""
        expected = SOMETIMES if self.seeds >= _RARE_FROM else SOMETIMES - _RARE
        return sorted(name for name in expected if not self.seen[name])


def scenario_of(seed: int, scenario: str) -> str:
    """The scenario of a seed; of a run set it is the one at the seed's place."""
    return RUN_SET[seed % len(RUN_SET)] if scenario == ANY_SCENARIO else scenario


def run_seeds(seeds: Sequence[int], scenario: str, nodes: int | None, canary: str | None) -> Tally:
    """Run some seeds, one after the other."""
    tally = Tally()
    for seed in seeds:
        name = scenario_of(seed, scenario)
        result = run_plan(draw(seed, name, nodes), canary=canary)
        tally.seeds += 1
        tally.blocks += result.blocks
        tally.virtual_s += result.virtual_s
        tally.seen.update(result.seen)
        if result.violation is not None:
            tally.failures.append((seed, name, result.violation))
    return tally


def run_set(
    seeds: Sequence[int],
    scenario: str,
    nodes: int | None = None,
    *,
    canary: str | None = None,
    jobs: int = 1,
    told: Callable[[Tally], bool] = lambda _: False,
) -> Tally:
    """Run a set; `told` gets the tally so far and may end the set by answering True."""
    total = Tally()
    for part in _parts(seeds, scenario, nodes, canary, jobs):
        total.add(part)
        if told(total):
            break
    total.failures.sort()
    return total


def _parts(seeds: Sequence[int], scenario: str, nodes: int | None, canary: str | None, jobs: int) -> Iterator[Tally]:
    chunks = [seeds[start : start + _CHUNK_SEEDS] for start in range(0, len(seeds), _CHUNK_SEEDS)]
    if jobs == 1:
        for chunk in chunks:
            yield run_seeds(chunk, scenario, nodes, canary)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        waiting = [pool.submit(run_seeds, chunk, scenario, nodes, canary) for chunk in chunks]
        try:
            for future in waiting:
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def shrunk(plan: Plan, canary: str | None) -> tuple[int, ...]:
    """Numbers of the faults that a failing plan needs."""
    return shrink(plan, lambda fewer: run_plan(fewer, canary=canary).violation is not None)


def replay_command(plan: Plan, kept: Sequence[int] | None, canary: str | None) -> str:
    """What runs a plan again."""
    parts = [f"python -m deepshard.testing.simulate --seed {plan.seed} --scenario {plan.scenario}"]
    if draw(plan.seed, plan.scenario).stakes != plan.stakes:
        parts.append(f"--nodes {len(plan.stakes)}")
    if kept is not None:
        parts.append(f"--keep {','.join(map(str, kept)) or 'none'}")
    if canary is not None:
        parts.append(f"--canary {canary}")
    return " ".join(parts)


def differing_line(seed: int, scenario: str, nodes: int | None) -> str | None:
    """Run a seed in two processes of different hash seeds; the first line in which their logs differ, or None."""
    logs = []
    with tempfile.TemporaryDirectory() as folder:
        for hash_seed in ("1", "4242"):
            path = Path(folder) / hash_seed
            command = [sys.executable, "-m", "deepshard.testing.simulate", "--seed", str(seed), "--log", str(path)]
            command += ["--scenario", scenario, *([] if nodes is None else ["--nodes", str(nodes)])]
            environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)  # noqa: S603  # this program
            logs.append(path.read_bytes())
    if logs[0] == logs[1]:
        return None
    pairs = zip(logs[0].splitlines(), logs[1].splitlines(), strict=False)
    return next((f"{a.decode()} / {b.decode()}" for a, b in pairs if a != b), "one log is longer than the other")
