"""Sends units to peers that don't want them."""

from __future__ import annotations

from patching import patch

from deepshard.gossip import control

BREAKS = ("7.6/2",)
ONLY = ("7.6",)
BLOCKS = 1


def break_rule() -> None:
    """IDONTWANT leads to nothing."""
    patch(control, "_note_unwanted", lambda _: lambda state, member, message: None)
