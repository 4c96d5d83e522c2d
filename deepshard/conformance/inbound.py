"""What comes from the target: packets read, frames put together, and every rule of the sender watched.

A broken rule is noted with its clause by the `Witness`, and reading goes on as far as it can: one fault of the target
fails the cases of its clause, not every case of the suite.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass, field
from typing import Final

import zstandard

from deepshard.conformance import packets as wire
from deepshard.conformance.verdicts import Witness
from deepshard.encoding import decode
from deepshard.errors import BadSignature, RemoteError
from deepshard.identity import verify_signature
from deepshard.limits import (
    ATTACHMENT_BYTES_MAX,
    BODY_BYTES_MAX,
    BULK_CREDIT_BYTES,
    DATA_BYTES_MAX,
    FRAME_CHARGE_BYTES,
    GOODBYE_BYTES_MAX,
    PINGS_UNANSWERED_MAX,
    REKEY_BYTES,
    REKEY_PACKETS,
    STREAM_CREDIT_BYTES,
    STREAMS_OPEN_MAX,
)
from deepshard.primitives import ZERO_DIGEST, content_digest
from deepshard.wire.messages import CATALOGUE, Message

FIRST_BULK: Final = 2


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet of the target: its type and fields, decoded as far as it has any."""

    kind: int
    stream: int = 0
    number: int = 0
    """Nonce, limit or reason, by type."""
    text: str = ""
    message: Message | None = None
    attachment: bytes = b""
    started: wire.Header | None = None
    payload_bytes: int = 0

    @property
    def name(self) -> str:
        """Its type, for people."""
        named = wire.TYPE_NAMES[self.kind] if 0 < self.kind < len(wire.TYPE_NAMES) else f"type {self.kind}"
        if self.message is not None:
            return f"{type(self.message).__name__} in {named}"
        return named


@dataclass(slots=True)
class Partial:
    """A frame under way."""

    header: wire.Header
    header_bytes: bytes
    signature: bytes
    digest: bytes
    payload: bytearray

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return len(self.payload) >= self.header.sent_bytes + self.header.attachment_bytes


