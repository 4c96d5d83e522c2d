"""The node's side of the compute worker: starts the process on demand, feeds it jobs, survives its death.

The only Trio file of this room; it imports no torch.
"""

from __future__ import annotations

import inspect
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
import trio

from deepshard.actors import Reply
from deepshard.compute.framing import HEADER_BYTES, Answer, BadFrame, body_length, pack, unpack_answer
from deepshard.compute.jobs import Generate, ImportModel, Job, JobFailed, JobResult, Progress
from deepshard.errors import LocalError

_log = structlog.get_logger(__name__)

OnProgress = Callable[[Progress], None] | Callable[[Progress], Awaitable[None]]

JOBS_WAITING_MAX: Final = 256
_TAIL_BYTES: Final = 2048
_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class ComputeJobFailed(LocalError):
    """The worker could not do a job and says why; `kind` is the name of the error it met."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message


class WorkerDied(LocalError):
    """The worker's process ended in the middle of a job; `exit_status` is negative for a signal."""

    def __init__(self, exit_status: int, tail: str) -> None:
        how = f"by {signal.Signals(-exit_status).name}" if exit_status < 0 else f"with exit status {exit_status}"
        super().__init__(f"the compute worker ended {how}" + (f"; its last words: {tail}" if tail else ""))
        self.exit_status, self.tail = exit_status, tail


class ComputeOverloaded(LocalError):
    """More jobs are waiting than `JOBS_WAITING_MAX`."""


@dataclass(eq=False)
class _Request:
    job: Job
    on_progress: OnProgress | None
    reply: Reply[JobResult]
    scope: trio.CancelScope


class ComputeClient:
    """Queues jobs for one worker process: one at a time, in order, but a `Generate` goes before other waiting jobs.

    `run` has to be running while `submit` waits. A worker that dies fails the job it had; the next job starts a new
    one.

    Args:
        threads: threads of the worker's matrix products.
        leases: lock files that the workers of this machine share; each stands for one heavy job at a time.
        idle_s: how long a worker without a job is kept.
        keep_s: the same for one that holds a model for generation.
        python: interpreter to start the worker with.
        log_path: file the worker's log is appended to; a temporary one where not given.
    """

    def __init__(
        self,
        *,
        threads: int,
        leases: Sequence[str] = (),
        idle_s: float = 60.0,
        keep_s: float = 600.0,
        python: str = sys.executable,
        log_path: Path | None = None,
    ) -> None:
        self._threads, self._leases, self._python = threads, tuple(leases), python
        self._idle_s, self._keep_s = idle_s, keep_s
        self._log_path = log_path
        self._waiting: deque[_Request] = deque()
        self._arrived = trio.Event()
        self._process: _Process | None = None
        self._generates, self._is_wanted = False, False

    @property
    def pid(self) -> int | None:
        """Process id of the worker, or None while there is none."""
        return self._process.popen.pid if self._process else None

    async def submit(self, job: Job, on_progress: OnProgress | None = None) -> JobResult:
        """Do a job and return its result; `on_progress` is called with each step, and awaited if it is async.

        A caller that is cancelled takes its job with it, if need be by ending the worker.

        Raises:
            ComputeJobFailed: the worker refused or failed it.
            WorkerDied: the process ended in the middle.
            ComputeOverloaded: too many jobs are waiting.
        """
        if len(self._waiting) >= JOBS_WAITING_MAX:
            raise ComputeOverloaded(f"{len(self._waiting)} jobs are waiting for the compute worker, the most it takes")
        request = _Request(job, on_progress, Reply(), trio.CancelScope())
        if isinstance(job, Generate):  # a person is waiting for it
            ahead = sum(isinstance(other.job, Generate) for other in self._waiting)
            self._waiting.insert(ahead, request)
        else:
            self._waiting.append(request)
        self._arrived.set()
        try:
            return await request.reply.get()
        finally:
            request.scope.cancel()
            if request in self._waiting:
                self._waiting.remove(request)

    def prewarm(self) -> None:
        """Start the worker now if there is none, since a job is about to come: its libraries take seconds to load."""
        self._is_wanted = True
        self._arrived.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; ends the worker on the way out."""
        task_status.started()
        try:
            while True:
                await self._wait_for_work()
                await self._serve(self._waiting.popleft())
        finally:
            self._stop()
            while self._waiting:
                self._waiting.popleft().reply.fail(LocalError("the compute client was stopped"))

    async def _wait_for_work(self) -> None:
        while not self._waiting:
            if self._is_wanted and self._process is None:
                self._begin(online=False)
            self._is_wanted = False
            self._arrived = trio.Event()
            patience_s = self._keep_s if self._generates else self._idle_s
            with trio.move_on_after(patience_s if self._process else float("inf")) as scope:
                await self._arrived.wait()
            if scope.cancelled_caught:
                _log.debug("worker.idle", pid=self.pid)
                self._stop()

    async def _serve(self, request: _Request) -> None:
        is_answered = False
        try:
            with request.scope:
                result = await self._exchange(request)
                is_answered = True
                request.reply.set(result)
        except LocalError as error:
            is_answered = isinstance(error, ComputeJobFailed)
            request.reply.fail(error)
        except trio.Cancelled:
            request.reply.fail(LocalError("the compute client was stopped"))
            raise
        except Exception as error:  # noqa: BLE001  # a progress callback of the caller's: its error goes back to the caller
            _log.warning("worker.callback_failed", error=str(error))
            request.reply.fail(error)
        if not is_answered:
            self._stop()  # dead, or busy with a job nobody waits for
        self._generates = self._process is not None and isinstance(request.job, Generate)

    async def _exchange(self, request: _Request) -> JobResult:
        online = isinstance(request.job, ImportModel) and _HUB_NAME.fullmatch(request.job.source) is not None
        if self._process is not None and (
            self._process.popen.poll() is not None or (online and not self._process.online)
        ):
            self._stop()
        process = self._process or self._begin(online=online)
        try:
            await process.stream.send_all(pack(request.job))
            while True:
                answer = unpack_answer(
                    await _receive(process.stream, body_length(await _receive(process.stream, HEADER_BYTES)))
                )
                if isinstance(answer, JobFailed):
                    raise ComputeJobFailed(answer.kind, answer.message)
                if not isinstance(answer, Progress):
                    return answer
                if request.on_progress is not None:
                    step = request.on_progress(answer)
                    if inspect.isawaitable(step):
                        await step
        except (trio.BrokenResourceError, EOFError):
            with trio.CancelScope(shield=True):
                status = await trio.to_thread.run_sync(process.popen.wait)
            raise WorkerDied(status, process.tail()) from None

    def _begin(self, *, online: bool) -> _Process:
        self._process = _start(self._python, self._threads, self._leases, self._log_path, online=online)
        _log.debug("worker.started", pid=self.pid)
        return self._process

    def _stop(self) -> None:
        process, self._process, self._generates = self._process, None, False
        if process is not None:
            process.end()


async def _receive(stream: trio.SocketStream, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = await stream.receive_some(min(size - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


@dataclass(eq=False)
class _Process:
    popen: subprocess.Popen[bytes]
    stream: trio.SocketStream
    log_path: Path
    log_start: int
    owns_log: bool
    online: bool

    def tail(self) -> str:
        return _tail(self.log_path, self.log_start)

    def end(self) -> None:
        """Kill the process: it keeps nothing that a kill could harm, since stored files appear whole or not at all."""
        self.stream.socket.close()
        self.popen.kill()
        self.popen.wait()  # a killed process is gone in moments
        if self.owns_log:
            self.log_path.unlink(missing_ok=True)


def _start(python: str, threads: int, leases: Sequence[str], log_path: Path | None, *, online: bool) -> _Process:
    popen, ours, path, log_start = _spawn(python, threads, leases, log_path, online=online)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    return _Process(popen, stream, path, log_start, log_path is None, online)


def _spawn(
    python: str, threads: int, leases: Sequence[str], log_path: Path | None, *, online: bool
) -> tuple[subprocess.Popen[bytes], socket.socket, Path, int]:
    ours, theirs = socket.socketpair()
    try:
        if log_path is None:
            handle, name = tempfile.mkstemp(prefix="deepshard-worker-", suffix=".log")
            os.close(handle)
            path = Path(name)
        else:
            path = log_path
        command = [python, "-m", "deepshard.compute", "--socket", str(theirs.fileno()), "--threads", str(threads)]
        for file in leases:
            command += ["--lease", file]
        if online:
            command.append("--online")
        with path.open("ab") as log:
            log_start = log.tell()
            popen = subprocess.Popen(  # noqa: S603  # our own module under our own interpreter
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
    except OSError as error:
        ours.close()
        raise LocalError(f"cannot start the compute worker: {error}") from error
    finally:
        theirs.close()
    return popen, ours, path, log_start


def _tail(path: Path, start: int) -> str:
    """What the worker wrote last, on one line."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - _TAIL_BYTES))
            return " | ".join(file.read().decode("utf-8", "replace").split("\n")).strip(" |")
    except OSError:
        return ""


