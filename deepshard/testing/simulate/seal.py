"""Seals a run against everything that isn't in its seed: scheduling, randomness, the real clock, threads.

While a run lasts, entropy of the system comes from the seed, and whoever asks for real time, a thread or the shared
generator of `random` gets `SealBroken`: a run that read one of them could not be repeated. Trio's own
clock is the mock one, and its scheduler shuffles by the seed (as under Hypothesis).
"""

from __future__ import annotations

import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn
from unittest.mock import patch

import nacl.utils
import structlog
import trio
from structlog.typing import Processor
from trio._core import _run

from deepshard.testing.simulate.log import NODE, EventLog
from deepshard.testing.simulate.plan import chance

_RANDOM = (
    "random",
    "randrange",
    "randint",
    "choice",
    "choices",
    "sample",
    "shuffle",
    "uniform",
    "getrandbits",
    "randbytes",
)
_TIME = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep")


class SealBroken(BaseException):
    """Code under simulation asked for what a seed can't give; not an `Exception`, so that nobody handles it."""


def _refuse(what: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:  # noqa: ANN401
        raise SealBroken(f"{what} was asked for during a simulated run: its outcome would differ from run to run")

    return refuse


@contextmanager
def sealed(seed: int, log: EventLog, told: Callable[[str, dict[str, Any]], None]) -> Iterator[None]:
    """Seal what runs inside, and send the services' log events to `log` and `told`."""
    before = structlog.get_config()
    with ExitStack() as stack:
        seal = stack.enter_context
        seal(patch.object(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", new=True))
        seal(patch.object(_run, "_r", chance(f"schedule {seed}")))
        for name in _RANDOM:
            seal(patch.object(random, name, _refuse(f"random.{name}")))
        for name in _TIME:
            seal(patch.object(time, name, _refuse(f"time.{name}")))
        entropy = chance(f"entropy {seed}")
        seal(patch.object(os, "urandom", entropy.randbytes))
        seal(patch.object(secrets, "token_bytes", lambda size=32: entropy.randbytes(size)))
        seal(patch.object(nacl.utils, "random", lambda size=32: entropy.randbytes(size)))
        seal(patch.object(random.SystemRandom, "random", _refuse("SystemRandom")))
        seal(patch.object(threading.Thread, "start", _refuse("a thread")))
        seal(patch.object(trio.to_thread, "run_sync", _refuse("trio.to_thread")))
        structlog.configure(processors=[_collect(log, told)], cache_logger_on_first_use=False)
        try:
            yield
        finally:
            structlog.configure(**before)


def _collect(log: EventLog, told: Callable[[str, dict[str, Any]], None]) -> Processor:
    def collect(_: Any, __: str, event: MutableMapping[str, Any]) -> NoReturn:  # noqa: ANN401
        name = event.pop("event")
        log.seen[name] += 1
        if log.traced or name in {"consensus.equivocation", "consensus.amnesia", "consensus.double_sign_refused"}:
            facts = {key: value for key, value in event.items() if isinstance(value, str | int)}
            log.add(name, NODE.get(), **facts)
        told(name, dict(event))
        raise structlog.DropEvent

    return collect
