"""Agrees on a key with anybody, also by a point of low order."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire import handshake

BREAKS = ("4.2/6",)
ONLY = ("4.2",)


def break_rule() -> None:
    """The result zero counts as a shared secret."""

    def lax(original: Any) -> Any:
        def shared(secret: bytes, ephemeral: bytes) -> bytes:
            try:
                agreed: bytes = original(secret, ephemeral)
            except handshake.HandshakeFailed:
                return bytes(32)
            return agreed

        return shared

    patch(handshake, "_shared_secret", lax)
