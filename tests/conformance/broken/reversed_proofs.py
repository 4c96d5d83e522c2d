"""Sends the proof of a range in the wrong order."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.services import shards_upload

BREAKS = ("8.7/3",)
ONLY = ("8.7",)


def break_rule() -> None:
    """From right to left."""

    def reversing(original: Any) -> Any:
        return lambda *arguments: tuple(reversed(original(*arguments)))

    patch(shards_upload, "range_proof", reversing)
