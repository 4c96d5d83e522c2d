"""`python -m deepshard.testing.durability`: power losses and rot, point by point."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deepshard.testing.durability.sweep import Tally, Task

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
USAGE_EXIT, VIOLATION_EXIT = 2, 1
FAILURES_SHOWN = 20


@app.command()
def main(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="An evenly spread sample instead of every point.")] = False,
    only: Annotated[str, typer.Option(help="Parts to run.")] = "power,rot",
    seed: Annotated[int, typer.Option(help="Of torn writes, latencies and which bit of a byte flips.", min=0)] = 0,
    minutes: Annotated[float | None, typer.Option(help="Stop after so long; the order is by chance.", min=0)] = None,
    jobs: Annotated[int, typer.Option(help="Processes at a time.", min=1, max=64)] = 1,
    point: Annotated[int | None, typer.Option(help="One point of one part, with the options below.")] = None,
    variant: Annotated[
        str, typer.Option(help="lost, kept, subset, torn, twice, guard-left, or flip, cut, gone.")
    ] = "torn",
    stage: Annotated[str, typer.Option(help="With --point and --only power: calm or rough.")] = "calm",
    home: Annotated[str, typer.Option(help="With --point and --only rot: the moment.")] = "stopped",
    file: Annotated[str, typer.Option(help="With --point and --only rot: the file.")] = "chain.sqlite",
    json_: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Damage a validator's disk in every way, and judge what becomes of it.

    Exit code 0: every promise was kept, and all damage repaired, refused or harmless. 1: not. 2: bad arguments.
    """
    from deepshard.errors import UsageError  # noqa: PLC0415  # --help must answer before trio is loaded

    try:
        tasks = _tasks(only, seed, point, quick=quick, loss=(stage, variant), damage=(home, file, variant))
        began = time.monotonic()
        tally = _swept(seed, tasks, jobs, began + minutes * 60 if minutes is not None else float("inf"))
        seconds = time.monotonic() - began
        if json_ is not None:
            _write(json_, tally, seed, seconds)
    except UsageError as error:
        sys.stderr.write(f"deepshard.testing.durability: {error}\n")
        raise typer.Exit(USAGE_EXIT) from None
    _print_table(tally)
    whole = "" if tally.points == len(tasks) else f" of {len(tasks)}"
    typer.echo(f"{tally.points}{whole} points in {seconds:.0f} s: {len(tally.failures)} violations")
    for command, seen in tally.failures[:FAILURES_SHOWN]:
        typer.echo(f"VIOLATION: {seen}\nagain: {command}")
    if tally.failures:
        raise typer.Exit(VIOLATION_EXIT)


def _tasks(
    only: str, seed: int, point: int | None, *, quick: bool, loss: tuple[str, str], damage: tuple[str, str, str]
) -> list[Task]:
    from deepshard.errors import UsageError  # noqa: PLC0415
    from deepshard.testing.durability import sweep  # noqa: PLC0415

    parts = [part.strip() for part in only.split(",")]
    if unknown := [part for part in parts if part not in sweep.PARTS]:
        raise UsageError(f"no part {unknown[0]!r}: there are {', '.join(sweep.PARTS)}")
    if point is None:
        return sweep.tasks_of(parts, seed, quick=quick)
    if parts == ["power"]:
        return [sweep.loss_of(seed, loss[0], point, loss[1])]
    if parts == ["rot"]:
        return [sweep.damage_of(seed, *damage, point)]
    raise UsageError("--point goes with --only power or --only rot")


def _swept(seed: int, tasks: list[Task], jobs: int, until: float) -> Tally:
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    from deepshard.testing.durability.sweep import run_sweep  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("damaging", total=len(tasks))

        def told(so_far: Tally) -> bool:
            progress.update(task, completed=so_far.points, description=f"{len(so_far.failures)} violations")
            return time.monotonic() > until

        return run_sweep(seed, tasks, jobs=jobs, told=told)


def _print_table(tally: Tally) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table("part", "where", "what", "outcome", box=None)
    table.add_column("points", justify="right")
    for row, count in sorted(tally.rows.items()):
        table.add_row(*row, str(count))
    Console().print(table)


def _write(path: Path, tally: Tally, seed: int, seconds: float) -> None:
    from deepshard.errors import UsageError  # noqa: PLC0415

    rows = [
        dict(zip(("part", "where", "what", "outcome"), row, strict=True), points=count)
        for row, count in sorted(tally.rows.items())
    ]
    figures = {
        "seed": seed,
        "seconds": round(seconds, 1),
        "points": tally.points,
        "violations": [{"command": command, "seen": seen} for command, seen in tally.failures],
        "rows": rows,
    }
    try:
        path.write_text(json.dumps(figures, indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


if __name__ == "__main__":
    app(prog_name="python -m deepshard.testing.durability")
