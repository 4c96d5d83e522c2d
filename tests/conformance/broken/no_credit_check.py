"""Takes more on a bulk stream than it gave credit for."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire.receiving import FrameReceiver

BREAKS = ("5.4/2",)
ONLY = ("5.4",)


def break_rule() -> None:
    """The limit gives way."""

    def giving_way(original: Any) -> Any:
        def count(self: Any, number: int, incoming: Any, size: int) -> None:
            incoming.limit = max(incoming.limit, incoming.received + size)
            original(self, number, incoming, size)

        return count

    patch(FrameReceiver, "_count_bulk", giving_way)
