"""Passes on units that it can't judge yet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from patching import patch

from deepshard.gossip import Mesh, Verdict

BREAKS = ("7.2/2",)
ONLY = ("7.2",)
BLOCKS = 1


def break_rule() -> None:
    """Later is as good as valid."""

    def trusting(original: Any) -> Any:
        def judge(self: Any, judged: Any) -> Any:
            later = judged.verdict is Verdict.LATER
            return original(self, replace(judged, verdict=Verdict.VALID) if later else judged)

        return judge

    patch(Mesh, "_judge", trusting)
