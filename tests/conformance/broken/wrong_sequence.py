"""Numbers its frames from 1."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire import session

BREAKS = ("5.2/2",)
ONLY = ("5.2/2",)


def break_rule() -> None:
    """One more than there were."""

    def counting(original: Any) -> Any:
        def start(*arguments: Any, **settings: Any) -> Any:
            return original(*arguments, **(settings | {"sequence": settings["sequence"] + 1}))

        return start

    patch(session, "frame_start", counting)
