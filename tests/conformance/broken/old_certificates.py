"""Gives each header the certificate of the one before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from patching import patch

from deepshard.disk.chain import ChainStore

BREAKS = ("10.4/1",)
ONLY = ("10.4",)
BLOCKS = 3


def break_rule() -> None:
    """The stored certificate is another's."""

    def confused(original: Any) -> Any:
        def block(self: Any, height: int) -> Any:
            stored, before = original(self, height), original(self, height - 1)
            return stored if before is None else replace(stored, certificate=before.certificate)

        return block

    patch(ChainStore, "block", confused)
