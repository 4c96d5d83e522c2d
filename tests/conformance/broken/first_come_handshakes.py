"""Has no room for another handshake while others are under way."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.net.pending import PendingHandshakes, TooManyHandshakes

BREAKS = ("4.5/3",)
ONLY = ("4.5/3",)
STRICT = True


def break_rule() -> None:
    """Who comes late is turned away."""

    def turning_away(original: Any) -> Any:
        def add(self: Any, link: Any, host: str) -> None:
            if len(self) >= self._links_max:
                raise TooManyHandshakes("no room")
            original(self, link, host)

        return add

    patch(PendingHandshakes, "add", turning_away)
