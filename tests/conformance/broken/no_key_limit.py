"""Lets a peer use a key for ever."""

from __future__ import annotations

from patching import patch

from deepshard.wire.packets import PacketOpener

BREAKS = ("5.6/2",)
ONLY = ("5.6",)


def break_rule() -> None:
    """There is always room."""
    patch(PacketOpener, "_has_room", lambda _: lambda self, packets, box_bytes: True)
