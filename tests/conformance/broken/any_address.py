"""Passes over addresses that aren't any."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.errors import UsageError
from deepshard.net.endpoints import parse_endpoint
from deepshard.net.network import Network
from deepshard.wire.messages import Peers

BREAKS = ("6.4/1",)
ONLY = ("6.4/1",)


def break_rule() -> None:
    """What can't be read is left out."""

    def readable(address: str) -> bool:
        try:
            parse_endpoint(address)
        except UsageError:
            return False
        return True

    def lenient(original: Any) -> Any:
        def learn(self: Any, known: Any, message: Any) -> None:
            original(self, known, Peers(tuple(filter(readable, message.addresses))))

        return learn

    patch(Network, "_learn", lenient)
