"""One link: a TCP stream, the session that gives its bytes a meaning, and the queue of what leaves by it."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio

from deepshard.errors import RemoteError
from deepshard.limits import KIB, LINK_CLOSE_TIMEOUT_S, LINK_IDLE_TIMEOUT_S, MIB
from deepshard.net.outbox import Outbox
from deepshard.wire.frames import Payload, prepare
from deepshard.wire.messages import Goodbye
from deepshard.wire.session import Answer, Established, Event, Failed, MessageReceived, PeerLeft, Session

RECEIVE_BYTES: Final = 256 * KIB
LINGER_BYTES_MAX: Final = 16 * MIB

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


class Link:
    """Drives one session over one stream. First `handshake`, then `run`, and `close` whatever happened."""

    def __init__(self, stream: trio.SocketStream, session: Session) -> None:
        self.session = session
        self.outbox = Outbox()
        self.traffic = Traffic()
        self.gone = trio.Event()
        """Set by the network when everyone was told that the link is down."""
        self._stream = stream
        # recv_into one buffer for the life of the link: receive_some would allocate anew for every call.
        self._received = bytearray(RECEIVE_BYTES)
        self._scope = trio.CancelScope()
        self._early: list[Event] = []
        self._error: RemoteError | None = None
        self._peer_left = False
        self._unsent: deque[memoryview] = deque()
        """Sealed and not yet taken by the kernel: what follows on the link must follow this."""

    async def handshake(self) -> None:
        """Exchange the handshake's messages until the session is established.

        Raises:
            RemoteError: refused, failed, too slow, or the connection was lost.
        """
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
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_error, self._write)
                await self._until_error(self._read, deliver)
        return self._error

    def end(self, error: RemoteError | None = None) -> None:
        """Make `run` return `error`, or what ended the link before."""
        if not self._scope.cancel_called:
            self._error = error
        self.outbox.close()
        self._scope.cancel()

    async def close(self, reason: str = "") -> None:
        """Say Goodbye with `reason` if one is given and a frame may still be sent, and close; bounded in time."""
        self.outbox.close()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + LINK_CLOSE_TIMEOUT_S):
            try:
                if reason and not self._peer_left:
                    await self._send_payloads([prepare(Goodbye(reason[:200]))])
                await self._linger()
            except (LinkLost, OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                self._peer_left = True  # nobody is left to be told anything
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

    async def _read(self, deliver: Deliver) -> None:
        events, self._early = self._early, []
        while True:
            for event in events:
                match event:
                    case MessageReceived():
                        self.traffic.frames_in += 1
                        await deliver(event)
                    case Answer(message):
                        if not self.outbox.offer(prepare(message)):
                            raise LinkLost("outbound queue full: the peer asks faster than it reads")
                    case PeerLeft(reason):
                        self._peer_left = True
                        raise LinkLost(f"the peer left: {reason}")
                    case Failed(error):
                        raise error
                    case Established():
                        raise AssertionError("a session is established once")
            self.session.resume(trio.current_time())
            events = await self._arrivals()

    async def _arrivals(self) -> list[Event]:
        """Events of the next bytes, or of the timer that came first."""
        received = None
        with trio.move_on_at(self.session.next_deadline()):
            try:
                received = await self._stream.socket.recv_into(self._received)
            except (OSError, trio.ClosedResourceError) as error:
                raise LinkLost(f"connection lost: {error}") from None
        now = trio.current_time()
        if received is None:
            return self.session.handle_timer(now)
        if received == 0:
            self._peer_left = True
            raise LinkLost("connection closed by the other side")
        self.traffic.bytes_in += received
        with memoryview(self._received) as view:
            return self.session.receive(view[:received], now)

    async def _write(self) -> None:
        while True:
            await self._send_payloads(await self.outbox.take())

    async def _send_payloads(self, payloads: list[Payload]) -> None:
        """Seal and send; small frames leave in one call, an attachment is never copied."""
        buffers: list[bytes] = []
        for payload in payloads:
            buffers.extend(self.session.send_payload(payload))
        if len(payloads) > 1:
            buffers = [b"".join(buffers)]
        await self._send_buffers(buffers, LINK_IDLE_TIMEOUT_S)
        self.traffic.frames_out += len(payloads)

    async def _flush(self) -> None:
        await self._send_buffers([self.session.bytes_to_send()], LINK_CLOSE_TIMEOUT_S)

    async def _send_buffers(self, buffers: list[bytes], timeout_s: float) -> None:
        """Send everything unsent; when cancelled the rest stays, so that `close` can finish the frame at hand."""
        self._unsent.extend(memoryview(buffer) for buffer in buffers if buffer)
        try:
            with trio.fail_after(timeout_s):
                while self._unsent:
                    sent = await self._stream.socket.send(self._unsent[0])
                    self.traffic.bytes_out += sent
                    rest = self._unsent.popleft()[sent:]
                    if rest:
                        self._unsent.appendleft(rest)
        except trio.TooSlowError:
            raise LinkLost(f"the peer read nothing for {timeout_s:g} s") from None
        except (OSError, trio.ClosedResourceError) as error:
            raise LinkLost(f"connection lost: {error}") from None
