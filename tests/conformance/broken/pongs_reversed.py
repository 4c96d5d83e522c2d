"""Answers the last PING first."""

from __future__ import annotations

from collections import deque
from typing import Any

from patching import patch

from deepshard.wire.packets import PacketType
from deepshard.wire.session import Session

BREAKS = ("5.7/1",)
ONLY = ("5.7/1", "5.7/2", "5.7/3")


def break_rule() -> None:
    """PONGs that leave together leave in the wrong order."""

    def reversing(original: Any) -> Any:
        def receive(self: Any, data: Any, now: float) -> Any:
            events = original(self, data, now)
            pongs = [plain for plain in self._control if plain[0] == PacketType.PONG]
            others = [plain for plain in self._control if plain[0] != PacketType.PONG]
            self._control = deque([*others, *reversed(pongs)])
            return events

        return receive

    patch(Session, "receive", reversing)
