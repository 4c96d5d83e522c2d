"""Chapter 7: a case for each timed script."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from deepshard.conformance.gossip_player import Player
from deepshard.conformance.harness import Harness
from deepshard.conformance.registry import Lane, Needs, case
from deepshard.gossip.script_steps import Script
from deepshard.gossip.scripts import SCRIPTS


def _playing(script: Script) -> Callable[[Harness], Awaitable[None]]:
    async def play(harness: Harness) -> None:
        await Player(harness, script, harness.purse).play()

    play.__name__ = script.name.replace("-", "_")
    return play


for _script in SCRIPTS:
    case(
        *_script.clauses,
        title=f"{_script.name.replace('-', ' ')}: {_script.verdict.value}, {_script.reason}",
        lane=Lane.MESH,
        needs=(Needs.ACCOUNT,) if _script.needs_account else (),
    )(_playing(_script))
