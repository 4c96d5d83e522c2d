"""Takes a packet that comes a second time."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire.packets import PacketOpener, TamperedFrame

BREAKS = ("5.1/3",)
ONLY = ("5.1",)


def break_rule() -> None:
    """What doesn't open under its number is tried under the one before."""

    def lenient(original: Any) -> Any:
        def open_packet(self: Any, size: bytes, box: bytes) -> Any:
            before = max(0, self._number - 1)
            try:
                return original(self, size, box)
            except TamperedFrame:
                self._number = before
                return original(self, size, box)

        return open_packet

    patch(PacketOpener, "open", lenient)
