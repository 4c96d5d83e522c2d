"""Answers under another number than the request's."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.services import block_sync

BREAKS = ("6.1/3",)
ONLY = ("6.1",)
BLOCKS = 2


def break_rule() -> None:
    """Count from one more."""

    def renumbering(original: Any) -> Any:
        return lambda request, blocks: original(request + 1, blocks)

    patch(block_sync, "Blocks", renumbering)
