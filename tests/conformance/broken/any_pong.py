"""Takes every PONG for an answer."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire.packets import Pong
from deepshard.wire.session import Session

BREAKS = ("5.7/2",)
ONLY = ("5.7/1", "5.7/2", "5.7/3")


def break_rule() -> None:
    """A PONG to no PING is passed over."""

    def passing_over(original: Any) -> Any:
        def receive(self: Any, control: Any, now: float) -> None:
            if isinstance(control, Pong) and (not self._pings or self._pings[0][0] != control.nonce):
                return
            original(self, control, now)

        return receive

    patch(Session, "_receive_control", passing_over)
