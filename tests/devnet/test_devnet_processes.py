from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from deepshard.devnet.memory import MemoryPeak, descendants, memory_bytes
from deepshard.devnet.processes import (
    TERMINATE_GRACE_S,
    ManagedProcess,
    ProcessDied,
    describe_exit,
    log_tail,
    open_processes,
)

READY = "print('ready', flush=True); "
FOR_EVER = READY + "import signal; signal.pause()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + FOR_EVER


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for counts, as its memory is gone too."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", code)


async def ready(process: ManagedProcess) -> None:
    with trio.fail_after(60):
        while "ready" not in log_tail(process.log_path):
            assert process.exit_code is None, log_tail(process.log_path)
            await trio.lowlevel.checkpoint()


async def test_children_lead_their_own_session_and_end_with_the_block(tmp_path: Path) -> None:
    async with open_processes() as processes:
        child = processes.start("one", python(FOR_EVER), role="test", log_path=tmp_path / "log")
        await ready(child)
        assert os.getsid(child.pid) == child.pid != os.getsid(0)
        assert child.pid in descendants(os.getpid())
        size, measure = memory_bytes(child.pid)
        assert size > 1024 * 1024
        assert measure in {"pss", "rss"}
        peak = MemoryPeak()
        peak.sample()
        assert peak.peak_bytes >= size // 2
        assert peak.processes >= 1
    assert child.exit_code == -signal.SIGTERM
    assert is_gone(child.pid)


async def test_a_process_deaf_to_sigterm_is_killed(tmp_path: Path) -> None:
    async with open_processes(grace_s=0.2) as processes:
        child = processes.start("deaf", python(DEAF), role="test", log_path=tmp_path / "log")
        await ready(child)
    assert child.exit_code == -signal.SIGKILL


async def test_grandchildren_in_the_group_end_too(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; "
        "worker = subprocess.Popen([sys.executable, '-I', '-S', '-c', 'import signal; signal.pause()']); "
        "print('worker', worker.pid, flush=True); " + FOR_EVER
    )
    async with open_processes() as processes:
        child = processes.start("parent", python(code), role="test", log_path=tmp_path / "log")
        await ready(child)
        worker = int(log_tail(child.log_path)[0].split()[1])
        assert worker in descendants(os.getpid())
    with trio.fail_after(60):
        while not is_gone(worker):
            await trio.lowlevel.checkpoint()


async def test_an_unexpected_death_is_noticed_and_named(tmp_path: Path) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(ProcessDied, match=r"^mortal exited with code 3$")) as caught:
        async with open_processes() as processes, trio.open_nursery() as nursery:
            nursery.start_soon(processes.watch)
            processes.start(
                "mortal", python("print('last words'); raise SystemExit(3)"), role="t", log_path=tmp_path / "l"
            )
            with trio.fail_after(60):
                await trio.sleep_forever()
    died = caught.value.exceptions[0]
    assert isinstance(died, ProcessDied)
    assert (died.name, died.exit_code) == ("mortal", 3)
    assert log_tail(tmp_path / "l") == ["last words"]


async def test_a_killed_process_is_not_an_unexpected_death(tmp_path: Path) -> None:
    async with open_processes() as processes:
        victim = processes.start("victim", python(FOR_EVER), role="test", log_path=tmp_path / "log")
        await ready(victim)
        await processes.kill(victim)
        assert victim.exit_code == -signal.SIGKILL
        with trio.move_on_after(0.3):
            await processes.watch()


async def test_a_stopped_process_is_seen_to_stand_still_and_ends_with_the_block(tmp_path: Path) -> None:
    async with open_processes() as processes:
        child = processes.start("one", python(FOR_EVER), role="test", log_path=tmp_path / "log")
        await ready(child)
        assert not processes.is_stopped(child)
        child.signal_group(signal.SIGSTOP)
        with trio.fail_after(60):
            while not processes.is_stopped(child):
                await trio.lowlevel.checkpoint()
        started = trio.current_time()
    assert child.exit_code == -signal.SIGTERM
    assert trio.current_time() - started < TERMINATE_GRACE_S  # it was woken to hear SIGTERM
    assert not processes.is_stopped(child)


async def test_a_restart_continues_the_log(tmp_path: Path) -> None:
    async with open_processes() as processes:
        for word in ("first", "second"):
            child = processes.start("node", python(f"print({word!r})"), role="test", log_path=tmp_path / "log")
            child.end_expected = True
            await trio.to_thread.run_sync(child.popen.wait)
    assert log_tail(tmp_path / "log") == ["first", "second"]
    assert log_tail(tmp_path / "log", lines=1) == ["second"]
    assert [each.exit_code for each in processes.every] == [0, 0]


ORCHESTRATOR = """
import sys, trio
from pathlib import Path
from deepshard.devnet.processes import open_processes

async def main():
    async with open_processes() as processes:
        code = "print('ready', flush=True); import signal; signal.pause()"
        command = [sys.executable, "-I", "-S", "-c", code]
        child = processes.start("child", command, role="test", log_path=Path(sys.argv[1]))
        print(child.pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the death of a parent")
async def test_children_die_even_when_the_orchestrator_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with subprocess.Popen(  # noqa: ASYNC220 # the point is a process of its own, and it starts at once
        [sys.executable, "-c", ORCHESTRATOR, str(log)], stdout=subprocess.PIPE, text=True
    ) as orchestrator:
        assert orchestrator.stdout is not None
        child = int(orchestrator.stdout.readline())
        with trio.fail_after(60):
            while "ready" not in log_tail(log):
                await trio.lowlevel.checkpoint()
        orchestrator.kill()
    with trio.fail_after(60):
        while not is_gone(child):
            await trio.lowlevel.checkpoint()


def test_exits_are_told_in_words() -> None:
    assert describe_exit(0) == "exited with code 0"
    assert describe_exit(-9) == "was ended by SIGKILL"


def test_the_tail_of_a_long_log_is_short(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(50_000)))
    assert log_tail(log) == [f"line {number}" for number in range(49_980, 50_000)]
    assert log_tail(tmp_path / "absent") == []
