"""Sends before the listener has taken it in."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire.packets import Ping, pack_control
from deepshard.wire.session import Session
from deepshard.wire.states import State

BREAKS = ("4.5/4",)
ONLY = ("4.5/4",)
LISTEN = True


def break_rule() -> None:
    """A PING leaves right behind FINISH."""

    def eager(original: Any) -> Any:
        def packets(self: Any, *bounds: int) -> Any:
            buffers = original(self, *bounds)
            if buffers and self.state is State.AWAIT_CONFIRM:
                buffers.append(self._sealer.seal(pack_control(Ping(1))))
            return buffers

        return packets

    patch(Session, "packets", eager)
