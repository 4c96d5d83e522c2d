"""Takes in peers of another genesis."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire import handshake

BREAKS = ("4.2/3", "4.2/5")
ONLY = ("4.2",)


def break_rule() -> None:
    """Compare the chain id alone."""

    def lax(original: Any) -> Any:
        def check(local: Any, hello: Any) -> None:
            original(local, handshake.Hello(hello.chain_id, local.genesis_hash, bytes(32), bytes(32), ()))

        return check

    patch(handshake, "_check_network", lax)
