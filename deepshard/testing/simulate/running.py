"""Runs plans: seals the process, runs a world in it, and says what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import trio
from nacl.bindings import crypto_sign_open
from trio.testing import MockClock

from deepshard.consensus.replay import Recorder, Trace
from deepshard.errors import UsageError
from deepshard.identity import keys
from deepshard.testing.simulate.canaries import planted
from deepshard.testing.simulate.log import NODE, EventLog
from deepshard.testing.simulate.node import describe
from deepshard.testing.simulate.observing import observed
from deepshard.testing.simulate.oracle import CHAIN_ID
from deepshard.testing.simulate.plan import Plan, draw
from deepshard.testing.simulate.seal import SealBroken, sealed
from deepshard.testing.simulate.world import World, onion_of


@dataclass(slots=True)
class Result:
    """What came of a run.

    Attributes:
        violation: the broken promise, or None.
        blocks: heights decided.
        virtual_s: virtual seconds that passed.
        finality_s: for each honest node and block, virtual seconds from proposal to decision.
        received: by node and kind of message, how many came.
        received_bytes: likewise, their bytes.
        seen: how often each fault, branch and event of services occurred.
        trace: what the core of the node that was to be recorded went through; None if it never ran.
    """

    plan: Plan
    violation: str | None = None
    blocks: int = 0
    virtual_s: float = 0.0
    finality_s: list[float] = field(default_factory=list)
    received: dict[str, Counter[str]] = field(default_factory=dict)
    received_bytes: dict[str, Counter[str]] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    log: str = ""
    trace: Trace | None = None


@lru_cache(maxsize=1 << 14)
def _open_once(signed: bytes, public_key: bytes) -> bytes:
    opened: bytes = crypto_sign_open(signed, public_key)
    return opened


def run_plan(
    plan: Plan,
    *,
    canary: str | None = None,
    traced: bool = False,
    recorded: str | None = None,
    world_of: Callable[[Plan, EventLog], World] = World,
) -> Result:
    """Run a plan in a world of its own.

    The same plan gives the same result, to the byte of its log and of the trace of a `recorded` node.

    Raises:
        UsageError: no such canary or node.
    """
    source = f"deepshard.testing.simulate, seed {plan.seed}, scenario {plan.scenario}, node {recorded}"
    recorders = {} if recorded is None else {recorded: Recorder(CHAIN_ID, source)}
    log = EventLog(traced=traced)
    world: World | None = None
    ended = 0.0

    def told(name: str, event: dict[str, Any]) -> None:
        if name in {"consensus.equivocation", "consensus.amnesia"} and world is not None:
            world.oracle.accused(NODE.get(), bytes.fromhex(event["validator"]))

    async def main() -> None:
        nonlocal world, ended
        made = world_of(plan, log)
        names = [node.name for node in made.nodes]
        if recorded is not None and recorded not in names:
            raise UsageError(f"no node {recorded!r}: there are {', '.join(names)}")
        world = made
        with observed(log, world.core_states, recorders):
            await world.run()
        ended = trio.current_time()

    for number in range(plan.nodes):
        onion_of(number)
    clock = MockClock(autojump_threshold=0)
    with ExitStack() as stack:
        stack.enter_context(planted(canary))
        stack.enter_context(patch.object(keys, "crypto_sign_open", _open_once))
        stack.enter_context(sealed(plan.seed, log, told))
        try:
            trio.run(main, clock=clock)
        except (Exception, SealBroken, BaseExceptionGroup) as error:
            if world is None or _is_interrupt(error):
                raise
            world.oracle.violation = world.oracle.violation or f"the run ended with {describe(_first(error))}"
    assert world is not None
    return Result(
        plan=plan,
        violation=world.oracle.violation,
        blocks=len(world.oracle.blocks),
        virtual_s=ended,
        finality_s=world.oracle.finality_s,
        received=world.received,
        received_bytes=world.received_bytes,
        seen=log.seen,
        log=log.lines() if traced else "",
        trace=recorders[recorded].trace() if recorded is not None else None,
    )


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _is_interrupt(error: BaseException) -> bool:
    return isinstance(error, BaseExceptionGroup) and error.subgroup(KeyboardInterrupt) is not None


def simulate(
    seed: int, scenario: str = "mixed", nodes: int | None = None, *, canary: str | None = None, traced: bool = False
) -> Result:
    """Run one seed of a scenario.

    Raises:
        UsageError: no such scenario, canary or number of nodes.
    """
    return run_plan(draw(seed, scenario, nodes), canary=canary, traced=traced)
