"""What the mesh is told, and everything it can ask of its host."""

from __future__ import annotations

from dataclasses import dataclass

from deepshard.errors import RemoteError
from deepshard.gossip.units import Unit, Verdict

# -- control messages, as on the wire


@dataclass(frozen=True, slots=True)
class Graft:
    """The sender takes the receiver into its mesh."""

    topic: int


@dataclass(frozen=True, slots=True)
class Prune:
    """The sender takes the receiver out of its mesh."""

    topic: int
    backoff_s: int


@dataclass(frozen=True, slots=True)
class IHave:
    """Units that the sender has."""

    topic: int
    ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class IWant:
    """Units that the sender asks for."""

    ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class IDontWant:
    """Units that the sender has already."""

    ids: tuple[bytes, ...]


Control = Graft | Prune | IHave | IWant | IDontWant

# -- events


@dataclass(frozen=True, slots=True)
class PeerJoined:
    """A link is up. Peers that aren't members are neither grafted nor told anything."""

    peer: bytes
    is_member: bool
    outbound: bool
    subnet: str | None
    """What `subnets.subnet_of` says; None isn't counted."""


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """A link is down."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class ControlReceived:
    """A control message came."""

    peer: bytes
    control: Control


@dataclass(frozen=True, slots=True)
class UnitsReceived:
    """A message with these units came."""

    peer: bytes
    units: tuple[Unit, ...]


@dataclass(frozen=True, slots=True)
class UnitJudged:
    """The host's verdict on a unit that it was asked to examine; `author` is the peer that signed it, if known."""

    id: bytes
    verdict: Verdict
    author: bytes | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """Units of our own."""

    units: tuple[Unit, ...]


@dataclass(frozen=True, slots=True)
class ProgressMade:
    """A block was committed or a round began: what was for later may be valid now.

    `decided`: a block was committed, so that nobody who is level with us needs its votes any more.
    """

    decided: bool = False


@dataclass(frozen=True, slots=True)
class RelayDue:
    """The pause asked for by `ScheduleRelay` is over."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """`GOSSIP_HEARTBEAT_S` have passed."""


Event = (
    PeerJoined
    | PeerLeft
    | ControlReceived
    | UnitsReceived
    | UnitJudged
    | Published
    | ProgressMade
    | RelayDue
    | Heartbeat
)

# -- effects


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a control message."""

    peer: bytes
    control: Control


@dataclass(frozen=True, slots=True)
class Forward:
    """Send units, in as few messages as they fit."""

    peers: tuple[bytes, ...]
    units: tuple[Unit, ...]


@dataclass(frozen=True, slots=True)
class Examine:
    """Judge these units, all of them new, and say so by `UnitJudged`."""

    peer: bytes
    units: tuple[Unit, ...]


@dataclass(frozen=True, slots=True)
class ScheduleRelay:
    """Come back with `RelayDue` after a few hundredths of a second."""


@dataclass(frozen=True, slots=True)
class Penalise:
    """A peer misbehaved."""

    peer: bytes
    error: RemoteError


Effect = Tell | Forward | Examine | ScheduleRelay | Penalise


class GossipAbuse(RemoteError):
    """A peer's gossip score is so low that it isn't heard any more."""

    def __init__(self, score: float) -> None:
        super().__init__(f"gossip score {score:.0f}")
        self.score = score


class RejectedUnit(RemoteError):
    """A unit that was rejected before, sent again."""

    def __init__(self, unit_id: bytes) -> None:
        super().__init__(f"unit {unit_id.hex()} was rejected before")
        self.unit_id = unit_id
