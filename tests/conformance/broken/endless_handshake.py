"""Waits for ever for a handshake to go on."""

from __future__ import annotations

from patching import patch

from deepshard.wire import session

BREAKS = ("4.5/2",)
ONLY = ("4.5/2",)


def break_rule() -> None:
    """An hour is too long."""
    patch(session, "HANDSHAKE_TIMEOUT_S", lambda _: 3600.0)
