"""Numbers packets from 0 again after REKEY."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire.packets import PacketOpener, PacketSealer

BREAKS = ("5.1/3",)
ONLY = ("5.1",)


def break_rule() -> None:
    """A new key, a new count."""

    def restarting(original: Any) -> Any:
        def rekey(self: Any) -> None:
            original(self)
            self._number = 0

        return rekey

    patch(PacketOpener, "_rekey", restarting)
    patch(PacketSealer, "_rekey", restarting)
