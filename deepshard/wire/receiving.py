"""What arrives on a link's streams: frames put together again, and the credit that bounds them.

Bodies stay as they were sent until they are asked for, so what is held of a peer is what it was given credit for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from deepshard.errors import MalformedMessage, RemoteError
from deepshard.limits import (
    BULK_CREDIT_BYTES,
    BULK_WINDOW_BYTES_MAX,
    BULK_WINDOW_BYTES_MIN,
    DATA_BYTES_MAX,
    FRAME_CHARGE_BYTES,
    KIB,
    NODE_REASSEMBLY_BYTES_MAX,
    PEER_REASSEMBLY_BYTES_MAX,
    STREAM_CREDIT_BYTES,
    STREAMS_OPEN_MAX,
)
from deepshard.primitives import ContentHasher
from deepshard.wire.frames import FIRST_BULK_STREAM, CorruptAttachment, FrameStart, parse_frame_start
from deepshard.wire.messages import Priority
from deepshard.wire.packets import Control, Credit, Streams

_DATA_HEADER_BYTES: Final = 5
_PIECE_BYTES_MIN: Final = 16 * KIB
_STREAMS_STEP: Final = STREAMS_OPEN_MAX // 4
_RTT_S_MIN: Final = 0.0001
_RTT_S_UNKNOWN: Final = 0.1


class UnexpectedMessage(RemoteError):
    """Something that may not arrive in the session's or the stream's state."""


class CreditExceeded(RemoteError):
    """More payload than the stream's limit."""


class StreamLimitExceeded(RemoteError):
    """A bulk stream opened at or beyond the limit."""


@dataclass(slots=True)
class ReassemblyBudget:
    """Memory for payload beyond the streams' first credit, shared by all links of a node."""

    bytes_max: int = NODE_REASSEMBLY_BYTES_MAX
    taken: int = 0
    refused: bool = False
    """Whether somebody waits for memory; who gives some back looks at it, and asks the others to try again."""

    def take(self, size: int) -> bool:
        """Reserve; False if there isn't so much left."""
        if self.taken + size > self.bytes_max:
            self.refused = True
            return False
        self.taken += size
        return True

    def give_back(self, size: int) -> None:
        """Release what was taken."""
        self.taken -= size
        assert self.taken >= 0


@dataclass(frozen=True, slots=True)
class RawFrame:
    """A frame that arrived completely. Its attachment is verified against its digest, its signature isn't yet."""

    start: FrameStart
    body: bytes
    """As sent."""
    attachment: bytes
    attachment_leaves: tuple[bytes, ...]
    """Leaf hashes of the attachment's blocks."""

    @property
    def priority(self) -> Priority:
        """Class of its stream."""
        return Priority(min(self.start.header.stream, FIRST_BULK_STREAM))


