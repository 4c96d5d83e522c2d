"""Passes on votes without looking at their signatures."""

from __future__ import annotations

from patching import patch

from deepshard.services import judging

BREAKS = ("9.2/3",)
ONLY = ("9.2",)
BLOCKS = 2


def break_rule() -> None:
    """No vote's signature is verified."""
    patch(judging, "verify_vote", lambda _: lambda chain_id, validators, vote: None)
