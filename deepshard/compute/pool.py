"""Work in threads with bounded memory: numpy, zstd, BLAKE3 and the disk all run without the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(do: Callable[[T], R], work: Iterable[T], threads: int) -> Iterator[R]:
    """Results in the order in which they come, with no more tasks begun than threads: memory is theirs alone.

    After the first error nothing more is begun; the results of what was begun still come, then the error is raised.
    """
    failure: BaseException | None = None
    with ThreadPoolExecutor(threads) as pool:
        running: set[Future[R]] = set()
        left = iter(work)
        while True:
            while failure is None and len(running) < threads:
                try:
                    running.add(pool.submit(do, next(left)))
                except StopIteration:
                    break
            if not running:
                break
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                error = future.exception()
                if error is None:
                    yield future.result()
                elif failure is None:
                    failure = error
    if failure is not None:
        raise failure