class _Pieces:
    """Data in the order of arrival.

    Large pieces are kept as they came. Small ones share a buffer, so that a peer that sends single bytes doesn't make
    us keep an object for each.
    """

    __slots__ = ("_buffer", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[memoryview | bytearray] = []
        self._buffer = bytearray()

    def add(self, data: memoryview) -> None:
        if len(data) >= _PIECE_BYTES_MIN:
            self._pieces.append(data)
            self._buffer = bytearray()
            return
        if not self._buffer:
            self._pieces.append(self._buffer)
        self._buffer += data

    def join(self) -> bytes:
        return b"".join(self._pieces)


@dataclass(slots=True)
class _Incoming:
    """A frame of which more is to come."""

    start: FrameStart
    body_left: int
    attachment_left: int
    body: _Pieces = field(default_factory=_Pieces)
    attachment: _Pieces = field(default_factory=_Pieces)
    hasher: ContentHasher | None = None
    limit: int = 0
    """Credit given to its stream; of bulk streams only, as is `received`."""
    received: int = 0

    @property
    def left(self) -> int:
        return self.body_left + self.attachment_left

    def add(self, data: memoryview) -> None:
        if len(data) > self.left:
            raise MalformedMessage(f"{len(data)} bytes of DATA, the frame lacks {self.left}")
        if self.body_left:
            body = data[: self.body_left]
            self.body.add(body)
            self.body_left -= len(body)
            data = data[len(body) :]
        if data:
            if self.hasher is None:
                self.hasher = ContentHasher()
            self.hasher.update(data)
            self.attachment.add(data)
            self.attachment_left -= len(data)

    def finish(self) -> RawFrame:
        leaves: tuple[bytes, ...] = ()
        if self.hasher is not None:
            digest, declared = self.hasher.digest(), self.start.attachment_digest
            leaves = self.hasher.leaves
            if digest != declared:
                raise CorruptAttachment(f"attachment {digest.hex()}, its frame says {declared.hex()}")
        return RawFrame(self.start, self.start.body + self.body.join(), self.attachment.join(), leaves)


@dataclass(slots=True)
class _Ordered:
    """Stream 0 or 1: payload received, finished with, and allowed."""

    received: int = 0
    consumed: int = 0
    limit: int = STREAM_CREDIT_BYTES
    incoming: _Incoming | None = None
    reserved: int = 0
    """Of the budget, for a frame larger than the stream's first credit."""


class _BulkWindow:
    """How much credit for bulk may be given and not used: what the link carries in a round trip, and a quarter more."""

    def __init__(self) -> None:
        self.size = BULK_WINDOW_BYTES_MIN
        self.rtt_s = _RTT_S_UNKNOWN
        self._since = 0.0
        self._bytes = 0

    def note_rtt(self, seconds: float) -> None:
        """The shortest round trip is the link's; longer ones waited in queues."""
        self.rtt_s = max(_RTT_S_MIN, min(self.rtt_s, seconds))

    def note(self, size: int, now: float) -> None:
        elapsed = now - self._since
        if elapsed > 2 * self.rtt_s:  # idle in between
            self._since, self._bytes = now, 0
        elif elapsed >= self.rtt_s:
            carried = self._bytes * self.rtt_s / elapsed
            wanted = max(int(1.25 * carried), int(0.9 * self.size))
            self.size = min(BULK_WINDOW_BYTES_MAX, max(BULK_WINDOW_BYTES_MIN, wanted))
            self._since, self._bytes = now, 0
        self._bytes += size


class FrameReceiver:
    """Receiving half of a link's streams. `answers` collects the credit to send."""

    def __init__(self, budget: ReassemblyBudget) -> None:
        self.answers: list[Control] = []
        self.window = _BulkWindow()
        self._budget = budget
        self._sequence = 0
        self._ordered = (_Ordered(), _Ordered())
        self._bulk: dict[int, _Incoming] = {}
        self._reserved: dict[int, int] = {}
        """Of the budget, by bulk stream; until the frame is consumed."""
        self._reserved_bytes = 0
        self._opened = FIRST_BULK_STREAM
        self._finished = 0
        self._stream_limit = FIRST_BULK_STREAM + STREAMS_OPEN_MAX
        self._outstanding = 0
        """Credit for bulk that was given beyond the first, and not used."""
        self.is_starved = False
        """Whether credit is withheld for want of memory: call `give_credit` when some was freed."""

    def receive_frame(self, plain: bytes) -> RawFrame | None:
        """Take a FRAME packet; the frame if that is all of it.

        Raises:
            RemoteError: the packet breaks a rule.
        """
        start = parse_frame_start(plain)
        header = start.header
        if header.sequence != self._sequence:
            raise MalformedMessage(f"frame has sequence number {header.sequence}, expected {self._sequence}")
        self._sequence += 1
        inline = len(start.body)
        incoming = _Incoming(start, header.sent_bytes - inline, header.attachment_bytes)
        if header.stream < FIRST_BULK_STREAM:
            return self._begin_ordered(header.stream, incoming, inline)
        return self._begin_bulk(header.stream, incoming, inline)

    def receive_data(self, plain: bytes | bytearray, now: float) -> RawFrame | None:
        """Take a DATA packet; the frame if that completes it.

        Raises:
            RemoteError: the packet breaks a rule.
        """
        size = len(plain) - _DATA_HEADER_BYTES
        if not 0 < size <= DATA_BYTES_MAX:
            raise MalformedMessage(f"DATA packet with {size} bytes of payload")
        number = int.from_bytes(plain[1:_DATA_HEADER_BYTES], "little")
        data = memoryview(plain)[_DATA_HEADER_BYTES:]
        incoming = self._ordered[number].incoming if number < FIRST_BULK_STREAM else self._bulk.get(number)
        if incoming is None:
            raise UnexpectedMessage(f"DATA on stream {number}, where no frame is incomplete")
        if number < FIRST_BULK_STREAM:
            self._count_ordered(number, size)
        else:
            self._count_bulk(number, incoming, size)
            self.window.note(size, now)
        incoming.add(data)
        is_complete = not incoming.left
        if number < FIRST_BULK_STREAM:
            if is_complete:
                self._ordered[number].incoming = None
        else:
            if is_complete:
                del self._bulk[number]
            self.give_credit()
        return incoming.finish() if is_complete else None

    def consumed(self, frame: RawFrame) -> None:
        """A frame was dealt with: its memory is free, and the peer may send more."""
        header = frame.start.header
        if header.stream >= FIRST_BULK_STREAM:
            self._consume_bulk(header.stream)
            return
        stream = self._ordered[header.stream]
        stream.consumed += FRAME_CHARGE_BYTES + header.sent_bytes
        if stream.reserved and stream.incoming is None:
            self._free(stream.reserved)
            stream.reserved = 0
        if stream.limit - stream.consumed <= STREAM_CREDIT_BYTES // 2:
            self._raise_ordered(header.stream, stream.consumed + STREAM_CREDIT_BYTES)

    def give_credit(self) -> None:
        """Give what memory and the window allow: to the oldest bulk streams first, so that they end early."""
        self.is_starved = False
        for number, stream in enumerate(self._ordered):
            self._cover(number, stream)
        if self._outstanding > self.window.size // 2:
            return
        room = self.window.size - self._outstanding
        for number, incoming in self._bulk.items():
            wanted = min(incoming.received + incoming.left - incoming.limit, room)
            if wanted <= 0:
                continue
            if not self._reserve_bulk(number, incoming):
                return
            incoming.limit += wanted
            room -= wanted
            self._outstanding += wanted
            self.answers.append(Credit(number, incoming.limit))

    def close(self) -> None:
        """The link is gone: give back what was reserved."""
        for stream in self._ordered:
            self._budget.give_back(stream.reserved)
            stream.reserved = 0
        self._budget.give_back(sum(self._reserved.values()))
        self._reserved.clear()

    def _begin_ordered(self, number: int, incoming: _Incoming, inline: int) -> RawFrame | None:
        stream = self._ordered[number]
        if stream.incoming is not None:
            raise UnexpectedMessage(f"a frame on stream {number} before the last one was complete")
        if incoming.attachment_left:
            raise MalformedMessage(f"attachment of {incoming.attachment_left} bytes on stream {number}")
        self._count_ordered(number, FRAME_CHARGE_BYTES + inline)
        if not incoming.left:
            return incoming.finish()
        stream.incoming = incoming
        self._cover(number, stream)
        return None

    def _count_ordered(self, number: int, size: int) -> None:
        stream = self._ordered[number]
        if stream.received + size > stream.limit:
            raise CreditExceeded(f"{stream.received + size} bytes on stream {number}, the limit is {stream.limit}")
        stream.received += size

    def _cover(self, number: int, stream: _Ordered) -> None:
        """Make sure that the frame that has begun on a stream can be finished."""
        if stream.incoming is None:
            return
        needed = stream.received + stream.incoming.left
        if needed <= stream.limit:
            return
        # More than the first credit is only ever needed by one frame at a time.
        size = needed - stream.limit
        if not self._reserve(size):
            return
        stream.reserved += size
        self._raise_ordered(number, needed)

    def _raise_ordered(self, number: int, limit: int) -> None:
        stream = self._ordered[number]
        if limit > stream.limit:
            stream.limit = limit
            self.answers.append(Credit(number, limit))

    def _begin_bulk(self, number: int, incoming: _Incoming, inline: int) -> RawFrame | None:
        if number != self._opened:
            raise MalformedMessage(f"bulk stream {number} opened, the next one is {self._opened}")
        if number >= self._stream_limit:
            raise StreamLimitExceeded(f"bulk stream {number} opened, the limit is {self._stream_limit}")
        self._opened += 1
        incoming.limit = BULK_CREDIT_BYTES
        incoming.received = FRAME_CHARGE_BYTES + inline
        if not incoming.left:
            return incoming.finish()
        self._bulk[number] = incoming
        self.give_credit()
        return None

    def _count_bulk(self, number: int, incoming: _Incoming, size: int) -> None:
        received = incoming.received + size
        if received > incoming.limit:
            raise CreditExceeded(f"{received} bytes on stream {number}, the limit is {incoming.limit}")
        self._outstanding -= max(0, received - max(BULK_CREDIT_BYTES, incoming.received))
        incoming.received = received

    def _consume_bulk(self, number: int) -> None:
        self._free(self._reserved.pop(number, 0))
        self._finished += 1
        limit = FIRST_BULK_STREAM + STREAMS_OPEN_MAX + self._finished
        if limit - self._stream_limit >= _STREAMS_STEP:
            self._stream_limit = limit
            self.answers.append(Streams(limit))
        self.give_credit()

    def _reserve_bulk(self, number: int, incoming: _Incoming) -> bool:
        if number in self._reserved:
            return True
        size = max(0, incoming.received + incoming.left - BULK_CREDIT_BYTES)
        if not self._reserve(size):
            return False
        self._reserved[number] = size
        return True

    def _reserve(self, size: int) -> bool:
        if self._reserved_bytes + size > PEER_REASSEMBLY_BYTES_MAX or not self._budget.take(size):
            self.is_starved = True
            return False
        self._reserved_bytes += size
        return True

    def _free(self, size: int) -> None:
        self._reserved_bytes -= size
        self._budget.give_back(size)
