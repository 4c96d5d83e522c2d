"""Every byte buys a peer more time for its handshake."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire.session import Session

BREAKS = ("4.5/2",)
ONLY = ("4.5/2",)


def break_rule() -> None:
    """The time-out begins anew with each byte."""

    def extending(original: Any) -> Any:
        def receive(self: Any, data: Any, now: float) -> Any:
            self._handshake_deadline = now + 10.0
            return original(self, data, now)

        return receive

    patch(Session, "receive", extending)
