"""Operating-system processes of a devnet: start, watch, measure, end.

Every process leads its own session, so that Ctrl-C in the terminal reaches only the orchestrator, and is tethered to it
(see `tether`), so that none outlives it even when it is killed with SIGKILL.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from deepshard.errors import LocalError

WATCH_INTERVAL_S = 0.1
TERMINATE_GRACE_S = 15.0
LOG_TAIL_LINES = 20
LOG_TAIL_BYTES = 64 * 1024
_TETHER = Path(__file__).with_name("tether.py")


class ProcessDied(LocalError):
    """A process of the devnet ended although nobody asked it to."""

    def __init__(self, name: str, exit_code: int) -> None:
        super().__init__(f"{name} {describe_exit(exit_code)}")
        self.name, self.exit_code = name, exit_code


def describe_exit(exit_code: int) -> str:
    """Say in words how a process ended; a negative code is the signal that ended it."""
    if exit_code < 0:
        return f"was ended by {signal.Signals(-exit_code).name}"
    return f"exited with code {exit_code}"


def log_tail(path: Path, lines: int = LOG_TAIL_LINES) -> list[str]:
    """Last lines of a log file; none if it doesn't exist. Reads at most 64 KiB from its end."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return list(deque(text.splitlines(), maxlen=lines))


@dataclass
class ManagedProcess:
    """A started process, and how it ended."""

    name: str
    role: str
    command: tuple[str, ...]
    log_path: Path
    popen: subprocess.Popen[bytes]
    end_expected: bool = False

    @property
    def pid(self) -> int:
        """Process id, also of its session and process group."""
        return self.popen.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code, minus the signal's number for one ended by a signal, None while it runs."""
        return self.popen.poll()

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and to what it started in its group."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return  # all of the group have ended


@dataclass
class Processes:
    """The processes of one devnet."""

    every: list[ManagedProcess] = field(default_factory=list)

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        role: str,
        log_path: Path,
        env: Mapping[str, str] | None = None,
        namespace: int | None = None,
    ) -> ManagedProcess:
        """Start a process with its output appended to `log_path` and nothing on its standard input.

        It runs in the network namespace of the open file `namespace`, if one is given.

        Without `env` it gets this process's environment but for DEEPSHARD_ variables: those are a person's own node's.

        Call it from the main thread: Linux ties a tethered child to the life of the *thread* that started it.

        Raises:
            LocalError: the program can't be started.
        """
        place = -1 if namespace is None else namespace
        tethered = (sys.executable, "-I", "-S", str(_TETHER), str(os.getpid()), str(place), *command)
        try:
            with log_path.open("ab") as log:
                popen = subprocess.Popen(  # noqa: S603 # a list, no shell, and the command is ours
                    tethered,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=_environment() if env is None else env,
                    start_new_session=True,
                    pass_fds=() if namespace is None else (namespace,),
                )
        except OSError as error:
            raise LocalError(f"cannot start {name}: {error}") from error
        process = ManagedProcess(name, role, tuple(command), log_path, popen)
        self.every.append(process)
        return process

    async def watch(self) -> None:
        """Run until cancelled; notice within a tenth of a second when a process ends that should not.

        Raises:
            ProcessDied: one did.
        """
        while True:
            for process in self.every:
                exit_code = process.exit_code
                if exit_code is not None and not process.end_expected:
                    raise ProcessDied(process.name, exit_code)
            await trio.sleep(WATCH_INTERVAL_S)

    def is_stopped(self, process: ManagedProcess) -> bool:
        """Whether the kernel says that a process stands still."""
        return _state_of(process.pid) == "T"

    async def kill(self, process: ManagedProcess) -> None:
        """End a process at once, as a crash would, and wait until it is gone."""
        process.end_expected = True
        process.signal_group(signal.SIGKILL)
        await _ended([process])

    async def end_all(self, grace_s: float = TERMINATE_GRACE_S) -> None:
        """End every process: SIGTERM, then SIGKILL to those that still run after `grace_s`."""
        for process in self.every:
            process.end_expected = True
            if process.exit_code is None:
                process.popen.terminate()
                process.signal_group(signal.SIGCONT)  # one that stands still would never hear it
        with trio.move_on_after(grace_s):
            await _ended(self.every)
        for process in self.every:
            process.signal_group(signal.SIGKILL)
        await _ended(self.every)


def _state_of(pid: int) -> str:
    """State letter of proc(5); empty where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[0]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("DEEPSHARD_")}


async def _ended(processes: Sequence[ManagedProcess]) -> None:
    while any(process.exit_code is None for process in processes):  # noqa: ASYNC110 # an exit sets no event
        await trio.sleep(WATCH_INTERVAL_S / 4)


@asynccontextmanager
async def open_processes(grace_s: float = TERMINATE_GRACE_S) -> AsyncIterator[Processes]:
    """Give a set of processes of which none is left when the block ends, whatever ends it."""
    processes = Processes()
    try:
        yield processes
    finally:
        with trio.CancelScope(shield=True):
            await processes.end_all(grace_s)
