"""One link's protocol without its socket: bytes and time in, events and bytes out.

Two rules. What may arrive when is the table `TRANSITIONS`, nothing else. And `receive` raises nothing: whatever the
bytes are, it returns events, the last of which is `Failed` when the peer broke a rule; so bytes fed whole, one at a
time or with anything behind them give the same events.

The receiving and the sending half share no state once the link is established: a shell may run `receive` in a thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from deepshard.errors import LocalError, RemoteError
from deepshard.limits import HANDSHAKE_TIMEOUT_S, LINK_IDLE_TIMEOUT_S, PING_INTERVAL_S
from deepshard.wire.frames import (
    PREFIX_BYTES,
    FrameOpener,
    FrameSealer,
    OpenedFrame,
    Payload,
    frame_sizes,
    prepare,
)
from deepshard.wire.handshake import (
    LENGTH_BYTES,
    Admit,
    Agreement,
    DiallerHandshake,
    HandshakeFailed,
    HandshakeKind,
    HandshakeRefused,
    ListenerHandshake,
    LocalNode,
    PeerIdentity,
    RefusalReason,
    admit_all,
    handshake_payload_bytes,
    printable,
    read_refusal,
    refusal_message,
)
from deepshard.wire.messages import Goodbye, Message, Ping, Pong


class State(Enum):
    """Where a session stands."""

    AWAIT_HELLO = auto()
    """Listener, nothing heard yet."""
    AWAIT_REPLY = auto()
    """Dialler, HELLO sent."""
    AWAIT_FINISH = auto()
    """Listener, REPLY sent."""
    AWAIT_CONFIRM = auto()
    """Dialler, FINISH sent: the listener's first frame says whether it will have us."""
    ESTABLISHED = auto()
    CLOSED = auto()


class Arrival(Enum):
    """What can arrive."""

    HELLO = auto()
    REPLY = auto()
    FINISH = auto()
    REFUSAL = auto()
    FRAME = auto()
    GOODBYE = auto()


TRANSITIONS: Final[dict[State, dict[Arrival, State]]] = {
    State.AWAIT_HELLO: {Arrival.HELLO: State.AWAIT_FINISH, Arrival.REFUSAL: State.CLOSED},
    State.AWAIT_REPLY: {Arrival.REPLY: State.AWAIT_CONFIRM, Arrival.REFUSAL: State.CLOSED},
    State.AWAIT_FINISH: {Arrival.FINISH: State.ESTABLISHED, Arrival.REFUSAL: State.CLOSED},
    State.AWAIT_CONFIRM: {Arrival.FRAME: State.ESTABLISHED, Arrival.GOODBYE: State.CLOSED},
    State.ESTABLISHED: {Arrival.FRAME: State.ESTABLISHED, Arrival.GOODBYE: State.CLOSED},
    State.CLOSED: {},
}

_IN_HANDSHAKE: Final = frozenset({State.AWAIT_HELLO, State.AWAIT_REPLY, State.AWAIT_FINISH})
_ARRIVALS: Final = {
    HandshakeKind.HELLO: Arrival.HELLO,
    HandshakeKind.REPLY: Arrival.REPLY,
    HandshakeKind.FINISH: Arrival.FINISH,
    HandshakeKind.REFUSAL: Arrival.REFUSAL,
}


class UnexpectedMessage(RemoteError):
    """Something that may not arrive in the session's state."""


class LinkTimeout(RemoteError):
    """The peer was silent for too long. Networks fail: no penalty."""

    penalty = 0


@dataclass(frozen=True, slots=True)
class Established:
    """The peer is authenticated and both sides agreed to go on."""

    peer: PeerIdentity
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A verified message for the layers above; Ping, Pong and Goodbye end in the session."""

    message: Message
    attachment: bytes
    attachment_digest: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """A message to queue for sending."""

    message: Message


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """The peer said Goodbye."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The session is over because of `error`."""

    error: RemoteError


Event = Established | MessageReceived | Answer | PeerLeft | Failed


