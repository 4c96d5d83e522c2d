"""One link: a TCP stream, the session that gives its bytes a meaning, and the queues of what leaves and arrives."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import trio

from deepshard.errors import RemoteError
from deepshard.limits import KIB, LINK_CLOSE_TIMEOUT_S, LINK_IDLE_TIMEOUT_S, MIB
from deepshard.net.outbox import Outbox
from deepshard.wire.events import Established, Event, Failed, MessageReceived, PeerLeft
from deepshard.wire.messages import Priority
from deepshard.wire.packets import GoodbyeReason
from deepshard.wire.receiving import RawFrame
from deepshard.wire.session import Session

RECEIVE_BYTES: Final = 128 * KIB
HANDSHAKE_RECEIVE_BYTES: Final = 4 * KIB
SEND_BYTES: Final = 128 * KIB
SEND_FRAMES: Final = 32
"""Sealed together and given to the socket in one call: what comes later may be more urgent, and a frame has to be
signed. A call that wakes the receiver takes 40 us, so bulk in pieces of 64 KiB takes twice the time."""
SEND_BUFFERS_MAX: Final = 64
LINGER_BYTES_MAX: Final = 16 * MIB
FRAMES_BETWEEN_CHECKPOINTS: Final = 16

Deliver = Callable[[MessageReceived], Awaitable[None]]


class LinkLost(RemoteError):
    """The connection ended without a fault of the protocol. Networks fail: no penalty."""

    penalty = 0


@dataclass(slots=True)
class Traffic:
    """Counters of one link or one peer."""

    bytes_in: int = 0
    bytes_out: int = 0
    frames_in: int = 0
    frames_out: int = 0

    def add(self, other: Traffic) -> None:
        """Add another's counts."""
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.frames_in += other.frames_in
        self.frames_out += other.frames_out


class _Inbox:
    """Frames of one class that wait to be delivered; the credit of their streams bounds them."""

    def __init__(self) -> None:
        self.frames: deque[RawFrame] = deque()
        self.filled = trio.lowlevel.ParkingLot()

    def put(self, frame: RawFrame) -> None:
        self.frames.append(frame)
        self.filled.unpark()


