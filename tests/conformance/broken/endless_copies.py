"""Sends a unit as often as it is asked for."""

from __future__ import annotations

from patching import patch

from deepshard.gossip import control

BREAKS = ("7.8/3",)
ONLY = ("7.8",)
BLOCKS = 1


def break_rule() -> None:
    """A thousand copies are too many."""
    patch(control, "GOSSIP_IWANT_SERVED_MAX", lambda _: 1000)
