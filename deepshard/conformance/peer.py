"""A peer that can do everything wrong: one TCP connection with the target, in the suite's hands byte by byte."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import trio

from deepshard.conformance import packets as wire
from deepshard.conformance.inbound import FIRST_BULK, Inbound, Packet, key_is_used_up
from deepshard.conformance.opening import DiallerOpening, ListenerOpening, Network, Opening, Self
from deepshard.conformance.verdicts import ClauseFailed, Witness, shown
from deepshard.encoding import encode
from deepshard.limits import (
    BULK_CREDIT_BYTES,
    FRAME_CHARGE_BYTES,
    HANDSHAKE_MESSAGE_BYTES_MAX,
    PACKET_BYTES_MAX,
    STREAM_CREDIT_BYTES,
    STREAMS_OPEN_MAX,
)
from deepshard.wire.messages import CATALOGUE, Message

NOTES_KEPT = 6
RECEIVE_BYTES = 256 * 1024


class Ended(Exception):
    """The target's direction of the connection is over; `how` says in which way."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class RawPeer:
    """One connection. Everything it sends is noted, everything it receives judged; see `Inbound`."""

    def __init__(
        self,
        stream: trio.SocketStream,
        network: Network,
        me: Self,
        witness: Witness,
        timeout_s: float,
        *,
        dialling: bool,
    ) -> None:
        self.stream, self.me, self.witness, self.timeout_s, self.dialling = stream, me, witness, timeout_s, dialling
        self.opening: DiallerOpening | ListenerOpening = (
            DiallerOpening(network, me) if dialling else ListenerOpening(network, me)
        )
        self.notes: deque[str] = deque(maxlen=NOTES_KEPT)
        self.messages: deque[Packet] = deque()
        """Messages that arrived while something else was waited for."""
        self.answers_pings = True
        self.gives_credit = True
        self.on_packet: Callable[[Packet], object] = lambda _: None
        """Sees every packet of the target."""
        self.reads_noted: deque[str] = deque(maxlen=NOTES_KEPT)
        self.out = wire.Direction(b"")
        self.arriving = wire.Direction(b"")
        self.inbound = Inbound(b"", b"", witness, first_is_ping=dialling)
        self.sequence = 0
        self.next_bulk = FIRST_BULK
        self.stream_limit = FIRST_BULK + STREAMS_OPEN_MAX
        self.limits = {0: STREAM_CREDIT_BYTES, 1: STREAM_CREDIT_BYTES}
        self.used: dict[int, int] = {}
        self.closed_streams: set[int] = set()
        self._buffer = bytearray()
        self._sending = trio.StrictFIFOLock()
        """Packets leave in the order in which they are numbered, whichever task sends them."""

    # -- bytes -------------------------------------------------------------------------------------------------------

    @property
    def sent(self) -> str:
        """What was sent last, for a report."""
        return shown(", then ".join(self.notes)) or "nothing"

    def note(self, text: str) -> None:
        """Say what is done, for a report."""
        if not self.notes or self.notes[-1] != text:
            self.notes.append(text)

    def failed(self, expected: str, got: str, clause: str | None = None) -> ClauseFailed:
        """The error that says so."""
        return ClauseFailed(sent=self.sent, expected=expected, got=shown(got), clause=clause)

    async def send_bytes(self, data: bytes, note: str = "") -> None:
        """Send raw bytes. A connection that the target has closed swallows them: reading tells how it ended."""
        self.note(note or f"{len(data)} bytes")
        try:
            with trio.fail_after(self.timeout_s):
                await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        except trio.TooSlowError:
            raise self.failed("the target to go on reading", f"it took nothing for {self.timeout_s:g} s") from None

    async def end_sending(self) -> None:
        """Close the suite's direction."""
        self.note("the end of its direction")
        try:
            await self.stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def read_exactly(self, count: int) -> bytes:
        """The next bytes of the target; the caller sets a deadline.

        Raises:
            Ended: it closed before.
        """
        while len(self._buffer) < count:
            try:
                received = await self.stream.receive_some(RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise Ended("the connection was reset") from None
            if not received:
                raise Ended("the connection was closed")
            self._buffer += received
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    # -- handshake ---------------------------------------------------------------------------------------------------

    async def handshake_message(self) -> bytes:
        """Payload of the target's next handshake message; the caller sets a deadline."""
        size = int.from_bytes(await self.read_exactly(2), "little")
        if not 2 <= size <= HANDSHAKE_MESSAGE_BYTES_MAX:
            raise self.failed("a handshake message", f"a length of {size} bytes", "4.1/2")
        return await self.read_exactly(size)

    async def expect_handshake_message(self) -> bytes:
        """The target's next handshake message, in time.

        Raises:
            ClauseFailed: none came.
        """
        try:
            with trio.fail_after(self.timeout_s):
                return await self.handshake_message()
        except trio.TooSlowError:
            raise self.failed("a handshake message", f"nothing for {self.timeout_s:g} s") from None
        except Ended as ended:
            raise self.failed("a handshake message", ended.how) from None

    async def say_hello(self, **changed: object) -> None:
        """HELLO, and take the REPLY."""
        opening = self.dialler
        await self.send_bytes(opening.hello(**changed), "HELLO")
        opening.take_reply(await self.expect_handshake_message(), self.witness)

    async def shake_hands(self) -> None:
        """The whole handshake as it should be, up to the keys."""
        if self.dialling:
            await self.say_hello()
            await self.send_bytes(self.dialler.finish(), "FINISH")
        else:
            opening = self.listener
            opening.take_hello(await self.expect_handshake_message(), self.witness)
            await self.send_bytes(opening.reply(), "REPLY")
            opening.take_finish(await self.expect_handshake_message(), self.witness)
        self.use_keys(self.opening)

    def use_keys(self, opening: Opening) -> None:
        """From now on packets."""
        self.out, self.arriving = wire.Direction(opening.keys.send), wire.Direction(opening.keys.receive)
        self.inbound.key, self.inbound.session_id = opening.identity.public_key, opening.keys.session_id

    @property
    def dialler(self) -> DiallerOpening:
        """The opening, where the suite dials."""
        assert isinstance(self.opening, DiallerOpening)
        return self.opening

    @property
    def listener(self) -> ListenerOpening:
        """The opening, where the target dials."""
        assert isinstance(self.opening, ListenerOpening)
        return self.opening

    # -- packets -----------------------------------------------------------------------------------------------------

    async def send(self, plain: bytes, note: str = "") -> None:
        """Seal and send one packet."""
        kind = plain[0] if plain else 0
        name = wire.TYPE_NAMES[kind] if 0 < kind < len(wire.TYPE_NAMES) else f"packet of type {kind}"
        if kind == wire.PING:
            self.inbound.pinged.append(int.from_bytes(plain[1:9], "little"))
        async with self._sending:
            await self.send_bytes(self.out.seal(plain), note or name)
            if plain == bytes((wire.REKEY,)):
                self.out.rekey()

    async def send_together(self, plains: list[bytes], note: str) -> None:
        """Seal and send several packets at once."""
        for plain in plains:
            if plain[0] == wire.PING:
                self.inbound.pinged.append(int.from_bytes(plain[1:9], "little"))
        async with self._sending:
            await self.send_bytes(b"".join([self.out.seal(plain) for plain in plains]), note)

    async def read(self) -> Packet:
        """The target's next packet; the caller sets a deadline. PINGs are answered and credit given on the way.

        Raises:
            Ended: it closed the connection.
        """
        prefix = await self.read_exactly(4)
        size = int.from_bytes(prefix, "little")
        if not self.witness.check("5.1/1", 0 < size <= PACKET_BYTES_MAX, f"a packet of {size} bytes"):
            raise self.failed("packets as in 5.1", f"a packet of {size} bytes", "5.1/1")
        box = await self.read_exactly(size + wire.TAG_BYTES)
        fact = "more boxes under one key than 5.6/2 allows"
        self.witness.check("5.6/2", not key_is_used_up(self.arriving, len(box)), fact)
        plain = self.arriving.open(prefix, box)
        if not self.witness.check("5.1/2", plain is not None, "a box that doesn't open") or plain is None:
            raise self.failed("packets as in 5.1", f"a box of {len(box)} bytes that doesn't open", "5.1/2")
        packet = self.inbound.take(plain)
        if packet.kind == wire.REKEY:
            self.arriving.rekey()
        self.reads_noted.append(packet.name)
        self.on_packet(packet)
        await self._follow(packet)
        return packet

    async def _follow(self, packet: Packet) -> None:
        check = self.witness.check
        if packet.kind == wire.PING and self.answers_pings:
            self.inbound.owed -= 1
            await self.send_quietly(wire.pong(packet.number))
        elif packet.kind == wire.CREDIT:
            known = packet.stream < self.next_bulk
            check("5.4/3", known, f"CREDIT for stream {packet.stream}, which was never opened")
            before = self.limits.get(packet.stream, BULK_CREDIT_BYTES)
            check(
                "5.4/3",
                packet.number >= before,
                f"CREDIT lowers stream {packet.stream} from {before} to {packet.number}",
            )
            self.limits[packet.stream] = max(before, packet.number)
        elif packet.kind == wire.STREAMS:
            check("5.3/6", packet.number >= self.stream_limit, f"STREAMS {packet.number} after {self.stream_limit}")
            self.stream_limit = max(self.stream_limit, packet.number)
        elif packet.kind in {wire.FRAME, wire.DATA} and self.gives_credit:
            await self._give_credit(packet.stream)

    async def _give_credit(self, stream: int) -> None:
        inbound = self.inbound
        if stream < FIRST_BULK:
            used = inbound.used.get(stream, 0)
            if inbound.given[stream] - used < STREAM_CREDIT_BYTES // 2:
                inbound.given[stream] = used + STREAM_CREDIT_BYTES
                await self.send_quietly(wire.credit(stream, inbound.given[stream]))
            return
        partial = inbound.partial.get(stream)
        if partial is not None:
            needed = FRAME_CHARGE_BYTES + partial.header.sent_bytes + partial.header.attachment_bytes
            if needed > inbound.given.get(stream, BULK_CREDIT_BYTES):
                inbound.given[stream] = needed
                await self.send_quietly(wire.credit(stream, needed))
        if len(inbound.done_bulk) + FIRST_BULK + STREAMS_OPEN_MAX // 2 >= inbound.stream_limit - STREAMS_OPEN_MAX // 2:
            inbound.stream_limit = len(inbound.done_bulk) + FIRST_BULK + STREAMS_OPEN_MAX
            await self.send_quietly(wire.streams(inbound.stream_limit))

    async def send_quietly(self, plain: bytes) -> None:
        """Housekeeping: not worth a note."""
        notes = list(self.notes)
        await self.send(plain)
        self.notes.clear()
        self.notes.extend(notes)

    # -- frames ------------------------------------------------------------------------------------------------------

    def header(self, kind: int, body: bytes, stream: int | None, changed: dict[str, Any]) -> wire.Header:
        """The header that the next frame should have, with changes."""
        message = CATALOGUE.get(kind)
        if stream is None:
            stream = int(message.PRIORITY) if message is not None else 1
            stream = self.next_bulk if stream >= FIRST_BULK else stream
        right = wire.Header(
            kind=kind, stream=stream, sent_bytes=len(body), body_bytes=len(body), sequence=self.sequence
        )
        return right._replace(**changed)

    def frame(
        self,
        message: Message | tuple[int, bytes],
        *,
        attachment: bytes = b"",
        stream: int | None = None,
        header: dict[str, Any] | None = None,
        **changed: Any,  # noqa: ANN401  # arguments of `build_frame`
    ) -> wire.Frame:
        """A frame of a message, or of a kind and a body, right but for what is given; the next one follows it.

        Args:
            message: what it carries.
            attachment: of it.
            stream: another than its kind's.
            header: fields of the header to change.
            changed: see `packets.build_frame`.
        """
        kind, body = (message.KIND, encode(message)) if isinstance(message, Message) else message
        sent = changed.get("sent", body)
        assert isinstance(sent, bytes)
        fields: dict[str, Any] = {"sent_bytes": len(sent), "attachment_bytes": len(attachment)} | (header or {})
        made = self.header(kind, body, stream, fields)
        session_id = changed.pop("session_id", self.opening.keys.session_id)
        signer = changed.pop("signer", self.me.key)
        name = type(message).__name__ if isinstance(message, Message) else f"a frame of kind {kind}"
        note = f"{name} on stream {made.stream}"
        built = wire.build_frame(
            made,
            body,
            signer=signer,
            session_id=session_id,
            attachment=attachment,
            note=note,
            **changed,
        )
        self.sequence += 1
        if made.stream == self.next_bulk:
            self.next_bulk += 1
        return built

    async def send_frame(self, frame: wire.Frame, note: str = "") -> None:
        """Send a frame as far as credit allows, waiting for more of it.

        Raises:
            ClauseFailed: the credit that an incomplete frame needs did not come.
        """
        stream = frame.header.stream
        due = FRAME_CHARGE_BYTES + len(frame.first)
        await self.wait_for_credit(stream, due)
        await self.send(frame.start, note or frame.note)
        self.use(stream, due)
        for piece in frame.pieces():
            await self.wait_for_credit(stream, len(piece) - 5)
            await self.send(piece, note or frame.note)
            self.use(stream, len(piece) - 5)

    async def say(self, message: Message, attachment: bytes = b"") -> None:
        """Send a message as it should be sent."""
        if message.PRIORITY >= FIRST_BULK:
            await self.wait_until(lambda: self.next_bulk < self.stream_limit, "STREAMS that raises the limit", "5.3/5")
        await self.send_frame(self.frame(message, attachment=attachment))

    def use(self, stream: int, size: int) -> None:
        """Payload went out."""
        self.used[stream] = self.used.get(stream, 0) + size

    def room(self, stream: int) -> int:
        """Payload that may still be sent on a stream."""
        return self.limits.get(stream, BULK_CREDIT_BYTES) - self.used.get(stream, 0)

    async def wait_for_credit(self, stream: int, size: int) -> None:
        """Read until `size` bytes may be sent.

        Raises:
            ClauseFailed: they may not, for too long.
        """
        clause = "5.4/6" if stream < FIRST_BULK else "5.4/5"
        await self.wait_until(lambda: self.room(stream) >= size, f"CREDIT for stream {stream}", clause)

    async def wait_until(self, holds: Callable[[], bool], expected: str, clause: str | None = None) -> None:
        """Read packets until something holds; messages that come are kept.

        Raises:
            ClauseFailed: it doesn't in time.
        """
        try:
            with trio.fail_after(self.timeout_s):
                while not holds():
                    packet = await self.read()
                    if packet.message is not None:
                        self.messages.append(packet)
        except trio.TooSlowError:
            raise self.failed(expected, f"none within {self.timeout_s:g} s", clause) from None
        except Ended as ended:
            raise self.failed(expected, f"{ended.how} after {self.last_read}", clause) from None

    @property
    def last_read(self) -> str:
        """What came last."""
        return self.reads_noted[-1] if self.reads_noted else "nothing"

    async def close(self) -> None:
        """Close the connection at once."""
        await trio.aclose_forcefully(self.stream)
