"""Begins frames of any declared size."""

from __future__ import annotations

from patching import patch

from deepshard.wire import frames

BREAKS = ("5.2/3",)
ONLY = ("5.2",)


def break_rule() -> None:
    """There is no bound for attachments."""
    patch(frames, "ATTACHMENT_BYTES_MAX", lambda _: 1 << 40)
