"""Waits for packets of any size."""

from __future__ import annotations

from patching import patch

from deepshard.wire import session

BREAKS = ("5.1/1",)
ONLY = ("5.1",)


def break_rule() -> None:
    """Whatever a peer declares is waited for."""
    patch(session, "packet_size", lambda _: lambda prefix: int.from_bytes(prefix, "little"))
