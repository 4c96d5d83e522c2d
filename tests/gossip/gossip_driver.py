"""One mesh core with a clock and a die, for tests of its rules."""

from __future__ import annotations

from random import Random

from deepshard import limits
from deepshard.gossip import Mesh, Unit, Verdict
from deepshard.gossip.events import (
    Control,
    ControlReceived,
    Effect,
    Event,
    Examine,
    Forward,
    Heartbeat,
    PeerJoined,
    Tell,
    UnitJudged,
    UnitsReceived,
)

DEGREE_MAX = limits.GOSSIP_DEGREE_HIGH + limits.GOSSIP_DEGREE_OUTBOUND


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def unknown(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Driver:
    """A mesh, a clock and a die."""

    def __init__(self, peers: int = 0, *, outbound: bool = False, subnet: str | None = None) -> None:
        self.mesh = Mesh()
        self.now = 0.0
        self.rng = Random(1)
        for number in range(peers):
            self.join(number, outbound=outbound, subnet=subnet)

    def do(self, event: Event) -> list[Effect]:
        return self.mesh.apply(event, self.now, self.rng)

    def join(
        self, number: int, *, is_member: bool = True, outbound: bool = False, subnet: str | None = None
    ) -> list[Effect]:
        return self.do(PeerJoined(key(number), is_member, outbound, subnet))

    def control(self, number: int, control: Control) -> list[Effect]:
        return self.do(ControlReceived(key(number), control))

    def receive(
        self, number: int, *units: Unit, verdict: Verdict | None = Verdict.VALID, author: bytes | None = None
    ) -> list[Effect]:
        """Units of a peer, each judged at once unless `verdict` is None."""
        effects = self.do(UnitsReceived(key(number), units))
        for unit in examined(effects):
            if verdict is not None:
                effects += self.do(UnitJudged(unit.id, verdict, author))
        return effects

    def beat(self, times: int = 1) -> list[Effect]:
        effects: list[Effect] = []
        for _ in range(times):
            self.now += limits.GOSSIP_HEARTBEAT_S
            effects += self.do(Heartbeat())
        return effects


def examined(effects: list[Effect]) -> list[Unit]:
    return [unit for effect in effects if isinstance(effect, Examine) for unit in effect.units]


def forwarded(effects: list[Effect]) -> dict[bytes, set[bytes]]:
    """Ids of units by the peers they go to."""
    result: dict[bytes, set[bytes]] = {}
    for effect in effects:
        if isinstance(effect, Forward):
            for peer in effect.peers:
                result.setdefault(peer, set()).update(unit.id for unit in effect.units)
    return result


def told(effects: list[Effect], kind: type[Control]) -> list[tuple[bytes, Control]]:
    return [
        (effect.peer, effect.control)
        for effect in effects
        if isinstance(effect, Tell) and isinstance(effect.control, kind)
    ]
