"""Answers with a bitmap of one byte too many."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.services import shards_upload

BREAKS = ("6.4/22",)
ONLY = ("6.4",)
BLOCKS = 2


def break_rule() -> None:
    """A byte of zeros at the end."""

    def longer(original: Any) -> Any:
        return lambda request, bitmap: original(request, bitmap + b"\x00")

    patch(shards_upload, "HaveReply", longer)
