"""Work on CPU tensors in lanes: threads that each compute alone, instead of all together on every operation.

An operation that torch spreads over its threads ends in a barrier. A lane has one thread for its operations and no
barrier before its work is done, its tiles stay in its own core's cache, and small operations on row vectors run beside
each other instead of one after another. There are as many lanes as `torch.get_num_threads()` allows the caller.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_pools: dict[int, ThreadPoolExecutor] = {}
_making = threading.Lock()


def in_lanes(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`work` of every item, in the order of the items; a lane takes the next item when it is done with one.

    Every operation has one thread, whatever the number of lanes, and even where there is one item only: so the number
    of threads can't change bits. Gradients are off in the lanes. The first exception is raised once every item has
    ended. Inside a lane, `in_lanes` works the items off itself.
    """
    if torch.get_num_threads() <= 1 or not items:
        return [work(item) for item in items]
    futures = [_pool(torch.get_num_threads()).submit(work, item) for item in items]
    errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None:
            raise error
    return [future.result() for future in futures]


def background_lane(name: str) -> ThreadPoolExecutor:
    """An executor of one thread that has one thread for its operations, so that it takes a core from others at most."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(1, name, initializer=_enter_lane)
    pool.submit(threading.get_ident).result()
    torch.set_num_threads(threads)  # as in `_pool`
    return pool


def _pool(lanes: int) -> ThreadPoolExecutor:
    with _making:
        if lanes not in _pools:
            ready = threading.Barrier(lanes + 1)
            pool = ThreadPoolExecutor(lanes, "lane", initializer=_enter_lane)
            for _ in range(lanes):  # each waits for the others, so each is a thread of its own
                pool.submit(ready.wait)
            ready.wait()
            torch.set_num_threads(lanes)  # a lane's own setting became the one that new threads begin with
            _pools[lanes] = pool
        return _pools[lanes]


def _enter_lane() -> None:
    torch.get_num_threads()  # the first use in a thread sets its number to the process's, and would undo the next line
    torch.set_num_threads(1)
    torch.set_grad_enabled(mode=False)