def run_job(
    job: Job,
    on_progress: Callable[[Progress], None] | None = None,
    *,
    threads: int = 2,
    leases: Sequence[str] = (),
    log_path: Path | None = None,
) -> JobResult:
    """Do one job in a fresh worker, without Trio; for tools.

    Raises:
        ComputeJobFailed: the worker refused or failed it.
        WorkerDied: the process ended in the middle.
    """
    online = isinstance(job, ImportModel) and _HUB_NAME.fullmatch(job.source) is not None
    popen, ours, path, log_start = _spawn(sys.executable, threads, leases, log_path, online=online)
    try:
        with ours, ours.makefile("rb") as stream:
            ours.sendall(pack(job))
            while True:
                answer = _read_answer(stream.read)
                if answer is None:
                    raise WorkerDied(popen.wait(), _tail(path, log_start))
                if isinstance(answer, JobFailed):
                    raise ComputeJobFailed(answer.kind, answer.message)
                if not isinstance(answer, Progress):
                    return answer
                if on_progress is not None:
                    on_progress(answer)
    except (BrokenPipeError, ConnectionResetError):
        raise WorkerDied(popen.wait(), _tail(path, log_start)) from None
    finally:
        popen.kill()
        popen.wait()
        if log_path is None:
            path.unlink(missing_ok=True)


def _read_answer(read: Callable[[int], bytes]) -> Answer | None:
    header = read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return None
    length = body_length(header)
    body = read(length)
    return unpack_answer(body) if len(body) == length else None


__all__ = ["BadFrame", "ComputeClient", "ComputeJobFailed", "ComputeOverloaded", "OnProgress", "WorkerDied", "run_job"]