class Link:
    """Drives one session over one stream. First `handshake`, then `run`, and `close` whatever happened."""

    def __init__(
        self, stream: trio.SocketStream, session: Session, *, freed: Callable[[], None] = lambda: None
    ) -> None:
        """Set up.

        Args:
            stream: a connected stream, which the link closes.
            session: a new session; the link is its only user.
            freed: called when a frame was dealt with, since other links may wait for its memory.
        """
        self.session = session
        self.outbox = Outbox(session.outgoing)
        self.traffic = Traffic()
        self.gone = trio.Event()
        """Set by the network when everyone was told that the link is down."""
        self._stream = stream
        self._freed = freed
        # recv_into one buffer for the life of the link: receive_some would allocate anew for every call.
        self._received = bytearray(HANDSHAKE_RECEIVE_BYTES)
        self._inboxes = {priority: _Inbox() for priority in Priority}
        self._handshake_scope = trio.CancelScope()
        self._scope = trio.CancelScope()
        self._early: list[Event] = []
        self._error: RemoteError | None = None
        self._peer_left = False
        self._burst_bytes = 0
        """Read since others had their turn."""
        self._others_wait = False
        """Whether what was read gave work to the writer or to who delivers."""
        self._unsent: deque[memoryview] = deque()
        """Sealed and not yet taken by the kernel: what follows on the link must follow this."""

    async def handshake(self) -> None:
        """Exchange the handshake's messages until the session is established.

        Raises:
            RemoteError: refused, failed, too slow, or the connection was lost.
        """
        with self._handshake_scope:
            await self._handshake()
        if self._handshake_scope.cancelled_caught:
            raise LinkLost("given up") if self._error is None else self._error

    async def _handshake(self) -> None:
        while True:
            await self._flush()
            events = await self._arrivals()
            for index, event in enumerate(events):
                if isinstance(event, Failed):
                    with contextlib.suppress(LinkLost):  # a refusal that can't be sent changes nothing
                        await self._flush()
                    raise event.error
                if isinstance(event, Established):
                    await self._flush()
                    self._early = events[index + 1 :]
                    return

    async def run(self, deliver: Deliver) -> RemoteError | None:
        """Read and write until the link ends; gives the error that ended it, None after `end`."""
        self._received = bytearray(RECEIVE_BYTES)
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_error, self._write)
                for inbox in self._inboxes.values():
                    nursery.start_soon(self._until_error, self._deliver, inbox, deliver)
                await self._until_error(self._read)
        return self._error

    def end(self, error: RemoteError | None = None) -> None:
        """Make `handshake` raise or `run` return `error`, or what ended the link before."""
        if not self._scope.cancel_called:
            self._error = error
        self.outbox.close()
        self._handshake_scope.cancel()
        self._scope.cancel()

    def retry_credit(self) -> None:
        """Memory was freed by another link."""
        if self.session.is_starved:
            self.session.retry_credit()
            self.outbox.changed()

    async def close(self, reason: GoodbyeReason | None = None, text: str = "") -> None:
        """Say goodbye with `reason` if one is given and a packet may still be sent, and close; bounded in time."""
        self.outbox.close()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + LINK_CLOSE_TIMEOUT_S):
            try:
                if reason is not None and not self._peer_left:
                    self.session.goodbye(reason, text)
                    await self._flush()
                await self._linger()
            except (LinkLost, OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                self._peer_left = True  # nobody is left to be told anything
        self.session.close()
        await trio.aclose_forcefully(self._stream)

    async def _linger(self) -> None:
        """Read what is still under way: closing a socket with unread bytes resets it, and our last words are lost."""
        await self._stream.send_eof()
        remaining = LINGER_BYTES_MAX
        while remaining > 0:
            received = await self._stream.socket.recv_into(self._received)
            if not received:
                return
            remaining -= received

    async def _until_error(self, part: Callable[..., Awaitable[None]], *args: object) -> None:
        try:
            await part(*args)
        except RemoteError as error:
            self.end(error)

    async def _read(self) -> None:
        events, self._early = self._early, []
        while True:
            for event in events:
                match event:
                    case RawFrame():
                        self._inboxes[event.priority].put(event)
                        self._others_wait = True
                    case PeerLeft(text=text):
                        self._peer_left = True
                        raise LinkLost(f"the peer left: {text}")
                    case Failed(error):
                        raise error
                    case Established():
                        raise AssertionError("a session is established once")
            if self.session.may_send:
                self.outbox.changed()
                self._others_wait = True
            events = await self._arrivals()

    async def _deliver(self, inbox: _Inbox, deliver: Deliver) -> None:
        """Open and pass on the frames of one class; a slow reader of one class doesn't hold up the others."""
        since_checkpoint = 0
        while True:
            while not inbox.frames:
                await inbox.filled.park()
                since_checkpoint = 0
            frame = inbox.frames.popleft()
            event = self.session.open(frame)
            self.traffic.frames_in += 1
            if event is not None:
                await deliver(event)
            self.session.consumed(frame)
            if self.session.may_send:
                self.outbox.changed()
            self._freed()
            since_checkpoint += 1
            if since_checkpoint >= FRAMES_BETWEEN_CHECKPOINTS:
                await trio.lowlevel.checkpoint()
                since_checkpoint = 0

    async def _arrivals(self) -> list[Event]:
        """Events of the next bytes, or of the timer that came first.

        Tries the socket before it asks the event loop: on a busy link that is a third of the cost of a read. Others get
        their turn when there is something for them, and every so many bytes all the same.
        """
        if self._others_wait or self._burst_bytes >= RECEIVE_BYTES:
            self._others_wait = False
            self._burst_bytes = 0
            await trio.lowlevel.checkpoint()
        received = self._receive_now()
        if received is None:
            self._burst_bytes = 0
            with trio.move_on_at(self.session.next_deadline()):
                while received is None:
                    await self._ready(trio.lowlevel.wait_readable)
                    received = self._receive_now()
        else:
            self._burst_bytes += received
        now = trio.current_time()
        if received is None:
            return self.session.handle_timer(now)
        if received == 0:
            self._peer_left = True
            raise LinkLost("connection closed by the other side")
        self.traffic.bytes_in += received
        with memoryview(self._received) as view:
            return self.session.receive(view[:received], now)

    def _receive_now(self) -> int | None:
        """Bytes read into the buffer; None if there are none yet, 0 at the end."""
        try:
            return os.readv(self._stream.socket.fileno(), [self._received])
        except BlockingIOError:
            return None
        except OSError as error:
            raise LinkLost(f"connection lost: {error}") from None

    def _send_now(self) -> int:
        """Give the kernel as much as it takes of what is unsent; says how much that was."""
        try:
            sent = left = os.writev(self._stream.socket.fileno(), list(islice(self._unsent, SEND_BUFFERS_MAX)))
        except BlockingIOError:
            return 0
        except OSError as error:
            raise LinkLost(f"connection lost: {error}") from None
        while left:
            first = self._unsent.popleft()
            if left < len(first):
                self._unsent.appendleft(first[left:])
                break
            left -= len(first)
        return sent

    async def _ready(self, wait: Callable[[trio.socket.SocketType], Awaitable[None]]) -> None:
        try:
            await wait(self._stream.socket)
        except (OSError, trio.ClosedResourceError) as error:
            raise LinkLost(f"connection lost: {error}") from None

    async def _write(self) -> None:
        while True:
            buffers = self.session.packets(SEND_BYTES, SEND_FRAMES)
            if not buffers:
                await self.outbox.wait()
                continue
            await self._send_buffers(buffers, LINK_IDLE_TIMEOUT_S)
            self.traffic.frames_out = self.session.frames_begun
            self.outbox.drained()

    async def _flush(self) -> None:
        await self._send_buffers(self.session.packets(0), LINK_CLOSE_TIMEOUT_S)

    async def _send_buffers(self, buffers: Sequence[bytes | bytearray], timeout_s: float) -> None:
        """Send everything unsent; when cancelled the rest stays, so that `close` can finish the packet at hand."""
        self._unsent.extend(memoryview(buffer) for buffer in buffers if buffer)
        deadline = trio.current_time() + timeout_s
        while self._unsent:
            sent = self._send_now()
            if sent:
                self.traffic.bytes_out += sent
                continue
            with trio.move_on_at(deadline) as scope:
                await self._ready(trio.lowlevel.wait_writable)
            if scope.cancelled_caught:
                raise LinkLost(f"the peer read nothing for {timeout_s:g} s")
        await trio.lowlevel.checkpoint()
