"""Uses one ephemeral key for all its connections."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.net import network

BREAKS = ("4.2/1",)
ONLY = ("4.2",)
LISTEN = True


def break_rule() -> None:
    """The secret is always the same."""

    def constant(original: Any) -> Any:
        def session(local: Any, **settings: Any) -> Any:
            return original(local, **(settings | {"ephemeral_secret": b"\x07" * 32}))

        return session

    patch(network, "Session", constant)
