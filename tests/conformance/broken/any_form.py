"""Accepts values in other forms than the canonical one."""

from __future__ import annotations

from typing import Any

import msgspec
from patching import patch

from deepshard.errors import MalformedMessage
from deepshard.wire import frames

BREAKS = ("5.2/11",)
ONLY = ("5.2",)


def break_rule() -> None:
    """What can be decoded is fine."""

    def lenient(data: bytes, expected: Any, *, bytes_max: int) -> Any:
        try:
            return msgspec.msgpack.decode(data, type=expected)
        except (msgspec.DecodeError, RecursionError) as error:
            raise MalformedMessage(str(error)) from None

    patch(frames, "decode", lambda _: lenient)
