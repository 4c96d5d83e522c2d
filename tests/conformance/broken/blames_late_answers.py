"""Blames peers for answers that it doesn't wait for."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.errors import MalformedMessage
from deepshard.services.shards_requests import Requests

BREAKS = ("6.1/4",)
ONLY = ("6.1",)
BLOCKS = 2


def break_rule() -> None:
    """An answer of an unknown number is an error."""

    def unforgiving(original: Any) -> Any:
        def receive(self: Any, event: Any) -> None:
            if event.message.request not in self._pending:
                self._network.penalise(event.peer.public_key, MalformedMessage("nobody asked for this"))
            original(self, event)

        return receive

    patch(Requests, "receive", unforgiving)
