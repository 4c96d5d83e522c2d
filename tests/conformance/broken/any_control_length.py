"""Reads as much of a control packet as it needs."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire import session

BREAKS = ("5.1/5",)
ONLY = ("5.1",)


SIZES = {3: 13, 4: 9, 5: 9, 6: 1, 8: 5}


def break_rule() -> None:
    """Too long is cut, too short is filled up."""

    def fitting(original: Any) -> Any:
        def parse(plain: bytes) -> Any:
            size = SIZES.get(plain[0], len(plain))
            return original(plain[:size].ljust(size, b"\x00"))

        return parse

    patch(session, "parse_control", fitting)
