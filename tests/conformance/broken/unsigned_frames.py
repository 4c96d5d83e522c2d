"""Believes every frame."""

from __future__ import annotations

from patching import patch

from deepshard.wire import frames

BREAKS = ("5.2/9",)
ONLY = ("5.2",)


def break_rule() -> None:
    """No frame's signature is verified."""
    patch(frames, "verify_signature", lambda _: lambda *arguments: None)
