"""Answers with one block more than asked for."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.disk.chain import ChainStore

BREAKS = ("6.4/14",)
ONLY = ("6.4",)
BLOCKS = 3


def break_rule() -> None:
    """Read one more."""

    def generous(original: Any) -> Any:
        def blocks(self: Any, from_height: int, count: int) -> Any:
            return original(self, from_height, count + 1)

        return blocks

    patch(ChainStore, "blocks", generous)
