"""`python -m deepshard.testing.simulate`: simulated networks, seed by seed."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from deepshard.testing.simulate.runset import Tally

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
USAGE_EXIT, VIOLATION_EXIT = 2, 1


@app.command()
def main(
    *,
    seed: Annotated[int | None, typer.Option(help="Run this one seed.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Run the seeds A:B, B not included.")] = None,
    set_: Annotated[str | None, typer.Option("--set", help="Run a set of seeds: ci, small or full.")] = None,
    scenario: Annotated[str, typer.Option(help="Which scenario; set: the run set, by seed.")] = "set",
    nodes: Annotated[int | None, typer.Option(help="Validators, 4 to 100, instead of what the seed says.")] = None,
    keep: Annotated[str | None, typer.Option(help="Only these faults of the seed: 1,4,7, or none.")] = None,
    canary: Annotated[str | None, typer.Option(help="Plant a bug; with --seeds or --set, it must be caught.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes at a time.", min=1, max=64)] = 1,
    log: Annotated[Path | None, typer.Option(help="With --seed: write all events to this file, as JSON lines.")] = None,
    trace: Annotated[
        tuple[str, Path] | None,
        typer.Option(metavar="NODE FILE", help="With --seed: write what this node's consensus core went through."),
    ] = None,
    verify_determinism: Annotated[
        bool, typer.Option("--verify-determinism", help="Run each seed twice and compare the logs.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="Show the scenarios and canaries.")] = False,
) -> None:
    """Simulate networks of the real services and judge them.

    Exit code 0: every promise was kept (with --canary and a set: the bug was caught). 1: not. 2: bad arguments.
    """
    from deepshard.errors import UsageError  # noqa: PLC0415  # --help must answer before trio is loaded

    try:
        if list_:
            _list()
        elif seed is not None and seeds is None and set_ is None and not verify_determinism:
            _one(seed, scenario, nodes, keep, canary, log, trace)
        else:
            chosen = _seeds(seed, seeds, set_, alone=keep is not None or log is not None or trace is not None)
            if verify_determinism:
                _verify(chosen, scenario, nodes)
            else:
                _many(chosen, scenario, nodes, canary, jobs)
    except UsageError as error:
        sys.stderr.write(f"deepshard.testing.simulate: {error}\n")
        raise typer.Exit(USAGE_EXIT) from None


def _seeds(seed: int | None, seeds: str | None, set_: str | None, *, alone: bool) -> range:
    from deepshard.errors import UsageError  # noqa: PLC0415
    from deepshard.testing.simulate.runset import SETS  # noqa: PLC0415

    if alone:
        raise UsageError("--keep, --log and --trace go with --seed alone")
    if [seed, seeds, set_].count(None) != 2:
        raise UsageError("give one of --seed N, --seeds A:B and --set NAME")
    if seed is not None:
        return range(seed, seed + 1)
    if set_ is not None:
        if set_ not in SETS:
            raise UsageError(f"no set {set_!r}: there are {', '.join(SETS)}")
        return SETS[set_]
    assert seeds is not None
    first, _, last = seeds.partition(":")
    if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise UsageError(f"{seeds!r} is no range of seeds: give A:B with A below B")
    return range(int(first), int(last))


def _list() -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from deepshard.testing.simulate.canaries import CANARIES  # noqa: PLC0415
    from deepshard.testing.simulate.plan import SCENARIOS  # noqa: PLC0415

    table = Table("scenario or canary", "what it is", box=None)
    for name, scenario in SCENARIOS.items():
        table.add_row(name, scenario.about)
    for name, canary in CANARIES.items():
        table.add_row(f"--canary {name}", (canary.__doc__ or "").strip())
    Console().print(table)


def _one(
    seed: int,
    scenario: str,
    nodes: int | None,
    keep: str | None,
    canary: str | None,
    log: Path | None,
    trace: tuple[str, Path] | None,
) -> None:
    from deepshard.consensus.replay import encode_trace  # noqa: PLC0415
    from deepshard.errors import UsageError  # noqa: PLC0415
    from deepshard.testing.simulate.plan import draw  # noqa: PLC0415
    from deepshard.testing.simulate.running import run_plan  # noqa: PLC0415
    from deepshard.testing.simulate.runset import replay_command, scenario_of  # noqa: PLC0415

    plan = drawn = draw(seed, scenario_of(seed, scenario), nodes)
    kept: tuple[int, ...] | None = None
    if keep is not None:
        parts = [] if keep == "none" else keep.split(",")
        if not all(part.isdecimal() for part in parts):
            raise UsageError(f"{keep!r} names no faults: give their numbers, such as 1,4,7, or none")
        kept = tuple(map(int, parts))
        plan = drawn.only(kept)
    began = time.monotonic()
    result = run_plan(plan, canary=canary, traced=log is not None, recorded=None if trace is None else trace[0])
    if log is not None:
        _write(log, result.log.encode())
    if trace is not None:
        if result.trace is None:
            raise UsageError(f"node {trace[0]} never took part: it has no trace")
        _write(trace[1], encode_trace(result.trace))
    seconds = time.monotonic() - began
    typer.echo(f"seed {seed}, scenario {plan.scenario}: {len(plan.stakes)} validators, {len(plan.faults)} faults")
    for number, fault in zip(kept if kept is not None else range(len(plan.faults)), plan.faults, strict=True):
        typer.echo(
            f"  fault {number}: {fault.kind} of {_names(fault.nodes)} from {fault.at} to {fault.until} s {fault.mode}"
        )
    typer.echo(f"{result.blocks} blocks in {result.virtual_s:.1f} virtual and {seconds:.2f} real seconds")
    if result.finality_s:
        typer.echo(f"median finality {sorted(result.finality_s)[len(result.finality_s) // 2]:.3f} virtual seconds")
    if result.violation is None:
        typer.echo("every promise was kept")
        return
    typer.echo(f"VIOLATION: {result.violation}\nagain: {replay_command(drawn, kept, canary)}")
    if kept is None:
        _print_shrunk(seed, plan.scenario, nodes, canary)
    raise typer.Exit(VIOLATION_EXIT)


def _write(path: Path, data: bytes) -> None:
    from deepshard.errors import UsageError  # noqa: PLC0415

    try:
        path.write_bytes(data)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def _names(nodes: tuple[int, ...]) -> str:
    return " ".join(f"n{number}" for number in nodes)


def _print_shrunk(seed: int, scenario: str, nodes: int | None, canary: str | None) -> None:
    from deepshard.testing.simulate.plan import draw  # noqa: PLC0415
    from deepshard.testing.simulate.runset import replay_command, shrunk  # noqa: PLC0415

    plan = draw(seed, scenario, nodes)
    kept = shrunk(plan, canary)
    typer.echo(f"shrunk from {len(plan.faults)} to {len(kept)} faults: {replay_command(plan, kept, canary)}")


def _many(seeds: range, scenario: str, nodes: int | None, canary: str | None, jobs: int) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    from deepshard.testing.simulate.canaries import planted  # noqa: PLC0415
    from deepshard.testing.simulate.plan import draw  # noqa: PLC0415
    from deepshard.testing.simulate.runset import ANY_SCENARIO, SETS, run_set, scenario_of  # noqa: PLC0415

    draw(seeds[0], scenario_of(seeds[0], scenario), nodes)  # a wrong name is told before processes start
    with planted(canary):
        pass
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    began = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("simulating", total=len(seeds))

        def told(so_far: Tally) -> bool:
            failed = len(so_far.failures)
            words = f"{so_far.blocks} blocks, {failed} violations"
            progress.update(task, completed=so_far.seeds, description=words)
            return canary is not None and failed > 0

        tally = run_set(seeds, scenario, nodes, canary=canary, jobs=jobs, told=told)
    seconds = time.monotonic() - began
    typer.echo(
        f"{tally.seeds} seeds, {tally.blocks} blocks, {tally.virtual_s / 3600:.2f} virtual hours in {seconds:.0f} s: "
        f"{len(tally.failures)} violations"
    )
    if canary is not None:
        _judge_canary(tally.failures, canary, seeds)
    _judge(tally, nodes, whole_set=scenario == ANY_SCENARIO and len(seeds) >= SETS["ci"].stop)


def _judge_canary(failures: list[tuple[int, str, str]], canary: str, seeds: range) -> NoReturn:
    if not failures:
        typer.echo(f"canary {canary} was NOT caught by seeds {seeds.start} to {seeds.stop - 1}")
        raise typer.Exit(VIOLATION_EXIT)
    seed, scenario, violation = failures[0]
    typer.echo(f"caught at seed {seed} ({scenario}): {violation}")
    raise typer.Exit(0)


def _judge(tally: Tally, nodes: int | None, *, whole_set: bool) -> None:
    from deepshard.testing.simulate.plan import draw  # noqa: PLC0415
    from deepshard.testing.simulate.runset import replay_command  # noqa: PLC0415

    for seed, scenario, violation in tally.failures[:20]:
        typer.echo(f"VIOLATION: {violation}\nagain: {replay_command(draw(seed, scenario, nodes), None, None)}")
    if tally.failures:
        _print_shrunk(tally.failures[0][0], tally.failures[0][1], nodes, None)
    never = tally.never() if whole_set else []
    if never:
        typer.echo(f"never exercised in this set: {', '.join(never)}")
    if tally.failures or never:
        raise typer.Exit(VIOLATION_EXIT)


def _verify(seeds: range, scenario: str, nodes: int | None) -> None:
    from deepshard.testing.simulate.plan import draw  # noqa: PLC0415
    from deepshard.testing.simulate.runset import differing_line, scenario_of  # noqa: PLC0415

    for seed in seeds:
        name = scenario_of(seed, scenario)
        draw(seed, name, nodes)
        line = differing_line(seed, name, nodes)
        if line is not None:
            typer.echo(f"seed {seed} ({name}) differs between two processes: {line}")
            raise typer.Exit(VIOLATION_EXIT)
        typer.echo(f"seed {seed} ({name}): two runs, one log")


if __name__ == "__main__":
    app(prog_name="python -m deepshard.testing.simulate")
