"""What leaves a link next: frames cut into pieces, in order of priority, as far as the peer's credit allows.

Control packets aren't here; they go before all of this. Bulk streams take turns. Pure: the caller seals and sends.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from deepshard.errors import MalformedMessage
from deepshard.limits import (
    BULK_CREDIT_BYTES,
    BULK_QUEUE_BYTES_MAX,
    DATA_BYTES_MAX,
    FRAME_CHARGE_BYTES,
    OUTBOUND_QUEUE_BYTES_MAX,
    OUTBOUND_QUEUE_FRAMES_MAX,
    STREAM_CREDIT_BYTES,
    STREAMS_OPEN_MAX,
)
from deepshard.primitives import CONTENT_BLOCK_BYTES
from deepshard.wire.frames import FIRST_BULK_STREAM, Payload
from deepshard.wire.messages import Priority


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a frame: `begins` with its header and the first part of the body, or `data` that follows."""

    payload: Payload
    stream: int
    begins: bool
    data: bytes | memoryview
    """Empty where the frame begins: the FRAME packet carries `inline_bytes` of the body by itself."""


def inline_bytes(payload: Payload) -> int:
    """Bytes of body in the FRAME packet."""
    return min(len(payload.body), DATA_BYTES_MAX)


class _Stream:
    """A stream with the frame that is being sent on it."""

    __slots__ = ("is_ready", "limit", "number", "payload", "position", "sent")

    def __init__(self, number: int, limit: int) -> None:
        self.number = number
        self.limit = limit
        self.sent = 0
        """Payload of the stream so far."""
        self.payload: Payload | None = None
        self.position = 0
        """Payload sent of the frame at hand."""
        self.is_ready = False
        """Of bulk streams: whether it waits for its turn."""

    def begin(self, payload: Payload) -> Piece | None:
        """Start a frame; None if its first packet needs more credit."""
        first = inline_bytes(payload)
        if self.sent + FRAME_CHARGE_BYTES + first > self.limit:
            return None
        self.sent += FRAME_CHARGE_BYTES + first
        self.position = first
        self.payload = payload if first < payload.size_bytes else None
        return Piece(payload, self.number, begins=True, data=b"")

    def go_on(self) -> Piece | None:
        """The next piece of the frame at hand; None if there is none or no credit for it."""
        payload = self.payload
        if payload is None:
            return None
        room = max(0, min(DATA_BYTES_MAX, self.limit - self.sent))
        body_left = len(payload.body) - self.position
        source, start = (payload.body, self.position) if body_left > 0 else (payload.attachment, -body_left)
        end = min(len(source), start + room)
        if end < len(source):
            # Pieces that end with a block are hashed without being joined.
            end = max(start, end - end % CONTENT_BLOCK_BYTES) or end
        data = memoryview(source)[start:end]
        if not data:
            return None
        self.sent += len(data)
        self.position += len(data)
        if self.position == payload.size_bytes:
            self.payload = None
        return Piece(payload, self.number, begins=False, data=data)


