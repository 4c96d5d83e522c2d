"""Proves another key than the one that was asked for."""

from __future__ import annotations

from patching import patch

from deepshard.ledger.state import State

BREAKS = ("10.6/8", "10.6/9")
ONLY = ("10.6",)
BLOCKS = 2


def break_rule() -> None:
    """Every proof is that of the supply."""
    patch(State, "prove", lambda original: lambda self, key: original(self, b"supply"))
