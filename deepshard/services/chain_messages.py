"""What the chain actor's mailbox takes."""

from __future__ import annotations

from dataclasses import dataclass

from deepshard.actors import Reply
from deepshard.consensus.events import TimeoutElapsed
from deepshard.net.types import PeerDown, PeerUp, Received


@dataclass(frozen=True, slots=True)
class SubmitTransaction:
    """A local transaction for the mempool and the network."""

    data: bytes
    reply: Reply[None]


@dataclass(frozen=True, slots=True)
class Tick:
    """Half a second has passed."""


@dataclass(frozen=True, slots=True)
class Flush:
    """Units gathered for relay are due to go out."""


@dataclass(frozen=True, slots=True)
class GoOn:
    """Blocks that have come wait to be applied."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The mesh's second has passed."""


@dataclass(frozen=True, slots=True)
class BuildDue:
    """The pause before our block is over, or worth another look."""

    height: int
    round: int


ChainMessage = (
    Received | PeerUp | PeerDown | SubmitTransaction | TimeoutElapsed | Tick | Heartbeat | Flush | GoOn | BuildDue
)