class Session:
    """State of one link. Times are seconds of any steady clock; secrets and nonce are 32 random bytes, used once.

    `peer` is set as soon as the other side's identity is proven, also when it is then refused.
    """

    def __init__(
        self,
        local: LocalNode,
        *,
        dialling: bool,
        ephemeral_secret: bytes,
        nonce: bytes,
        now: float,
        expected_key: bytes | None = None,
        admit: Admit = admit_all,
    ) -> None:
        self._local = local
        self._admit = admit
        self._buffer = bytearray()
        self._needed_bytes = LENGTH_BYTES
        self._outgoing: list[bytes] = []
        self._handshake_deadline = now + HANDSHAKE_TIMEOUT_S
        self._heard_at = self._pinged_at = now
        self._pings_sent = self._pongs_received = 0
        self._handshake: DiallerHandshake | ListenerHandshake
        self._sealer: FrameSealer | None = None
        self._opener: FrameOpener | None = None
        self._features: tuple[str, ...] = ()
        self.peer: PeerIdentity | None = None
        if dialling:
            self.state = State.AWAIT_REPLY
            self._handshake = dialler = DiallerHandshake(
                local, ephemeral_secret=ephemeral_secret, nonce=nonce, expected_key=expected_key
            )
            self._outgoing.append(dialler.hello())
        else:
            self.state = State.AWAIT_HELLO
            self._handshake = ListenerHandshake(local, ephemeral_secret=ephemeral_secret, nonce=nonce)

    def bytes_to_send(self) -> bytes:
        """What the handshake has to say now; empty once the link is established."""
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        return data

    def send(self, message: Message, attachment: bytes = b"") -> list[bytes]:
        """Sign and seal a message; buffers to send in the order of the calls.

        Raises:
            LocalError: larger than a frame carries, or the handshake isn't finished.
        """
        return self.send_payload(prepare(message, attachment))

    def send_payload(self, payload: Payload) -> list[bytes]:
        """As `send`, for a message that was prepared once for many links."""
        if self._sealer is None:
            raise LocalError("no message can be sent before the handshake is finished")
        return self._sealer.seal(payload)

    def receive(self, data: bytes | bytearray | memoryview, now: float) -> list[Event]:
        """Take bytes from the peer. Nothing is raised; after `Failed` or `PeerLeft` further bytes give no events."""
        events: list[Event] = []
        if self.state is State.CLOSED:
            return events
        self._buffer += data
        self._heard_at = max(self._heard_at, now)
        try:
            while self._advance(events):
                pass
        except RemoteError as error:
            self._fail(error, events)
        return events

    def next_deadline(self) -> float:
        """When `handle_timer` wants to be called, unless bytes come first; infinite once closed."""
        match self.state:
            case State.CLOSED:
                return float("inf")
            case State.ESTABLISHED:
                return min(self._heard_at + LINK_IDLE_TIMEOUT_S, max(self._heard_at, self._pinged_at) + PING_INTERVAL_S)
            case _:
                return self._handshake_deadline

    def handle_timer(self, now: float) -> list[Event]:
        """Let time pass: a handshake or a silence that took too long ends the session, a shorter silence pings."""
        events: list[Event] = []
        if self.state is State.CLOSED or now < self.next_deadline():
            return events
        if self.state is not State.ESTABLISHED:
            self._fail(LinkTimeout(f"no handshake within {HANDSHAKE_TIMEOUT_S:g} s"), events)
        elif now >= self._heard_at + LINK_IDLE_TIMEOUT_S:
            self._fail(LinkTimeout(f"silent for {LINK_IDLE_TIMEOUT_S:g} s"), events)
        else:
            self._pinged_at = now
            events.append(Answer(self._ping()))
        return events

    def resume(self, now: float) -> None:
        """Say that nobody listened until `now`: silence up to here isn't the peer's."""
        self._heard_at = max(self._heard_at, now)

    def _fail(self, error: RemoteError, events: list[Event]) -> None:
        if isinstance(error, HandshakeRefused) and not error.by_peer and self.state in _IN_HANDSHAKE:
            self._outgoing.append(refusal_message(error))
        self.state = State.CLOSED
        self._buffer.clear()
        events.append(Failed(error))

    def _step(self, arrival: Arrival) -> None:
        following = TRANSITIONS[self.state].get(arrival)
        if following is None:
            raise UnexpectedMessage(f"{arrival.name} may not arrive in state {self.state.name}")
        self.state = following

    def _advance(self, events: list[Event]) -> bool:
        """Take one message or frame from the buffer if it is whole; False if more bytes are needed."""
        if self.state is State.CLOSED or len(self._buffer) < self._needed_bytes:
            return False
        if self.state in _IN_HANDSHAKE:
            return self._advance_handshake(events)
        return self._advance_frame(events)

    def _advance_handshake(self, events: list[Event]) -> bool:
        end = LENGTH_BYTES + handshake_payload_bytes(self._buffer)
        if len(self._buffer) < end:
            self._needed_bytes = end
            return False
        payload = bytes(self._buffer[LENGTH_BYTES:end])
        del self._buffer[:end]
        self._needed_bytes = LENGTH_BYTES
        try:
            arrival = _ARRIVALS[HandshakeKind(payload[0])]
        except ValueError:
            raise UnexpectedMessage(f"handshake message of unknown kind {payload[0]}") from None
        self._receive_handshake(arrival, payload, events)
        return True

    def _receive_handshake(self, arrival: Arrival, payload: bytes, events: list[Event]) -> None:
        """The state moves last: a refusal while it is still a handshake state is told in the clear."""
        handshake = self._handshake
        if arrival not in TRANSITIONS[self.state]:
            self._step(arrival)
        elif arrival is Arrival.REFUSAL:
            raise read_refusal(payload)
        elif isinstance(handshake, DiallerHandshake):
            finish, agreement = handshake.receive_reply(payload, self._note_peer)
            self._agree(agreement)
            self._outgoing.append(finish)
            self._step(arrival)
        elif arrival is Arrival.HELLO:
            self._outgoing.append(handshake.receive_hello(payload))
            self._step(arrival)
        else:
            agreement = handshake.receive_finish(payload)
            sealer = self._agree(agreement)
            refused = handshake.refusal_of(agreement.peer, self._note_peer)
            self._step(arrival)
            # The dialler waits for this frame: a Ping takes it in, a Goodbye says why not.
            first = Goodbye(refused.reason.value) if refused else self._ping()
            self._outgoing.extend(sealer.seal(prepare(first)))
            if refused:
                raise refused
            events.append(Established(agreement.peer, self._features))

    def _note_peer(self, peer: PeerIdentity) -> RefusalReason | None:
        self.peer = peer
        return self._admit(peer)

    def _agree(self, agreement: Agreement) -> FrameSealer:
        self.peer = agreement.peer
        self._features = agreement.features
        self._sealer = FrameSealer(self._local.key, agreement.send_key, agreement.session_id)
        self._opener = FrameOpener(agreement.peer.public_key, agreement.receive_key, agreement.session_id)
        self._needed_bytes = PREFIX_BYTES
        return self._sealer

    def _advance_frame(self, events: list[Event]) -> bool:
        prefix = bytes(self._buffer[:PREFIX_BYTES])
        first, second = frame_sizes(prefix)
        middle, end = PREFIX_BYTES + first, PREFIX_BYTES + first + second
        if len(self._buffer) < end:
            self._needed_bytes = end
            return False
        with memoryview(self._buffer) as view:
            first_box, second_box = bytes(view[PREFIX_BYTES:middle]), bytes(view[middle:end])
        del self._buffer[:end]
        self._needed_bytes = PREFIX_BYTES
        assert self._opener is not None  # states outside the handshake are reached through `_agree` alone
        self._receive_frame(self._opener.open(prefix, first_box, second_box), events)
        return True

    def _receive_frame(self, frame: OpenedFrame, events: list[Event]) -> None:
        message = frame.message
        confirming = self.state is State.AWAIT_CONFIRM
        if isinstance(message, Goodbye):
            self._step(Arrival.GOODBYE)
            self._buffer.clear()
            if confirming:
                raise _refusal_in(message)
            events.append(PeerLeft(printable(message.reason)))
            return
        self._step(Arrival.FRAME)
        if confirming and self.peer is not None:
            events.append(Established(self.peer, self._features))
        if isinstance(message, Ping):
            events.append(Answer(Pong(message.nonce)))
        elif isinstance(message, Pong):
            self._receive_pong(message)
        elif message is not None:
            events.append(MessageReceived(message, frame.attachment, frame.attachment_digest))

    def _ping(self) -> Ping:
        self._pings_sent += 1
        return Ping(self._pings_sent)

    def _receive_pong(self, pong: Pong) -> None:
        """Pongs come in the order of our pings, one for each."""
        if not self._pongs_received < self._pings_sent or pong.nonce != self._pongs_received + 1:
            raise UnexpectedMessage(f"Pong with nonce {pong.nonce}, pings sent {self._pings_sent}")
        self._pongs_received += 1


def _refusal_in(goodbye: Goodbye) -> RemoteError:
    try:
        return HandshakeRefused(RefusalReason(goodbye.reason), by_peer=True)
    except ValueError:
        return HandshakeFailed(f"the peer left before the link was up: {printable(goodbye.reason)}")
