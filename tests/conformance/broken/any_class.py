"""Takes messages on whatever stream they come."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from patching import patch

from deepshard.wire import session
from deepshard.wire.messages import CATALOGUE

BREAKS = ("5.3/8",)
ONLY = ("5.3",)


def break_rule() -> None:
    """The stream of a message is the one it should have come on."""

    def anywhere(original: Any) -> Any:
        def open_body(start: Any, *arguments: Any, **keys: Any) -> Any:
            kind = CATALOGUE.get(start.header.kind)
            if kind is not None:
                start = replace(start, header=start.header._replace(stream=int(kind.PRIORITY)))
            return original(start, *arguments, **keys)

        return open_body

    patch(session, "open_body", anywhere)