class SendQueue:
    """Frames of one link that wait or are being sent."""

    def __init__(self) -> None:
        self._waiting: dict[Priority, deque[Payload]] = {priority: deque() for priority in Priority}
        self._bytes = dict.fromkeys(Priority, 0)
        """Of what waits or isn't sent completely."""
        self._ordered = {
            priority: _Stream(int(priority), STREAM_CREDIT_BYTES) for priority in (Priority.CONSENSUS, Priority.GOSSIP)
        }
        self._bulk: dict[int, _Stream] = {}
        """Open bulk streams by number."""
        self._ready: deque[_Stream] = deque()
        """Those of them that may have credit, the next in turn first: looking at all for every packet is dear."""
        self._opened = FIRST_BULK_STREAM
        self._stream_limit = FIRST_BULK_STREAM + STREAMS_OPEN_MAX

    def __len__(self) -> int:
        """Frames that wait or aren't sent completely."""
        under_way = sum(stream.payload is not None for stream in self._ordered.values())
        return sum(map(len, self._waiting.values())) + under_way + len(self._bulk)

    def has_room(self, payload: Payload) -> bool:
        """Whether a payload may be queued. A single one always fits into an empty queue, whatever its size."""
        if payload.priority is Priority.BULK:
            frames = len(self._waiting[Priority.BULK]) + len(self._bulk)
            size, limit = self._bytes[Priority.BULK], BULK_QUEUE_BYTES_MAX
        else:
            frames = len(self) - len(self._waiting[Priority.BULK]) - len(self._bulk)
            size = self._bytes[Priority.CONSENSUS] + self._bytes[Priority.GOSSIP]
            limit = OUTBOUND_QUEUE_BYTES_MAX
        return frames == 0 or (frames < OUTBOUND_QUEUE_FRAMES_MAX and size + payload.size_bytes <= limit)

    def add(self, payload: Payload) -> None:
        """Queue a payload."""
        self._waiting[payload.priority].append(payload)
        self._bytes[payload.priority] += payload.size_bytes

    def next_piece(self) -> Piece | None:
        """What to send next; None if nothing waits, or only for credit."""
        for priority, stream in self._ordered.items():
            piece = self._of_ordered(priority, stream)
            if piece is not None:
                return self._counted(piece)
        piece = self._of_open_bulk() or self._of_new_bulk()
        return None if piece is None else self._counted(piece)

    def credit(self, stream: int, limit: int) -> None:
        """The peer allows `limit` bytes of payload on a stream in all. For a stream that is complete it means nothing.

        Raises:
            MalformedMessage: a limit goes down, or the stream was never opened.
        """
        if stream >= self._opened:
            raise MalformedMessage(f"credit for stream {stream}, which was never opened")
        known = self._ordered[Priority(stream)] if stream < FIRST_BULK_STREAM else self._bulk.get(stream)
        if known is None:
            return
        if limit < known.limit:
            raise MalformedMessage(f"credit of stream {stream} lowered from {known.limit} to {limit}")
        known.limit = limit
        if stream >= FIRST_BULK_STREAM:
            self._make_ready(known)

    def raise_stream_limit(self, limit: int) -> None:
        """The peer allows bulk streams with numbers below `limit`.

        Raises:
            MalformedMessage: the limit goes down.
        """
        if limit < self._stream_limit:
            raise MalformedMessage(f"stream limit lowered from {self._stream_limit} to {limit}")
        self._stream_limit = limit

    def _of_ordered(self, priority: Priority, stream: _Stream) -> Piece | None:
        if stream.payload is not None:
            return stream.go_on()
        waiting = self._waiting[priority]
        piece = stream.begin(waiting[0]) if waiting else None
        if piece is not None:
            waiting.popleft()
        return piece

    def _of_open_bulk(self) -> Piece | None:
        while self._ready:
            stream = self._ready.popleft()
            stream.is_ready = False
            piece = stream.go_on()
            if piece is not None:
                self._end_turn(stream)
                return piece
        return None

    def _of_new_bulk(self) -> Piece | None:
        waiting = self._waiting[Priority.BULK]
        if not waiting or self._opened >= self._stream_limit:
            return None
        stream = _Stream(self._opened, BULK_CREDIT_BYTES)
        piece = stream.begin(waiting.popleft())
        assert piece is not None  # the first credit covers the first packet of any frame
        self._opened += 1
        self._bulk[stream.number] = stream
        self._end_turn(stream)
        return piece

    def _end_turn(self, stream: _Stream) -> None:
        if stream.payload is None:
            del self._bulk[stream.number]
        elif stream.sent < stream.limit:
            self._make_ready(stream)

    def _make_ready(self, stream: _Stream) -> None:
        if not stream.is_ready:
            stream.is_ready = True
            self._ready.append(stream)

    def _counted(self, piece: Piece) -> Piece:
        sent = inline_bytes(piece.payload) if piece.begins else len(piece.data)
        self._bytes[piece.payload.priority] -= sent
        return piece
