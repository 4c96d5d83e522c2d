"""Lets a peer open any number of streams."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire.receiving import FrameReceiver

BREAKS = ("5.3/4",)
ONLY = ("5.3",)


def break_rule() -> None:
    """While a stream is opened there is no limit."""

    def unlimited(original: Any) -> Any:
        def begin(self: Any, *arguments: Any) -> Any:
            limit, self._stream_limit = self._stream_limit, 1 << 32
            try:
                return original(self, *arguments)
            finally:
                self._stream_limit = limit

        return begin

    patch(FrameReceiver, "_begin_bulk", unlimited)
