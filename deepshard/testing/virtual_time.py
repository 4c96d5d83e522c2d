"""Passing virtual time in tests, and never real time."""

from __future__ import annotations

import trio
from trio.testing import MockClock


async def pass_time(seconds: float) -> None:
    """Let everything happen that happens within so many virtual seconds.

    Raises:
        RuntimeError: the clock is the real one: a test that waits for real time is slow when it passes and wrong when
            the machine is busy.
    """
    is_virtual = isinstance(trio.lowlevel.current_clock(), MockClock)
    if not is_virtual:
        raise RuntimeError("pass_time needs Trio's MockClock: request the autojump_clock fixture")
    await trio.sleep(seconds)
