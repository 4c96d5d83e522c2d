"""Never raises the limit of streams."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire.packets import Streams
from deepshard.wire.receiving import FrameReceiver

BREAKS = ("5.3/5",)
ONLY = ("5.3",)


def break_rule() -> None:
    """STREAMS is thought of, and not sent."""

    def stingy(original: Any) -> Any:
        def consume(self: Any, number: int) -> None:
            original(self, number)
            self.answers[:] = [answer for answer in self.answers if not isinstance(answer, Streams)]

        return consume

    patch(FrameReceiver, "_consume_bulk", stingy)
