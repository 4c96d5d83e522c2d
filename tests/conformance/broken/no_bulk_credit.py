"""Never gives credit for bulk."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire.receiving import FrameReceiver

BREAKS = ("5.4/5",)
ONLY = ("5.4/5",)


def break_rule() -> None:
    """There is never any room in the window."""

    def stingy(original: Any) -> Any:
        def give(self: Any) -> None:
            outstanding, self._outstanding = self._outstanding, self.window.size
            original(self)
            self._outstanding = outstanding

        return give

    patch(FrameReceiver, "give_credit", stingy)
