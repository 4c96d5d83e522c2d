"""Passes over packets that don't open."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.limits import STREAM_CREDIT_BYTES
from deepshard.wire.packets import Credit, PacketOpener, TamperedFrame, pack_control

BREAKS = ("5.1/2", "5.1/3", "5.1/4")
ONLY = ("5.1",)


NOTHING_NEW = pack_control(Credit(1, STREAM_CREDIT_BYTES))


def break_rule() -> None:
    """What doesn't open counts as a packet that changes nothing."""

    def deaf(original: Any) -> Any:
        def open_packet(self: Any, size: bytes, box: bytes) -> Any:
            try:
                return original(self, size, box)
            except TamperedFrame:
                return NOTHING_NEW

        return open_packet

    patch(PacketOpener, "open", deaf)