@dataclass(slots=True)
class Inbound:
    """The target's sending side, as it shows on one link."""

    key: bytes
    session_id: bytes
    witness: Witness
    first_is_ping: bool
    """Whether the target is the listener, whose first packet is PING or GOODBYE."""
    sequence: int = 0
    packets: int = 0
    next_bulk: int = FIRST_BULK
    stream_limit: int = FIRST_BULK + STREAMS_OPEN_MAX
    given: dict[int, int] = field(default_factory=lambda: {0: STREAM_CREDIT_BYTES, 1: STREAM_CREDIT_BYTES})
    used: dict[int, int] = field(default_factory=dict)
    partial: dict[int, Partial] = field(default_factory=dict)
    done_bulk: set[int] = field(default_factory=set)
    pinged: deque[int] = field(default_factory=deque)
    """Nonces of our PINGs without an answer."""
    owed: int = 0
    """PINGs of the target that we haven't answered."""
    left: bool = False

    def take(self, plain: bytes) -> Packet:
        """Judge one packet."""
        check = self.witness.check
        check("5.8/1", not self.left, f"a packet of type {plain[0]} after GOODBYE")
        kind = plain[0]
        if self.packets == 0 and self.first_is_ping:
            named = kind in {wire.PING, wire.GOODBYE}
            check("5.9/1", named, f"the first packet of the listener is of type {kind}, expected PING or GOODBYE")
        self.packets += 1
        if not check("5.1/5", 0 < kind < len(wire.TYPE_NAMES), f"a packet of type {kind}"):
            return Packet(kind)
        match kind:
            case wire.FRAME:
                return self._frame(plain)
            case wire.DATA:
                return self._data(plain)
            case _:
                return self._control(kind, plain)

    # -- control packets ---------------------------------------------------------------------------------------------

    def _control(self, kind: int, plain: bytes) -> Packet:
        sizes = {wire.CREDIT: 13, wire.PING: 9, wire.PONG: 9, wire.REKEY: 1, wire.STREAMS: 5}
        if kind == wire.GOODBYE:
            return self._goodbye(plain)
        fits = self.witness.check("5.1/5", len(plain) == sizes[kind], f"{wire.TYPE_NAMES[kind]} of {len(plain)} bytes")
        if not fits:
            return Packet(kind)
        fields = plain[1:]
        if kind == wire.CREDIT:
            stream, limit = struct.unpack("<IQ", fields)
            return Packet(kind, stream, limit)
        number = int.from_bytes(fields, "little")
        if kind == wire.PONG:
            oldest = self.pinged.popleft() if self.pinged else None
            fact = f"PONG {number:#x} where the oldest unanswered PING is {oldest if oldest is None else hex(oldest)}"
            self.witness.check("5.7/2", oldest == number, fact)
            self.witness.check("5.7/1", oldest == number, fact)
        elif kind == wire.PING:
            self.owed += 1
            self.witness.check("5.7/3", self.owed <= PINGS_UNANSWERED_MAX, f"{self.owed} PINGs without an answer")
        return Packet(kind, number=number)

    def _goodbye(self, plain: bytes) -> Packet:
        self.left = True
        text = plain[3:]
        self.witness.check("5.1/5", 3 <= len(plain) <= 3 + GOODBYE_BYTES_MAX, f"GOODBYE of {len(plain)} bytes")
        try:
            decoded = text.decode()
        except UnicodeDecodeError:
            self.witness.check("5.8/3", holds=False, fact=f"a GOODBYE whose text isn't UTF-8: {text.hex()}")
            decoded = text.decode(errors="replace")
        return Packet(wire.GOODBYE, number=int.from_bytes(plain[1:3], "little"), text=decoded)

    # -- frames ------------------------------------------------------------------------------------------------------

    def _frame(self, plain: bytes) -> Packet:
        check = self.witness.check
        least = 1 + wire.HEADER_BYTES + wire.SIGNATURE_BYTES
        if not check("5.2/5", len(plain) >= least, f"a FRAME packet of {len(plain)} bytes"):
            return Packet(wire.FRAME)
        header_bytes = plain[1 : 1 + wire.HEADER_BYTES]
        header = wire.Header._make(wire.HEADER.unpack(header_bytes))
        self._check_header(header)
        offset = least + (32 if header.attachment_bytes else 0)
        first = plain[offset:]
        wanted = min(header.sent_bytes, DATA_BYTES_MAX)
        check("5.2/5", len(first) == wanted, f"a FRAME packet with {len(first)} bytes of body, expected {wanted}")
        digest = plain[least:offset] or ZERO_DIGEST
        signature = plain[1 + wire.HEADER_BYTES : least]
        started = Partial(header, header_bytes, signature, digest, bytearray(first))
        self.partial[header.stream] = started
        self._use(header.stream, FRAME_CHARGE_BYTES + len(first))
        return self._finished(
            header.stream, Packet(wire.FRAME, header.stream, started=header, payload_bytes=len(first))
        )

    def _check_header(self, header: wire.Header) -> None:
        check = self.witness.check
        fine = header.magic == b"DS" and header.version == 2 and not header.flags & ~wire.COMPRESSED
        check("5.2/1", fine, f"a frame with magic {header.magic!r}, version {header.version}, flags {header.flags:#x}")
        check("5.2/2", header.sequence == self.sequence, f"frame number {header.sequence}, expected {self.sequence}")
        self.sequence += 1
        sizes = header.sent_bytes <= BODY_BYTES_MAX and header.body_bytes <= BODY_BYTES_MAX
        fact = f"a frame of {header.body_bytes} bytes of body and {header.attachment_bytes} of attachment"
        check("5.2/3", sizes and header.attachment_bytes <= ATTACHMENT_BYTES_MAX, fact)
        plain = bool(header.flags & wire.COMPRESSED) or header.sent_bytes == header.body_bytes
        check("5.2/4", plain, f"an uncompressed body of {header.body_bytes} bytes sent as {header.sent_bytes}")
        if header.stream in {0, 1}:
            check("5.3/7", header.stream not in self.partial, f"a FRAME on stream {header.stream} inside another")
            check("5.3/8", not header.attachment_bytes, f"an attachment on stream {header.stream}")
            return
        check("5.3/2", header.stream == self.next_bulk, f"bulk stream {header.stream}, expected {self.next_bulk}")
        fact = f"bulk stream {header.stream} where the limit is {self.stream_limit}"
        check("5.3/4", header.stream < self.stream_limit, fact)
        self.next_bulk = header.stream + 1
        self.given.setdefault(header.stream, BULK_CREDIT_BYTES)

    def _data(self, plain: bytes) -> Packet:
        check = self.witness.check
        if not check("5.1/5", 6 <= len(plain) <= 5 + DATA_BYTES_MAX, f"a DATA packet of {len(plain)} bytes"):
            return Packet(wire.DATA)
        stream, payload = int.from_bytes(plain[1:5], "little"), plain[5:]
        under_way = self.partial.get(stream)
        if under_way is None:
            check("5.2/6", holds=False, fact=f"DATA on stream {stream}, on which no frame is incomplete")
            return Packet(wire.DATA, stream)
        under_way.payload += payload
        self._use(stream, len(payload))
        return self._finished(stream, Packet(wire.DATA, stream, payload_bytes=len(payload)))

    def _use(self, stream: int, size: int) -> None:
        self.used[stream] = self.used.get(stream, 0) + size
        limit = self.given.get(stream, BULK_CREDIT_BYTES)
        fact = f"{self.used[stream]} bytes on stream {stream}, the limit is {limit}"
        self.witness.check("5.4/2", self.used[stream] <= limit, fact)

    def _finished(self, stream: int, packet: Packet) -> Packet:
        frame = self.partial[stream]
        if not frame.complete:
            return packet
        del self.partial[stream]
        if stream >= FIRST_BULK:
            self.done_bulk.add(stream)
        header = frame.header
        sent = bytes(frame.payload[: header.sent_bytes])
        attachment = bytes(frame.payload[header.sent_bytes : header.sent_bytes + header.attachment_bytes])
        exact = len(frame.payload) == header.sent_bytes + header.attachment_bytes
        self.witness.check("5.2/6", exact, f"DATA beyond the end of a frame on stream {stream}")
        body = self._body(header, sent)
        if body is None:
            return packet
        self._check_signature(frame, body)
        if attachment:
            same = content_digest(attachment) == frame.digest
            self.witness.check("5.2/10", same, "an attachment that isn't what its digest says")
        return Packet(
            packet.kind, stream, 0, "", self._message(header, body), attachment, packet.started, packet.payload_bytes
        )

    def _body(self, header: wire.Header, sent: bytes) -> bytes | None:
        if not header.flags & wire.COMPRESSED:
            return sent
        try:
            parameters = zstandard.get_frame_parameters(sent)
            single = zstandard.ZstdDecompressor().decompressobj()
            body = single.decompress(sent)
            fine = (
                single.eof
                and not single.unused_data
                and parameters.content_size == header.body_bytes == len(body)
                and parameters.window_size <= BODY_BYTES_MAX
                and not parameters.dict_id
            )
        except zstandard.ZstdError:
            fine, body = False, b""
        self.witness.check("5.2/7", fine, f"a compressed body of {len(sent)} bytes that isn't one frame as demanded")
        return body if fine else None

    def _check_signature(self, frame: Partial, body: bytes) -> None:
        covered = wire.signed_bytes(self.session_id, frame.header_bytes, body, frame.digest)
        try:
            verify_signature(self.key, "frame", covered, frame.signature)
        except BadSignature as error:
            self.witness.check("5.2/9", holds=False, fact=str(error))
        else:
            self.witness.check("5.2/9", holds=True, fact="")

    def _message(self, header: wire.Header, body: bytes) -> Message | None:
        kind = CATALOGUE.get(header.kind)
        if kind is None:
            return None
        try:
            message = decode(body, kind, bytes_max=BODY_BYTES_MAX)
        except RemoteError as error:
            self.witness.check("5.2/11", holds=False, fact=str(error))
            return None
        self.witness.check("5.2/11", holds=True, fact="")
        on_class = min(header.stream, FIRST_BULK) == int(kind.PRIORITY)
        self.witness.check("5.3/8", on_class, f"{kind.__name__} on stream {header.stream}")
        return message


def key_is_used_up(direction: wire.Direction, box_bytes: int) -> bool:
    """Whether one more box goes beyond what may be sealed under a key."""
    return direction.packets_under_key + 1 > REKEY_PACKETS or direction.bytes_under_key + box_bytes > REKEY_BYTES
