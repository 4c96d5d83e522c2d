"""Sends bulk before anything else."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire.sending import SendQueue

BREAKS = ("5.5/1",)
ONLY = ("5.5",)
BLOCKS = 3


def break_rule() -> None:
    """Bulk is looked for first."""

    def reversing(original: Any) -> Any:
        def next_piece(self: Any) -> Any:
            piece = self._of_open_bulk() or self._of_new_bulk()
            return original(self) if piece is None else self._counted(piece)

        return next_piece

    patch(SendQueue, "next_piece", reversing)
