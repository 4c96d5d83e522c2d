"""Exit codes beyond 0 (done), 1 (a failure of ours, or of the node) and 2 (asked for the impossible)."""

from __future__ import annotations

from typing import Final

from deepshard.errors import DeepshardError

UNREACHABLE: Final = 3
"""No peer answers, or none shows what would lead on."""
TRUST_EXPIRED: Final = 4
"""What is trusted is too old to go on from; a person has to name a block."""
ATTACKED: Final = 5
"""Peers show two histories that are both signed: somebody with much stake lies."""


class CommandFailed(DeepshardError):
    """A command ends with a line for a person and an exit code of its own."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
