"""Refuses a peer that has a link already."""

from __future__ import annotations

from patching import patch

from deepshard.net.network import Network

BREAKS = ("4.7/2",)
ONLY = ("4.7",)
STRICT = True


def break_rule() -> None:
    """No link ever gives way."""
    patch(Network, "_gives_way", lambda _: lambda self, current, peer, outbound: False)
