"""Speaks with every version."""

from __future__ import annotations

from patching import patch

from deepshard.wire import handshake

BREAKS = ("4.1/4",)
ONLY = ("4.1",)


def break_rule() -> None:
    """Don't look at the version."""
    patch(handshake, "_check_version", lambda _: lambda payload: None)
