"""Asks for units that it has seen."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.gossip import control
from deepshard.gossip.events import IWant, Tell

BREAKS = ("7.5/3",)
ONLY = ("7.5",)
BLOCKS = 1


def break_rule() -> None:
    """It doesn't matter whether an advertised unit was seen."""

    def ask(state: Any, peer: bytes, ihave: Any, now: float) -> list[Tell]:
        if state.topic(ihave.topic) is None:
            return []
        wanted = state.asking.choose(peer, ihave.ids, len(ihave.ids), now)
        return [Tell(peer, IWant(wanted))] if wanted else []

    patch(control, "_ask", lambda _: ask)
