"""Lets a peer choose the numbers of its bulk streams."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire.receiving import FrameReceiver

BREAKS = ("5.3/2",)
ONLY = ("5.3",)


def break_rule() -> None:
    """The number that comes is the next one."""

    def unordered(original: Any) -> Any:
        def begin(self: Any, number: int, incoming: Any, inline: int) -> Any:
            self._opened = number
            return original(self, number, incoming, inline)

        return begin

    patch(FrameReceiver, "_begin_bulk", unordered)
