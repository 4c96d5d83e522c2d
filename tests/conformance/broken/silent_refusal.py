"""Refuses without saying why."""

from __future__ import annotations

from patching import patch

from deepshard.wire import session

BREAKS = ("4.6/1", "4.6/4")
ONLY = ("4.6",)


def break_rule() -> None:
    """No REFUSAL is ever sent."""
    patch(session, "refusal_message", lambda _: lambda refused: b"")
