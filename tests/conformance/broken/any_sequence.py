"""Doesn't count a peer's frames."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire.receiving import FrameReceiver

BREAKS = ("5.2/2",)
ONLY = ("5.2",)


def break_rule() -> None:
    """Whatever number a frame has is the one that was expected."""

    def uncounted(original: Any) -> Any:
        def receive(self: Any, plain: bytes) -> Any:
            self._sequence = int.from_bytes(plain[23:31], "little")
            return original(self, plain)

        return receive

    patch(FrameReceiver, "receive_frame", uncounted)
