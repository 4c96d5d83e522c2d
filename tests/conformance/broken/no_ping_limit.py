"""Answers any number of PINGs."""

from __future__ import annotations

from patching import patch

from deepshard.wire.keepalive import PingAllowance

BREAKS = ("5.7/3",)
ONLY = ("5.7/1", "5.7/2", "5.7/3")


def break_rule() -> None:
    """The allowance is never spent."""
    patch(PingAllowance, "spend", lambda _: lambda self, now: None)
