"""Takes a peer back into the mesh during the backoff."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.gossip import control

BREAKS = ("7.4/6",)
ONLY = ("7.4",)
BLOCKS = 1


def break_rule() -> None:
    """GRAFT is always agreed to."""

    def graft(state: Any, member: Any, message: Any, now: float) -> list[Any]:
        del now
        topic = state.topic(message.topic)
        if topic is not None:
            topic.mesh.add(member)
        return []

    patch(control, "_graft", lambda _: graft)
