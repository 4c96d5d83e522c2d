"""Reads a GOODBYE that isn't text."""

from __future__ import annotations

from patching import patch

from deepshard.wire import packets

BREAKS = ("5.8/3",)
ONLY = ("5.8",)
STRICT = True


def break_rule() -> None:
    """What isn't UTF-8 is replaced."""

    def parse(plain: bytes) -> packets.Goodbye:
        return packets.Goodbye(int.from_bytes(plain[1:3], "little"), plain[3:].decode(errors="replace"))

    patch(packets, "_parse_goodbye", lambda _: parse)
