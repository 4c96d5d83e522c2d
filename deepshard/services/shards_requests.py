"""Requests for blobs that are on their way, and matching the answers to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import trio

from deepshard.actors import Reply
from deepshard.errors import MalformedMessage
from deepshard.limits import WANT_DIGESTS_MAX
from deepshard.net.types import NetworkPort, Received
from deepshard.wire.messages import BlobReply, BlobRequest, BlobStatus, HaveReply, HaveRequest


@dataclass(frozen=True, slots=True)
class BlobAnswer:
    """What a peer answered to a request for a blob; `data` is unverified, and empty unless it was found."""

    status: BlobStatus
    data: bytes


@dataclass(frozen=True, slots=True)
class _Have:
    peer: bytes
    digests: tuple[bytes, ...]
    reply: Reply[list[bytes] | None]


@dataclass(frozen=True, slots=True)
class _Blob:
    peer: bytes
    digest: bytes
    reply: Reply[BlobAnswer | None]


class Requests:
    """Asks peers and waits for their answers. An answer that nobody waits for any more is dropped."""

    def __init__(self, network: NetworkPort) -> None:
        self._network = network
        self._numbers = count(1)
        self._pending: dict[int, _Have | _Blob] = {}

    async def have(self, peer: bytes, digests: Sequence[bytes], *, timeout_s: float) -> list[bytes] | None:
        """Which of the digests (at most `WANT_DIGESTS_MAX`) the peer would serve us; None if it doesn't say."""
        assert len(digests) <= WANT_DIGESTS_MAX
        number = next(self._numbers)
        pending = self._pending[number] = _Have(peer, tuple(digests), Reply())
        try:
            with trio.move_on_after(timeout_s):
                if await self._network.send(peer, HaveRequest(number, pending.digests)):
                    return await pending.reply.get()
            return None
        finally:
            self._pending.pop(number, None)

    async def blob(self, peer: bytes, digest: bytes) -> BlobAnswer | None:
        """The peer's answer for a blob, however late; None if the peer goes, or answers nonsense."""
        number = next(self._numbers)
        pending = self._pending[number] = _Blob(peer, digest, Reply())
        try:
            if await self._network.send(peer, BlobRequest(number, digest)):
                return await pending.reply.get()
            return None
        finally:
            self._pending.pop(number, None)

    def receive(self, event: Received) -> None:
        """Take a `HaveReply` or `BlobReply`."""
        message = event.message
        assert isinstance(message, HaveReply | BlobReply)
        pending = self._pending.get(message.request)
        if pending is None or pending.peer != event.peer.public_key:
            return
        del self._pending[message.request]
        if isinstance(pending, _Have) and isinstance(message, HaveReply):
            pending.reply.set(self._read_bitmap(pending, message))
        elif isinstance(pending, _Blob) and isinstance(message, BlobReply):
            pending.reply.set(self._read_blob(pending, message, event.attachment))
        else:
            self._blame(pending.peer, f"{type(message).__name__} answers a request of another kind")
            pending.reply.set(None)

    def peer_gone(self, peer: bytes) -> None:
        """The peer is disconnected: its answers won't come."""
        for number, pending in list(self._pending.items()):
            if pending.peer == peer:
                del self._pending[number]
                pending.reply.set(None)

    def _read_bitmap(self, pending: _Have, message: HaveReply) -> list[bytes] | None:
        bits = int.from_bytes(message.bitmap, "little")
        if len(message.bitmap) != -(-len(pending.digests) // 8) or bits >> len(pending.digests):
            self._blame(pending.peer, f"bitmap of {len(message.bitmap)} bytes for {len(pending.digests)} digests")
            return None
        return [digest for position, digest in enumerate(pending.digests) if bits >> position & 1]

    def _read_blob(self, pending: _Blob, message: BlobReply, attachment: bytes) -> BlobAnswer | None:
        if message.digest != pending.digest:
            self._blame(pending.peer, f"asked for blob {pending.digest.hex()}, got {message.digest.hex()}")
            return None
        if message.status is not BlobStatus.FOUND and attachment:
            self._blame(pending.peer, f"{message.status.name} with an attachment of {len(attachment)} bytes")
            return None
        return BlobAnswer(message.status, attachment)

    def _blame(self, peer: bytes, fact: str) -> None:
        self._network.penalise(peer, MalformedMessage(fact))
