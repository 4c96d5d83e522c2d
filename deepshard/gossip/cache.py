"""Units judged valid lately, by heartbeat: what can be advertised and asked for, and who has it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from deepshard.gossip.units import Unit
from deepshard.limits import (
    GOSSIP_ADVERTISED_WINDOWS,
    GOSSIP_CACHE_BYTES_MAX,
    GOSSIP_CACHE_UNITS_MAX,
    GOSSIP_CACHE_WINDOWS,
)


@dataclass(slots=True)
class Held:
    """A unit and what is known of who has it. The sets hold connected peers only."""

    unit: Unit
    beat: int
    author: bytes | None = None
    """Who signed it, where that is known and it isn't our own."""
    copies: int = 0
    """How often it came."""
    is_news: bool = True
    """Whether it is advertised while it is young."""
    shown: set[bytes] = field(default_factory=set)
    """Peers that have sent or advertised it, or signed it, or don't want it."""
    sent: set[bytes] = field(default_factory=set)
    """Peers that it was sent to."""
    served: dict[bytes, int] = field(default_factory=dict)
    """How often it was sent on request."""


class UnitCache:
    """Units of one topic, oldest first, each with the heartbeat it came in; bounded in number and bytes."""

    def __init__(self, *, units_max: int = GOSSIP_CACHE_UNITS_MAX, bytes_max: int = GOSSIP_CACHE_BYTES_MAX) -> None:
        self._units_max, self._bytes_max = units_max, bytes_max
        self._held: dict[bytes, Held] = {}
        self._beat = 0
        self.bytes_held = 0

    def __len__(self) -> int:
        return len(self._held)

    def get(self, unit_id: bytes) -> Held | None:
        """A unit, if it is still here."""
        return self._held.get(unit_id)

    def put(self, unit: Unit) -> Held:
        """Keep a unit; one that is here already grows no younger."""
        held = self._held.get(unit.id)
        if held is not None:
            return held
        while self._held and (len(self._held) >= self._units_max or self.bytes_held + unit.size > self._bytes_max):
            self._drop_oldest()
        held = self._held[unit.id] = Held(unit, self._beat)
        self.bytes_held += unit.size
        return held

    def advertised(self) -> Iterator[Held]:
        """Units of the last `GOSSIP_ADVERTISED_WINDOWS` heartbeats that weren't retired, newest first."""
        for held in reversed(self._held.values()):
            if held.beat <= self._beat - GOSSIP_ADVERTISED_WINDOWS or not held.is_news:
                return
            yield held

    def retire(self) -> None:
        """Advertise nothing any more of what is here now; it can still be asked for."""
        for held in reversed(self._held.values()):
            if not held.is_news:
                return
            held.is_news = False

    def shift(self) -> None:
        """A heartbeat: what came `GOSSIP_CACHE_WINDOWS` ago is forgotten."""
        self._beat += 1
        while self._held and next(iter(self._held.values())).beat <= self._beat - GOSSIP_CACHE_WINDOWS:
            self._drop_oldest()

    def forget_peer(self, peer: bytes) -> None:
        """A link ended."""
        for held in self._held.values():
            held.shown.discard(peer)
            held.sent.discard(peer)

    def _drop_oldest(self) -> None:
        held = self._held.pop(next(iter(self._held)))
        self.bytes_held -= held.unit.size
