"""One devnet from the first key to the last exit code, and what is said when a step fails."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from deepshard.devnet.checks import run_checks
from deepshard.devnet.client import NodeRefused, NodeUnreachable
from deepshard.devnet.injecting import live_under_faults
from deepshard.devnet.launch import LOG_NAME, launch
from deepshard.devnet.memory import MemoryPeak
from deepshard.devnet.namespaces import PrivateNetwork
from deepshard.devnet.narration import Narrator
from deepshard.devnet.observe import observe, read_balances
from deepshard.devnet.plans import plan_for
from deepshard.devnet.processes import WATCH_INTERVAL_S, ProcessDied, Processes, describe_exit, log_tail, open_processes
from deepshard.devnet.report import ProcessReport, Report, report_grids, write_report
from deepshard.devnet.roster import OBSERVER
from deepshard.devnet.stage import Settings, Stage, StepFailed
from deepshard.errors import DeepshardError, UsageError

REPORT_NAME = "report.json"
LOCK_NAME = "devnet.lock"


@contextmanager
def own_directory(directory: Path) -> Iterator[None]:
    """Hold `directory` for this run alone, emptied of what an earlier run left there.

    The lock dies with the process that holds it, so a killed run never blocks the next.

    Raises:
        UsageError: it can't be written, another devnet runs in it, or it holds something that is not a devnet.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        present = {each.name for each in directory.iterdir()}
        if present and LOCK_NAME not in present:
            raise UsageError(f"{directory} holds other files: name an empty or a new folder with --dir")
        lock = (directory / LOCK_NAME).open("a+", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot use the folder {directory}: {error.strerror}; name another with --dir") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            raise UsageError(f"a devnet (process {pid}) already runs in {directory}: end it, or use --dir") from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        for name in present - {LOCK_NAME}:
            place = directory / name
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink()
        yield


@dataclass
class _Run:
    settings: Settings
    narrator: Narrator
    report: Report
    network: PrivateNetwork | None = None
    memory: MemoryPeak = field(default_factory=MemoryPeak)
    interrupted_by: int = 0
    stage: Stage | None = None


async def run_devnet(settings: Settings, narrator: Narrator, network: PrivateNetwork | None = None) -> int:
    """Run a devnet and give the exit code: 0, 1 for a failed step, 128 plus the signal that interrupted it.

    `network` is the one this process is in, if cables are to be pulled.

    Ctrl-C ends a network that was kept running with code 0: that is how it is meant to end.
    """
    report = Report(model=settings.model, dishonest=settings.dishonest)
    run = _Run(settings, narrator, report, network)
    started = trio.current_time()
    failures: list[Exception] = []
    try:
        async with open_processes() as processes:
            try:
                await _supervise(run, processes)
            except* Exception as group:  # noqa: BLE001 # told in words below, or raised again there
                failures = list(_leaves(group))
                await trio.sleep(2 * WATCH_INTERVAL_S)  # a node that died may be noticed first by who spoke to it
                failures += [
                    ProcessDied(each.name, each.exit_code)
                    for each in processes.every
                    if each.exit_code is not None and not each.end_expected
                ]
            finally:
                report.seconds = round(trio.current_time() - started, 2)
    finally:
        if run.stage is not None:
            for client in run.stage.clients.values():
                with trio.CancelScope(shield=True):
                    await client.close()
    _note_processes(report, processes)
    _note_memory(run)
    if failures:
        return _tell_failure(run, failures)
    if run.interrupted_by and not report.ok:
        narrator.say(f"interrupted by {signal.Signals(run.interrupted_by).name}; every process has ended")
        return 128 + run.interrupted_by
    return _conclude(run, processes)


async def _supervise(run: _Run, processes: Processes) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_heed_signals, run, nursery.cancel_scope)
        nursery.start_soon(processes.watch)
        nursery.start_soon(run.memory.watch)
        run.stage = stage = Stage(
            settings=run.settings,
            plan=plan_for(run.settings.model, run.settings.recipe),
            narrator=run.narrator,
            processes=processes,
            report=run.report,
            network=run.network,
        )
        await launch(stage)
        balances = await read_balances(stage)
        await live_under_faults(stage)
        stage.phase("checks", "reading the outcome")
        await observe(stage, balances)
        stage.end_phase()
        if run.settings.keep:
            _note_processes(run.report, processes)
            _note_memory(run)
            _judge(run)
            _show(run)
            if run.report.ok:
                _tell_addresses(stage)
                await trio.sleep_forever()
        nursery.cancel_scope.cancel()


