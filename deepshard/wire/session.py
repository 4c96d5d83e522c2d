"""One link's protocol without its socket: bytes and time in, events and bytes out.

Two rules. What may arrive when is the table `TRANSITIONS`, nothing else. And `receive` raises nothing: whatever the
bytes are, it returns events, the last of which is `Failed` when the peer broke a rule; so bytes fed whole, one at a
time or with anything behind them give the same events.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from deepshard.errors import RemoteError
from deepshard.limits import (
    HANDSHAKE_TIMEOUT_S,
    LINK_IDLE_TIMEOUT_S,
    PING_INTERVAL_S,
    PINGS_UNANSWERED_MAX,
)
from deepshard.wire.aead import TAG_BYTES
from deepshard.wire.events import Established, Event, Failed, LinkTimeout, MessageReceived, PeerLeft
from deepshard.wire.frames import Payload, frame_start, open_body, prepare
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
from deepshard.wire.keepalive import PingAllowance as _PingAllowance
from deepshard.wire.messages import Message
from deepshard.wire.packets import (
    SIZE_BYTES,
    Control,
    Credit,
    Goodbye,
    GoodbyeReason,
    PacketOpener,
    PacketSealer,
    PacketType,
    Ping,
    Pong,
    Streams,
    pack_control,
    packet_size,
    parse_control,
)
from deepshard.wire.receiving import FrameReceiver, RawFrame, ReassemblyBudget, UnexpectedMessage
from deepshard.wire.sending import Piece, SendQueue
from deepshard.wire.states import TRANSITIONS, Arrival, State

_IN_HANDSHAKE: Final = frozenset({State.AWAIT_HELLO, State.AWAIT_REPLY, State.AWAIT_FINISH})
_ARRIVALS: Final = {
    HandshakeKind.HELLO: Arrival.HELLO,
    HandshakeKind.REPLY: Arrival.REPLY,
    HandshakeKind.FINISH: Arrival.FINISH,
    HandshakeKind.REFUSAL: Arrival.REFUSAL,
}
GOODBYES: Final = {
    RefusalReason.DUPLICATE_LINK: GoodbyeReason.DUPLICATE_LINK,
    RefusalReason.BANNED: GoodbyeReason.BANNED,
    RefusalReason.TOO_MANY_PEERS: GoodbyeReason.TOO_MANY_PEERS,
    RefusalReason.SELF_CONNECTION: GoodbyeReason.SELF_CONNECTION,
}
"""How a listener that has read the FINISH tells of its refusal."""
_REFUSALS: Final[dict[int, RefusalReason]] = {int(goodbye): refusal for refusal, goodbye in GOODBYES.items()}


class Session:
    """State of one link. Times are seconds of any steady clock; secrets and nonce are 32 random bytes, used once.

    `peer` is set as soon as the other side's identity is proven, also when it is then refused. `outgoing` takes what is
    to be sent; `packets` seals what may be sent now.
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
        budget: ReassemblyBudget | None = None,
    ) -> None:
        self._local = local
        self._admit = admit
        self._buffer = bytearray()
        self._handshake_bytes: list[bytes] = []
        self._handshake_deadline = now + HANDSHAKE_TIMEOUT_S
        self._heard_at = self._pinged_at = now
        self._pings: deque[tuple[int, float]] = deque()
        """Nonce and time of our unanswered PINGs."""
        self._ping_nonce = 0
        self._allowance = _PingAllowance(now)
        self._handshake: DiallerHandshake | ListenerHandshake
        self._sealer: PacketSealer | None = None
        self._opener: PacketOpener | None = None
        self._session_id = b""
        self.frames_begun = 0
        """Frames sent, the one at hand included: the next frame's sequence number."""
        self._control: deque[bytes] = deque()
        self._receiver = FrameReceiver(ReassemblyBudget() if budget is None else budget)
        self._said_goodbye = False
        self._features: tuple[str, ...] = ()
        self.outgoing = SendQueue()
        self.peer: PeerIdentity | None = None
        if dialling:
            self.state = State.AWAIT_REPLY
            self._handshake = dialler = DiallerHandshake(
                local, ephemeral_secret=ephemeral_secret, nonce=nonce, expected_key=expected_key
            )
            self._handshake_bytes.append(dialler.hello())
        else:
            self.state = State.AWAIT_HELLO
            self._handshake = ListenerHandshake(local, ephemeral_secret=ephemeral_secret, nonce=nonce)

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is heard."""
        return self.state is State.CLOSED

    # what leaves

    def send(self, message: Message, attachment: bytes = b"") -> None:
        """Queue a message.

        Raises:
            LocalError: larger than a frame carries.
        """
        self.queue(prepare(message, attachment))

    def queue(self, payload: Payload) -> None:
        """As `send`, for a message that was prepared once for many links."""
        self.outgoing.add(payload)

    @property
    def may_send(self) -> bool:
        """Whether `packets` may have something to give; it may still have to wait for credit."""
        return bool(self._control) or len(self.outgoing) > 0

    def packets(self, bytes_max: int = 1 << 62, frames_max: int = 1 << 62) -> list[bytes | bytearray]:
        """Buffers to send now, in this order: what the handshake says, control packets, then frames by priority.

        At most `bytes_max` of frames are given at once, or one packet if that is more, and at most `frames_max` begun.
        """
        buffers: list[bytes | bytearray] = [*self._handshake_bytes]
        self._handshake_bytes.clear()
        if self._sealer is None or self.state is State.AWAIT_CONFIRM:
            return buffers
        while self._control:
            buffers.append(self._sealer.seal(self._control.popleft()))
        size, begun = 0, self.frames_begun
        while size < bytes_max and self.state is State.ESTABLISHED and not self._said_goodbye:
            piece = self.outgoing.next_piece() if self.frames_begun - begun < frames_max else None
            if piece is None:
                break
            packet = self._sealer.seal(self._plain(piece))
            size += len(packet)
            buffers.append(packet)
        return buffers

    def goodbye(self, reason: int, text: str) -> None:
        """Say goodbye: the next call of `packets` gives the last packet. Without agreed keys, nothing happens."""
        if self._sealer is not None and not self._said_goodbye:
            self._control_now(Goodbye(reason, text))
            self._said_goodbye = True

    # what arrives

    def receive(self, data: bytes | bytearray | memoryview, now: float) -> list[Event]:
        """Take bytes from the peer. Nothing is raised; after `Failed` or `PeerLeft` further bytes give no events."""
        events: list[Event] = []
        if self.state is State.CLOSED or not data:
            return events
        self._heard_at = max(self._heard_at, now)
        at = 0
        with memoryview(data) as view:
            while self._buffer and at < len(view) and not self.is_closed:
                # What was begun is made whole; only that is copied, the rest is read where it lies.
                lacking = self._lacking()
                self._buffer += view[at : at + lacking]
                at += lacking
                with memoryview(self._buffer) as begun:
                    taken = self._take(begun, events, now)
                if not self.is_closed:  # an error's traceback keeps views of the buffer alive
                    del self._buffer[:taken]
            if at < len(view) and not self.is_closed:
                at += self._take(view[at:], events, now)
                self._buffer += view[at:]
        if self.is_closed:
            self._buffer = bytearray()
        return events

    def open(self, frame: RawFrame) -> MessageReceived | None:
        """Decompress, verify and decode a frame; None for an unknown kind that is ignored.

        Raises:
            RemoteError: it breaks a rule; the link can't go on.
        """
        assert self.peer is not None
        message = open_body(frame.start, frame.body, peer_key=self.peer.public_key, session_id=self._session_id)
        if message is None:
            return None
        return MessageReceived(message, frame.attachment, frame.start.attachment_digest, frame.attachment_leaves)

    def consumed(self, frame: RawFrame) -> None:
        """A frame was dealt with: the peer gets new credit for it with the next packets."""
        self._receiver.consumed(frame)
        self._collect_answers()

    @property
    def is_starved(self) -> bool:
        """Whether credit is withheld for want of memory."""
        return self._receiver.is_starved

    def retry_credit(self) -> None:
        """Memory was freed elsewhere: give the credit that was withheld."""
        self._receiver.give_credit()
        self._collect_answers()

    def close(self) -> None:
        """The link is gone: its share of the node's memory is given back."""
        self.state = State.CLOSED
        self._receiver.close()

    # time

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
            self._ping(now)
        return events

    def resume(self, now: float) -> None:
        """Say that nobody listened until `now`: silence up to here isn't the peer's."""
        self._heard_at = max(self._heard_at, now)

    # inside

    def _control_now(self, control: Control) -> None:
        if not self._said_goodbye:
            self._control.append(pack_control(control))

    def _collect_answers(self) -> None:
        for answer in self._receiver.answers:
            self._control_now(answer)
        self._receiver.answers.clear()

    def _plain(self, piece: Piece) -> bytes:
        if not piece.begins:
            return b"".join((_DATA_TYPE, piece.stream.to_bytes(4, "little"), piece.data))
        self.frames_begun += 1
        return frame_start(
            piece.payload,
            stream=piece.stream,
            sequence=self.frames_begun - 1,
            signer=self._local.key,
            session_id=self._session_id,
        )

    def _ping(self, now: float) -> None:
        self._pinged_at = now
        if len(self._pings) < PINGS_UNANSWERED_MAX:
            self._ping_nonce += 1
            self._pings.append((self._ping_nonce, now))
            self._control_now(Ping(self._ping_nonce))

    def _fail(self, error: RemoteError, events: list[Event]) -> None:
        if isinstance(error, HandshakeRefused) and not error.by_peer and self.state in _IN_HANDSHAKE:
            self._handshake_bytes.append(refusal_message(error))
        self.state = State.CLOSED
        events.append(Failed(error))

    def _step(self, arrival: Arrival) -> None:
        following = TRANSITIONS[self.state].get(arrival)
        if following is None:
            raise UnexpectedMessage(f"{arrival.name} may not arrive in state {self.state.name}")
        self.state = following

    def _take(self, view: memoryview, events: list[Event], now: float) -> int:
        """Take all whole messages and packets; how many bytes they were."""
        at = 0
        try:
            while self.state is not State.CLOSED:
                end = self._take_handshake(view, at, events, now) if self._opener is None else None
                if end is None and self._opener is not None:
                    end = self._take_packet(view, at, events, now)
                if end is None:
                    break
                at = end
        except RemoteError as error:
            self._fail(error, events)
        self._collect_answers()
        return at

    def _lacking(self) -> int:
        """Bytes until the message or packet that the buffer begins with can be read on; at least one."""
        if self._opener is None:
            prefix, size_of, more = LENGTH_BYTES, handshake_payload_bytes, 0
        else:
            prefix, size_of, more = SIZE_BYTES, packet_size, TAG_BYTES
        if len(self._buffer) < prefix:
            return prefix - len(self._buffer)
        return prefix + size_of(self._buffer) + more - len(self._buffer)

    def _take_packet(self, view: memoryview, at: int, events: list[Event], now: float) -> int | None:
        begin = at + SIZE_BYTES
        if len(view) < begin:
            return None
        size = bytes(view[at:begin])
        end = begin + packet_size(size) + TAG_BYTES
        if len(view) < end:
            return None
        assert self._opener is not None  # set with the keys
        self._receive_packet(self._opener.open(size, view[begin:end]), events, now)
        return end

    def _receive_packet(self, plain: bytes | bytearray, events: list[Event], now: float) -> None:
        kind = plain[0]
        if kind in _PAYLOAD_TYPES:
            self._step(Arrival.PACKET)
            is_start = kind == PacketType.FRAME
            frame = self._receiver.receive_frame(bytes(plain)) if is_start else self._receiver.receive_data(plain, now)
            if frame is not None:
                events.append(frame)
            return
        match parse_control(bytes(plain)):
            case Ping(nonce):
                confirming = self.state is State.AWAIT_CONFIRM
                self._step(Arrival.PING)
                self._allowance.spend(now)
                if confirming and self.peer is not None:
                    events.append(Established(self.peer, self._features))
                    self._ping(now)
                self._control_now(Pong(nonce))
            case Goodbye(reason, text):
                confirming = self.state is State.AWAIT_CONFIRM
                self._step(Arrival.GOODBYE)
                if confirming:
                    raise _refusal_in(reason, text)
                events.append(PeerLeft(reason, printable(text)))
            case other:
                self._step(Arrival.PACKET)
                self._receive_control(other, now)

    def _receive_control(self, control: Control, now: float) -> None:
        """Take one of the rest; REKEY has done its work in the opener."""
        match control:
            case Pong(nonce):
                if not self._pings or self._pings[0][0] != nonce:
                    raise UnexpectedMessage(f"PONG with nonce {nonce}, pings unanswered {len(self._pings)}")
                self._receiver.window.note_rtt(now - self._pings.popleft()[1])
            case Credit(stream, limit):
                self.outgoing.credit(stream, limit)
            case Streams(limit):
                self.outgoing.raise_stream_limit(limit)

    def _take_handshake(self, view: memoryview, at: int, events: list[Event], now: float) -> int | None:
        begin = at + LENGTH_BYTES
        if len(view) < begin:
            return None
        end = begin + handshake_payload_bytes(bytes(view[at:begin]))
        if len(view) < end:
            return None
        payload = bytes(view[begin:end])
        try:
            arrival = _ARRIVALS[HandshakeKind(payload[0])]
        except ValueError:
            raise UnexpectedMessage(f"handshake message of unknown kind {payload[0]}") from None
        self._receive_handshake(arrival, payload, events, now)
        return end

    def _receive_handshake(self, arrival: Arrival, payload: bytes, events: list[Event], now: float) -> None:
        """The state moves last: a refusal while it is still a handshake state is told in the clear."""
        handshake = self._handshake
        if arrival not in TRANSITIONS[self.state]:
            self._step(arrival)
        elif arrival is Arrival.REFUSAL:
            raise read_refusal(payload)
        elif isinstance(handshake, DiallerHandshake):
            finish, agreement = handshake.receive_reply(payload, self._note_peer)
            self._agree(agreement)
            self._handshake_bytes.append(finish)
            self._step(arrival)
        elif arrival is Arrival.HELLO:
            self._handshake_bytes.append(handshake.receive_hello(payload))
            self._step(arrival)
        else:
            agreement = handshake.receive_finish(payload)
            self._agree(agreement)
            refused = handshake.refusal_of(agreement.peer, self._note_peer)
            self._step(arrival)
            if refused:
                self.goodbye(GOODBYES[refused.reason], refused.reason.value)
                raise refused
            self._ping(now)
            events.append(Established(agreement.peer, self._features))

    def _note_peer(self, peer: PeerIdentity) -> RefusalReason | None:
        self.peer = peer
        return self._admit(peer)

    def _agree(self, agreement: Agreement) -> None:
        self.peer = agreement.peer
        self._features = agreement.features
        self._session_id = agreement.session_id
        self._sealer = PacketSealer(agreement.send_key)
        self._opener = PacketOpener(agreement.receive_key)


_PAYLOAD_TYPES: Final = frozenset({int(PacketType.FRAME), int(PacketType.DATA)})
_DATA_TYPE: Final = bytes((PacketType.DATA,))


def _refusal_in(reason: int, text: str) -> RemoteError:
    if reason in _REFUSALS:
        return HandshakeRefused(_REFUSALS[reason], by_peer=True)
    return HandshakeFailed(f"the peer left before the link was up: {printable(text)}")
