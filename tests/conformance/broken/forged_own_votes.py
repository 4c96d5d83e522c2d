"""Sends its own votes with a signature that doesn't hold."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.services.mesh_host import MeshHost
from deepshard.wire.messages import Votes

BREAKS = ("9.2/2",)
ONLY = ("9.2/2",)
BLOCKS = 2


def break_rule() -> None:
    """The last bit of each vote is flipped when it leaves."""

    def flipping(original: Any) -> Any:
        def publish(self: Any, message: Any) -> None:
            if isinstance(message, Votes):
                message = Votes(tuple(vote[:-1] + bytes((vote[-1] ^ 1,)) for vote in message.votes))
            original(self, message)

        return publish

    patch(MeshHost, "publish", flipping)
