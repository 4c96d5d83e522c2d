"""Runs points of both parts, in several processes where that is asked for, and counts what came of them."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from deepshard.errors import UsageError
from deepshard.testing.durability import plain_files, rot
from deepshard.testing.durability.homes import FOLDER, homes
from deepshard.testing.durability.outcomes import Damage, Outcome, damages
from deepshard.testing.durability.power import STAGES, VARIANTS, Loss, operations_of, run_loss, small_snapshots
from deepshard.testing.simulate.plan import chance

PARTS: Final = ("power", "rot")
KEPT: Final = "every promise kept"
_QUICK_LOSSES: Final = 42
_QUICK_DAMAGES: Final = 24
_CHUNK: Final = 40
Task = Loss | Damage
Row = tuple[str, str, str, str]
"""Part, stage or home and file, kind, outcome."""


@dataclass(slots=True)
class Tally:
    """What came of a sweep.

    Attributes:
        rows: how many points came to each outcome.
        failures: for each violation, the command that does it again and what was seen.
    """

    rows: Counter[Row] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def points(self) -> int:
        """Points so far."""
        return self.rows.total()

    def add(self, other: Tally) -> None:
        """Count another part of the sweep."""
        self.rows.update(other.rows)
        self.failures += other.failures


def tasks_of(parts: Sequence[str], seed: int, *, quick: bool) -> list[Task]:
    """All points, or an evenly spread sample, in an order by chance: a sweep that is stopped was a sample, too."""
    found: list[Task] = []
    with small_snapshots():
        if "power" in parts:
            found += _losses(seed, quick=quick)
        if "rot" in parts:
            sample = _QUICK_DAMAGES if quick else None
            for home in homes(seed).values():
                found += rot.damages_of(home, sample=sample)
            for name, data in plain_files.contents(seed).items():
                found += damages(plain_files.HOME, name, len(data), sample=sample)
    chance(f"order {seed}").shuffle(found)
    return found


def _losses(seed: int, *, quick: bool) -> Iterator[Loss]:
    for stage in STAGES:
        count = len(operations_of(stage, seed))
        if not quick:
            yield from (Loss(stage, point, variant) for point in range(1, count + 1) for variant in VARIANTS)
            continue
        for number, point in enumerate(range(1, count + 1, max(1, count * len(STAGES) // _QUICK_LOSSES))):
            yield Loss(stage, point, VARIANTS[number % len(VARIANTS)])


def loss_of(seed: int, stage: str, point: int, variant: str) -> Loss:
    """One point of part "power".

    Raises:
        UsageError: there is none such.
    """
    if stage not in STAGES or variant not in VARIANTS:
        raise UsageError(f"a power loss has a stage of {', '.join(STAGES)} and a variant of {', '.join(VARIANTS)}")
    count = len(operations_of(stage, seed))
    if not 1 <= point <= count:
        raise UsageError(f"stage {stage} has the points 1 to {count}, not {point}")
    return Loss(stage, point, variant)


def damage_of(seed: int, home: str, file: str, variant: str, point: int) -> Damage:
    """One point of part "rot".

    Raises:
        UsageError: there is none such.
    """
    sizes = {(one.name, name): len(one.image[FOLDER / name]) for one in homes(seed).values() for name in one.damaged}
    sizes |= {(plain_files.HOME, name): len(data) for name, data in plain_files.contents(seed).items()}
    if (home, file) not in sizes:
        raise UsageError(f"no file {file!r} in a home {home!r}: there are {', '.join(map('/'.join, sizes))}")
    kinds = ("flip", "cut") if home == plain_files.HOME else ("flip", "cut", "gone")
    if variant not in kinds or not 0 <= point < sizes[home, file]:
        raise UsageError(f"{file} can suffer {', '.join(kinds)} at the points 0 to {sizes[home, file] - 1}")
    return Damage(home, file, variant, point)


def run_tasks(seed: int, tasks: Sequence[Task]) -> Tally:
    """Run points one after the other."""
    tally = Tally()
    with small_snapshots():
        for task in tasks:
            row, seen = _run(seed, task)
            tally.rows[row] += 1
            if row[3] == Outcome.VIOLATION.value:
                tally.failures.append((task.command(seed), seen))
    return tally


def _run(seed: int, task: Task) -> tuple[Row, str]:
    if isinstance(task, Loss):
        story = run_loss(task.stage, seed, task)
        outcome = KEPT if story.violation is None else Outcome.VIOLATION.value
        # A point that was never reached is a violation without an operation.
        at = [(one.file, f"{one.kind} of {one.file}") for one in story.operations if one.point == task.point]
        file, where = at[0] if at else ("nowhere", "nowhere")
        return ("power", f"{task.stage} {file}", task.variant, outcome), f"{where}: {story.violation}"
    verdict = plain_files.inflict(seed, task) if task.home == plain_files.HOME else rot.inflict(seed, task)
    return ("rot", f"{task.home} {task.file}", task.kind, verdict.outcome.value), verdict.seen


def run_sweep(seed: int, tasks: Sequence[Task], *, jobs: int, told: Callable[[Tally], bool]) -> Tally:
    """Run points in so many processes; `told` gets the tally so far, and may end the sweep by answering True."""
    total = Tally()
    for part in _parts(seed, tasks, jobs):
        total.add(part)
        if told(total):
            break
    total.failures.sort()
    return total


def _parts(seed: int, tasks: Sequence[Task], jobs: int) -> Iterator[Tally]:
    chunks = [tasks[start : start + _CHUNK] for start in range(0, len(tasks), _CHUNK)]
    if jobs == 1:
        for chunk in chunks:
            yield run_tasks(seed, chunk)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        waiting = [pool.submit(run_tasks, seed, chunk) for chunk in chunks]
        try:
            for future in waiting:
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
