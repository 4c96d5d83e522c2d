"""Where blocking work runs: hashing and file access beside the event loop, or in it under virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class DiskThreads:
    """At most `threads` pieces of blocking work at once; with 0 each runs in the event loop itself.

    A simulated clock takes waiting for a thread for idleness and jumps ahead, so simulations use 0.
    """

    def __init__(self, threads: int) -> None:
        self._limiter = trio.CapacityLimiter(threads) if threads else None

    async def run(self, work: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Result of `work(*arguments)`."""
        if self._limiter is None:
            await trio.lowlevel.checkpoint()
            return work(*arguments)
        return await trio.to_thread.run_sync(work, *arguments, limiter=self._limiter)
