"""Sends everything as it is."""

from __future__ import annotations

from patching import patch

from deepshard.wire import frames

BREAKS = ("5.2/8",)
ONLY = ("5.2/8",)
BLOCKS = 3
STRICT = True


def break_rule() -> None:
    """No body is large enough."""
    patch(frames, "COMPRESS_BYTES_MIN", lambda _: 1 << 40)
