"""The compute worker: one process, one job at a time, answers over a socket.

Heavy jobs take a lease first, so that several nodes of one machine share its cores and memory. When the other end of
the socket closes, the parent is gone and the process ends at once, in the middle of a job too.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import structlog
import torch
import transformers

from deepshard.compute.framing import HEADER_BYTES, Answer, BadFrame, body_length, pack, unpack_job
from deepshard.compute.generation import Generator
from deepshard.compute.importing import import_model
from deepshard.compute.jobs import (
    Generate,
    ImportModel,
    Job,
    JobFailed,
    JobResult,
    Profile,
    Progress,
    ScoreTexts,
    Train,
)
from deepshard.compute.models import one_line
from deepshard.compute.scoring import profile, score_texts
from deepshard.compute.training import train
from deepshard.compute.weights import Report
from deepshard.errors import DeepshardError, LocalError

_log = structlog.get_logger(__name__)

PROGRESS_INTERVAL_S: Final = 0.2
LEASE_POLL_S: Final = 0.2
_PARENT_GONE_EXIT: Final = 0


class Worker:
    """Serves jobs that arrive on `connection` until it closes."""

    def __init__(self, connection: socket.socket, leases: Sequence[str]) -> None:
        self._connection = connection
        self._leases = tuple(leases)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._generator = Generator()

    def serve(self) -> None:
        """Run jobs in the order they come; returns, or ends the process, when the socket closes."""
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        while (job := self._jobs.get()) is not None:
            self._send(self._answer(job))

    def _read(self) -> None:
        # In a thread of its own, so that a parent's death is noticed while a job runs.
        with self._connection.makefile("rb") as stream:
            try:
                while header := stream.read(HEADER_BYTES):
                    length = body_length(header)
                    body = stream.read(length)
                    if len(body) < length:
                        break
                    self._jobs.put(unpack_job(body))
            except (OSError, BadFrame) as error:
                _log.error("worker.socket_failed", error=str(error))
        os._exit(_PARENT_GONE_EXIT)

    def _send(self, answer: Answer) -> None:
        try:
            self._connection.sendall(pack(answer))
        except BrokenPipeError:
            os._exit(_PARENT_GONE_EXIT)

    def _answer(self, job: Job) -> JobResult | JobFailed:
        started = time.monotonic()
        try:
            result = self._perform(job)
        except DeepshardError as error:
            _log.warning("job.refused", job=type(job).__name__, error=str(error))
            return JobFailed(kind=type(error).__name__, message=one_line(error))
        except Exception as error:  # noqa: BLE001  # whatever a job raises fails that job, with its trace in the log, and no other
            _log.exception("job.failed", job=type(job).__name__)
            return JobFailed(kind=type(error).__name__, message=one_line(error))
        else:
            _log.info("job.done", job=type(job).__name__, seconds=round(time.monotonic() - started, 2))
            return result
        finally:
            release_memory()

    def _perform(self, job: Job) -> JobResult:
        report = _Throttle(self._send)
        if isinstance(job, Generate):
            return self._generator.generate(job, report)
        self._generator.drop()
        release_memory()
        with lease(self._leases, report):
            match job:
                case ImportModel():
                    return import_model(job, report)
                case Train():
                    return train(job, report)
                case ScoreTexts():
                    return score_texts(job, report)
                case Profile():
                    return profile(job, report)


class _Throttle:
    """Passes on every token and every stage's last step, and of the rest a few a second."""

    def __init__(self, send: Callable[[Answer], None]) -> None:
        self._send = send
        self._last = -PROGRESS_INTERVAL_S
        self._stage = ""

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        is_due = now - self._last >= PROGRESS_INTERVAL_S or progress.stage != self._stage
        if is_due or progress.text or progress.done == progress.total:
            self._last, self._stage = now, progress.stage
            self._send(progress)


@contextmanager
def lease(files: Sequence[str], report: Report) -> Iterator[None]:
    """Hold one of `files` by flock, waiting until one is free; without files, go ahead.

    The kernel drops the lock with the process, so a killed worker never keeps a slot.

    Raises:
        LocalError: a lease file can't be opened.
    """
    if not files:
        yield
        return
    handles: list[int] = []
    try:
        for file in files:
            try:
                handles.append(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            except OSError as error:
                raise LocalError(f"cannot open the lease file {file}: {error.strerror}") from error
        started = time.monotonic()
        while not any(_try_lock(handle) for handle in handles):
            report(Progress(stage="waiting", done=int(time.monotonic() - started), total=0))
            time.sleep(LEASE_POLL_S)
        yield
    finally:
        for handle in handles:
            os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def release_memory() -> None:
    """Collect cycles and give freed pages back: a worker that idles must not keep a job's gigabytes."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # glibc only
            trim(0)


def configure(threads: int) -> None:
    """Fix the thread count and silence what libraries print."""
    torch.set_num_threads(threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
