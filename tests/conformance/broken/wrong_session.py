"""Signs its frames for another session."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire import session

BREAKS = ("5.2/9",)
ONLY = ("5.2/9",)


def break_rule() -> None:
    """The session id isn't in the signature."""

    def anywhere(original: Any) -> Any:
        def start(*arguments: Any, **settings: Any) -> Any:
            return original(*arguments, **(settings | {"session_id": bytes(32)}))

        return start

    patch(session, "frame_start", anywhere)
