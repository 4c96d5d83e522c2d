"""Closes for every kind that it doesn't know."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire import session
from deepshard.wire.frames import UnknownKind

BREAKS = ("5.3/9",)
ONLY = ("5.3",)


def break_rule() -> None:
    """What is to be ignored is an error."""

    def strict(original: Any) -> Any:
        def open_body(start: Any, *arguments: Any, **keys: Any) -> Any:
            message = original(start, *arguments, **keys)
            if message is None:
                raise UnknownKind(start.header.kind)
            return message

        return open_body

    patch(session, "open_body", strict)
