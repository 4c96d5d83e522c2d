"""A supervisor in the manner of Erlang's one-for-one: restarts an actor that failed, gives up when it keeps failing."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import structlog
import trio

from deepshard.errors import LocalError

_log = structlog.get_logger(__name__)


class Supervisor:
    """Runs named actors; restarts one that raises, with a growing pause.

    More than `failures_max` failures of one actor within `window_s` end the supervisor with `LocalError`: a fault that
    restarting doesn't cure is for a person.
    """

    def __init__(self, *, failures_max: int = 5, window_s: float = 60.0, pause_s: float = 0.1) -> None:
        self._failures_max = failures_max
        self._window_s = window_s
        self._pause_s = pause_s
        self._actors: list[tuple[str, Callable[[], Awaitable[None]]]] = []

    def add(self, name: str, actor: Callable[[], Awaitable[None]]) -> None:
        """Add an actor before `run`. One that returns is finished and not restarted."""
        self._actors.append((name, actor))

    async def run(self) -> None:
        """Run all actors until each has returned, or until cancelled."""
        async with trio.open_nursery() as nursery:
            for name, actor in self._actors:
                nursery.start_soon(self._keep, name, actor)

    async def _keep(self, name: str, actor: Callable[[], Awaitable[None]]) -> None:
        failures: deque[float] = deque(maxlen=self._failures_max)
        while True:
            try:
                await actor()
            except Exception as error:  # a supervisor's task is to catch whatever its actor raises
                now = trio.current_time()
                _log.exception("actor.failed", actor=name, failures=len(failures) + 1)
                if len(failures) == self._failures_max and now - failures[0] < self._window_s:
                    raise LocalError(f"actor {name} failed {self._failures_max + 1} times: {error}") from error
                failures.append(now)
                await trio.sleep(self._pause_s * 2 ** (len(failures) - 1))
            else:
                return