async def _heed_signals(run: _Run, scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            run.interrupted_by = number
            scope.cancel()


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[Exception]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        elif isinstance(each, Exception):
            yield each


def _note_processes(report: Report, processes: Processes) -> None:
    report.processes = [
        ProcessReport(name=each.name, role=each.role, pid=each.pid, exit_code=each.exit_code)
        for each in processes.every
    ]


def _note_memory(run: _Run) -> None:
    run.report.peak_memory_bytes = run.memory.peak_bytes
    run.report.peak_memory_measure = run.memory.measure


def _judge(run: _Run) -> None:
    report = run.report
    report.checks = run_checks(report)
    failed = [check for check in report.checks if not check.passed]
    report.ok = not failed
    if failed:
        report.failed_step = f"check {failed[0].name!r}"
        report.failure = "; ".join(f"{check.name}: {check.facts}" for check in failed)
    write_report(report, run.settings.directory / REPORT_NAME)


def _show(run: _Run) -> None:
    run.narrator.phase("report")
    for grid in report_grids(run.report):
        run.narrator.show(grid)


def _conclude(run: _Run, processes: Processes) -> int:
    """Judge what was observed, exit codes included, and show it unless a kept network has shown it already."""
    shown = bool(run.report.checks)
    _judge(run)
    if not shown:
        _show(run)
    if run.report.ok:
        run.narrator.say(
            f"devnet: done in {run.report.seconds:.0f} s, report in {run.settings.directory / REPORT_NAME}"
        )
        return 0
    killed = {each.pid for each in run.report.faults if each.kind == "kill"}
    unclean = [each for each in processes.every if each.exit_code and each.pid not in killed]
    _tell(run, run.report.failed_step, run.report.failure, unclean[0].name if unclean else "")
    return 1


def _tell_failure(run: _Run, failures: list[Exception]) -> int:
    """Say which step failed, and why; a dead process explains an unanswered request, so it goes first."""
    ranked = sorted(failures, key=lambda each: (not isinstance(each, ProcessDied), not isinstance(each, StepFailed)))
    first = ranked[0]
    step = "start" if run.stage is None else run.stage.step
    if isinstance(first, ProcessDied):
        culprit = first.name
    elif isinstance(first, StepFailed):
        culprit = first.culprit
    elif isinstance(first, NodeRefused | NodeUnreachable):
        culprit = first.node
    else:
        culprit = ""
    facts = str(first) if isinstance(first, DeepshardError | OSError) else f"{type(first).__name__}: {first}"
    run.report.ok, run.report.failed_step, run.report.failure = False, step, facts
    write_report(run.report, run.settings.directory / REPORT_NAME)
    _tell(run, step, facts, culprit)
    if not isinstance(first, DeepshardError | OSError):
        raise first  # our own bug: its traceback is worth more than a line
    return 1


def _tell(run: _Run, step: str, facts: str, culprit: str) -> None:
    run.narrator.say(f"devnet: FAILED at {step}: {facts}")
    if culprit:
        path = run.settings.directory / culprit / LOG_NAME
        exits = [each for each in run.report.processes if each.name == culprit and each.exit_code is not None]
        ended = f", {describe_exit(exits[-1].exit_code or 0)}" if exits else ""
        run.narrator.say(f"end of the log of {culprit} ({path}{ended}):")
        for line in log_tail(path):
            run.narrator.say(line)


def _tell_addresses(stage: Stage) -> None:
    narrator = stage.narrator
    for each in stage.roster:
        narrator.say(f"{each.name:<12} http://{each.http}  peers {each.listen}  --home {each.home}")
    home = {each.name: each.home for each in stage.roster}
    enter = ""
    if stage.network is not None:
        enter = f"{stage.network.enter_command} "
        narrator.say("the network has a network namespace of its own, which each command has to enter:")
    narrator.say("try, in another terminal:")
    narrator.say(f"  {enter}deepshard status --home {home[OBSERVER]}")
    narrator.say(f"  {enter}deepshard explain round-1 --home {home[OBSERVER]}")
    narrator.say(f"  {enter}deepshard propose facts.md --stake 50 --home {home['informant']}")
    narrator.say(f"  {enter}deepshard chat 'What is a validator?' --home {home['inference']}")
    narrator.say("the network runs until Ctrl-C")
    narrator.waiting("running; Ctrl-C ends it")
