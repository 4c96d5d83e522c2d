"""Takes back in whoever it has banned."""

from __future__ import annotations

from patching import patch

from deepshard.gossip import PeerScores

BREAKS = ("4.6/1",)
ONLY = ("4.6",)


def break_rule() -> None:
    """Nobody is banned when it is asked."""
    patch(PeerScores, "is_banned", lambda _: lambda self, peer, now: False)
