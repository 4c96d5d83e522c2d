"""Advertises, and doesn't send what is asked for."""

from __future__ import annotations

from patching import patch

from deepshard.gossip import control

BREAKS = ("7.5/4",)
ONLY = ("7.5",)
BLOCKS = 1


def break_rule() -> None:
    """IWANT leads to nothing."""
    patch(control, "_serve", lambda _: lambda state, peer, iwant: [])
