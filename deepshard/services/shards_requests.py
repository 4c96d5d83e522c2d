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
from deepshard.shards.swarm import Part
from deepshard.wire.messages import (
    BlobReply,
    BlobRequest,
    BlobStatus,
    HaveReply,
    HaveRequest,
    RangeReply,
    RangeRequest,
)

ExchangeReply = HaveReply | BlobReply | RangeReply


@dataclass(frozen=True, slots=True)
class BlobAnswer:
    """What a peer answered to a request for a blob; `data` is unverified, and empty unless it was found."""

    status: BlobStatus
    data: bytes
    address: bytes = b""
    """Content address of `data`, where the link has verified it already; empty elsewhere."""


@dataclass(frozen=True, slots=True)
class RangeAnswer:
    """What a peer answered to a request for blocks; all but `leaves` is unverified, and empty unless it was found."""

    status: BlobStatus
    data: bytes
    size: int
    proof: tuple[bytes, ...]
    leaves: tuple[bytes, ...] = ()
    """Hashes of the blocks in `data`, where the link has computed them already."""


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


@dataclass(frozen=True, slots=True)
class _Range:
    peer: bytes
    part: Part
    reply: Reply[RangeAnswer | None]


class Requests:
    """Asks peers and waits for their answers. An answer that nobody waits for any more is dropped."""

    def __init__(self, network: NetworkPort) -> None:
        self._network = network
        self._numbers = count(1)
        self._pending: dict[int, _Have | _Blob | _Range] = {}

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

    async def blocks(self, peer: bytes, part: Part) -> RangeAnswer | None:
        """The peer's answer for a range of blocks, as `blob`."""
        number = next(self._numbers)
        pending = self._pending[number] = _Range(peer, part, Reply())
        try:
            if await self._network.send(peer, RangeRequest(number, part.digest, part.first, part.blocks)):
                return await pending.reply.get()
            return None
        finally:
            self._pending.pop(number, None)

    def receive(self, event: Received) -> None:
        """Take an answer."""
        message = event.message
        assert isinstance(message, ExchangeReply)
        pending = self._pending.get(message.request)
        if pending is None or pending.peer != event.peer.public_key:
            return
        del self._pending[message.request]
        if isinstance(pending, _Have) and isinstance(message, HaveReply):
            pending.reply.set(self._read_bitmap(pending, message))
        elif isinstance(pending, _Blob) and isinstance(message, BlobReply):
            pending.reply.set(self._read_blob(pending, message, event))
        elif isinstance(pending, _Range) and isinstance(message, RangeReply):
            pending.reply.set(self._read_range(pending, message, event))
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

    def _read_blob(self, pending: _Blob, message: BlobReply, event: Received) -> BlobAnswer | None:
        if message.digest != pending.digest:
            self._blame(pending.peer, f"asked for blob {pending.digest.hex()}, got {message.digest.hex()}")
            return None
        if message.status is not BlobStatus.FOUND and event.attachment:
            self._blame(pending.peer, f"{message.status.name} with an attachment of {len(event.attachment)} bytes")
            return None
        return BlobAnswer(message.status, event.attachment, event.attachment_digest if event.attachment else b"")

    def _read_range(self, pending: _Range, message: RangeReply, event: Received) -> RangeAnswer | None:
        part = pending.part
        if (message.digest, message.first_block) != (part.digest, part.first):
            self._blame(
                pending.peer,
                f"asked for blob {part.digest.hex()} from block {part.first} on,"
                f" got {message.digest.hex()} from block {message.first_block} on",
            )
            return None
        if message.status is not BlobStatus.FOUND and (event.attachment or message.size or message.proof):
            self._blame(
                pending.peer,
                f"{message.status.name} with an attachment of {len(event.attachment)} bytes,"
                f" size {message.size} and a proof of {len(message.proof)} hashes",
            )
            return None
        return RangeAnswer(message.status, event.attachment, message.size, message.proof, event.attachment_leaves)

    def _blame(self, peer: bytes, fact: str) -> None:
        self._network.penalise(peer, MalformedMessage(fact))
