"""Lets a peer take back streams and credit."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.errors import MalformedMessage
from deepshard.wire.sending import SendQueue

BREAKS = ("5.3/6", "5.4/3")
ONLY = ("5.3", "5.4/3")


def break_rule() -> None:
    """A limit that goes down is passed over."""

    def passed_over(original: Any) -> Any:
        def take(self: Any, *arguments: int) -> None:
            try:
                original(self, *arguments)
            except MalformedMessage as error:
                if "lowered" not in str(error):
                    raise

        return take

    patch(SendQueue, "credit", passed_over)
    patch(SendQueue, "raise_stream_limit", passed_over)
