"""Where a session stands, what can arrive, and what may arrive when (protocol-spec, chapters 4 and 5)."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final


class State(Enum):
    """Where a session stands."""

    AWAIT_HELLO = auto()
    """Listener, nothing heard yet."""
    AWAIT_REPLY = auto()
    """Dialler, HELLO sent."""
    AWAIT_FINISH = auto()
    """Listener, REPLY sent."""
    AWAIT_CONFIRM = auto()
    """Dialler, FINISH sent: the listener's first packet says whether it will have us."""
    ESTABLISHED = auto()
    CLOSED = auto()


class Arrival(Enum):
    """What can arrive."""

    HELLO = auto()
    REPLY = auto()
    FINISH = auto()
    REFUSAL = auto()
    PING = auto()
    GOODBYE = auto()
    PACKET = auto()
    """Any other."""


TRANSITIONS: Final[dict[State, dict[Arrival, State]]] = {
    State.AWAIT_HELLO: {Arrival.HELLO: State.AWAIT_FINISH, Arrival.REFUSAL: State.CLOSED},
    State.AWAIT_REPLY: {Arrival.REPLY: State.AWAIT_CONFIRM, Arrival.REFUSAL: State.CLOSED},
    State.AWAIT_FINISH: {Arrival.FINISH: State.ESTABLISHED, Arrival.REFUSAL: State.CLOSED},
    State.AWAIT_CONFIRM: {Arrival.PING: State.ESTABLISHED, Arrival.GOODBYE: State.CLOSED},
    State.ESTABLISHED: {
        Arrival.PING: State.ESTABLISHED,
        Arrival.PACKET: State.ESTABLISHED,
        Arrival.GOODBYE: State.CLOSED,
    },
    State.CLOSED: {},
}
