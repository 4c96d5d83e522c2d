"""Believes who a peer says it is."""

from __future__ import annotations

from patching import patch

from deepshard.wire import handshake

BREAKS = ("4.3/3", "4.3/4")
ONLY = ("4.3",)


def break_rule() -> None:
    """No signature in the handshake is verified."""
    patch(handshake, "verify_signature", lambda _: lambda *arguments: None)
