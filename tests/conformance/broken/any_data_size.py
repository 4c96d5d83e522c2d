"""Takes DATA packets as large as a packet may be."""

from __future__ import annotations

from patching import patch

from deepshard.limits import PACKET_BYTES_MAX
from deepshard.wire import receiving

BREAKS = ("5.1/5",)
ONLY = ("5.1",)


def break_rule() -> None:
    """The bound of packets is bound enough."""
    patch(receiving, "DATA_BYTES_MAX", lambda _: PACKET_BYTES_MAX)
