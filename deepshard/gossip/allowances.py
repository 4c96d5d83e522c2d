"""What one peer may make us do between two heartbeats (chapter 7.8). Pure."""

from __future__ import annotations

from dataclasses import dataclass

from deepshard.limits import (
    GOSSIP_CONTROLS_PER_HEARTBEAT_MAX,
    GOSSIP_IHAVE_IDS_PER_HEARTBEAT_MAX,
    GOSSIP_IHAVES_PER_HEARTBEAT_MAX,
    GOSSIP_IWANT_BYTES_PER_HEARTBEAT_MAX,
    GOSSIP_IWANT_IDS_PER_HEARTBEAT_MAX,
)


@dataclass(slots=True)
class Allowance:
    """Counters since the last heartbeat. `exceeded` says that one of the bounds was passed."""

    controls: int = 0
    ihaves: int = 0
    asked_ids: int = 0
    wanted_ids: int = 0
    served_bytes: int = 0
    exceeded: bool = False

    def control(self) -> bool:
        """Whether another control message is looked at."""
        if self.controls >= GOSSIP_CONTROLS_PER_HEARTBEAT_MAX:
            self.exceeded = True
            return False
        self.controls += 1
        return True

    def ihave(self) -> bool:
        """Whether another IHAVE is looked at."""
        if self.ihaves >= GOSSIP_IHAVES_PER_HEARTBEAT_MAX:
            self.exceeded = True
            return False
        self.ihaves += 1
        return True

    def may_ask(self) -> int:
        """How many more ids may be asked of the peer."""
        return GOSSIP_IHAVE_IDS_PER_HEARTBEAT_MAX - self.asked_ids

    def want(self, ids: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Those of the ids in an IWANT that are looked up."""
        room = GOSSIP_IWANT_IDS_PER_HEARTBEAT_MAX - self.wanted_ids
        self.wanted_ids += min(room, len(ids))
        self.exceeded |= len(ids) > room
        return ids[:room]

    def serve(self, size: int) -> bool:
        """Whether a unit of this size may still be sent on request. Asking for more is no fault."""
        if self.served_bytes + size > GOSSIP_IWANT_BYTES_PER_HEARTBEAT_MAX:
            return False
        self.served_bytes += size
        return True
