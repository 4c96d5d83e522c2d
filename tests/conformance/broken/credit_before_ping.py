"""Sends another packet before the PING that takes the dialler in."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.limits import STREAM_CREDIT_BYTES
from deepshard.wire.handshake import ListenerHandshake
from deepshard.wire.packets import Credit, pack_control
from deepshard.wire.session import Session

BREAKS = ("5.9/1",)
ONLY = ("5.9",)


def break_rule() -> None:
    """CREDIT leaves first."""

    def early(original: Any) -> Any:
        def agree(self: Any, agreement: Any) -> None:
            original(self, agreement)
            if isinstance(self._handshake, ListenerHandshake):
                self._control.append(pack_control(Credit(1, STREAM_CREDIT_BYTES)))

        return agree

    patch(Session, "_agree", early)
