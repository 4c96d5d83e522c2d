"""Blames a peer for credit that came too late."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.errors import MalformedMessage
from deepshard.wire.sending import SendQueue

BREAKS = ("5.4/4",)
ONLY = ("5.4/4",)


def break_rule() -> None:
    """Credit for a stream that isn't open is an error, also if it was open a moment ago."""

    def unforgiving(original: Any) -> Any:
        def credit(self: Any, stream: int, limit: int) -> None:
            original(self, stream, limit)
            if stream >= 2 and stream not in self._bulk:
                raise MalformedMessage(f"credit for stream {stream}, which isn't open")

        return credit

    patch(SendQueue, "credit", unforgiving)
