"""Doesn't mind flags that it doesn't know."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from patching import patch

from deepshard.wire import receiving

BREAKS = ("5.2/1",)
ONLY = ("5.2",)


def break_rule() -> None:
    """All flags but the first are cleared before anybody looks."""

    def masked(original: Any) -> Any:
        def parse(plain: bytes) -> Any:
            start = original(plain[:4] + bytes((plain[4] & 1,)) + plain[5:] if len(plain) > 5 else plain)
            return replace(start, header_bytes=plain[1:31])

        return parse

    patch(receiving, "parse_frame_start", masked)
