"""Doesn't compare an attachment with its digest."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire.receiving import RawFrame, _Incoming

BREAKS = ("5.2/10",)
ONLY = ("5.2",)


def break_rule() -> None:
    """A frame that is complete is right."""

    def finish(self: Any) -> RawFrame:
        return RawFrame(self.start, self.start.body + self.body.join(), self.attachment.join(), ())

    patch(_Incoming, "finish", lambda _: finish)
