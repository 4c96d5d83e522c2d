"""Drops a frame for the next one on its stream."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire.receiving import FrameReceiver

BREAKS = ("5.3/7",)
ONLY = ("5.3",)


def break_rule() -> None:
    """A new FRAME replaces what was incomplete."""

    def forgetful(original: Any) -> Any:
        def begin(self: Any, number: int, *arguments: Any) -> Any:
            self._ordered[number].incoming = None
            return original(self, number, *arguments)

        return begin

    patch(FrameReceiver, "_begin_ordered", forgetful)
