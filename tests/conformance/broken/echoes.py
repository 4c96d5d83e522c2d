"""Sends units back to whoever sent them."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.gossip.state import MeshState

BREAKS = ("7.3/3",)
ONLY = ("7.3",)
BLOCKS = 1


def break_rule() -> None:
    """Nobody has shown to have anything."""

    def forgetful(original: Any) -> Any:
        def keep(self: Any, unit: Any, shown: Any) -> Any:
            return original(self, unit, ())

        return keep

    patch(MeshState, "keep", forgetful)
