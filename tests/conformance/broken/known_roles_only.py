"""Refuses peers with roles that it doesn't know."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.wire import handshake

BREAKS = ("4.3/8",)
ONLY = ("4.3",)


KNOWN = {"validator", "trainer", "informant", "inference"}


def break_rule() -> None:
    """A role nobody knows is a reason to refuse."""

    def strict(original: Any) -> Any:
        def check(local: Any, peer: Any, *rest: Any) -> None:
            original(local, peer, *rest)
            if not KNOWN.issuperset(peer.roles):
                raise handshake.HandshakeRefused(handshake.RefusalReason.BANNED)

        return check

    patch(handshake, "_check_identity", strict)
