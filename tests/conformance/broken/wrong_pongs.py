"""Answers a PING with another nonce."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire.packets import Pong
from deepshard.wire.session import Session

BREAKS = ("5.7/1",)
ONLY = ("5.7/1",)


def break_rule() -> None:
    """One bit is different."""

    def other(original: Any) -> Any:
        def control(self: Any, message: Any) -> None:
            original(self, Pong(message.nonce ^ 1) if isinstance(message, Pong) else message)

        return control

    patch(Session, "_control_now", other)
