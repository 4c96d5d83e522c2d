"""Blames a peer for a GOODBYE of a reason that it doesn't know."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.errors import MalformedMessage
from deepshard.wire import session
from deepshard.wire.packets import Goodbye

BREAKS = ("5.8/4",)
ONLY = ("5.8",)


def break_rule() -> None:
    """Reasons end with 7."""

    def strict(original: Any) -> Any:
        def parse(plain: bytes) -> Any:
            control = original(plain)
            if isinstance(control, Goodbye) and control.reason > 7:
                raise MalformedMessage(f"GOODBYE of reason {control.reason}")
            return control

        return parse

    patch(session, "parse_control", strict)
