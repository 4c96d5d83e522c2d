"""Sends more than the peer gave credit for."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire.sending import _Stream

BREAKS = ("5.4/2",)
ONLY = ("5.4/2",)
BLOCKS = 3


def break_rule() -> None:
    """While a piece is chosen there is no limit."""

    def unlimited(original: Any) -> Any:
        def choose(self: Any, *arguments: Any) -> Any:
            limit, self.limit = self.limit, 1 << 60
            try:
                return original(self, *arguments)
            finally:
                self.limit = limit

        return choose

    patch(_Stream, "begin", unlimited)
    patch(_Stream, "go_on", unlimited)
