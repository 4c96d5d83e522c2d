"""Serving blobs and ranges: a few at a time to each peer, to those who may have them, and never a corrupt one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog
import trio

from deepshard.disk.chunks import ChunkStore, MissingBlob
from deepshard.errors import DiskCorruption, LocalError, MalformedMessage
from deepshard.net.types import NetworkPort, PeerInfo
from deepshard.primitives import content_address
from deepshard.ranges import range_proof
from deepshard.services.shards_disk import DiskThreads
from deepshard.shards.rates import RateCap
from deepshard.wire.messages import (
    BlobReply,
    BlobRequest,
    BlobStatus,
    HaveReply,
    HaveRequest,
    RangeReply,
    RangeRequest,
)

_log = structlog.get_logger(__name__)

_CAPPED_WAIT_S_MAX = 10.0
"""Below the half of a request's time-out after which others are asked as well."""

MayFetch = Callable[[PeerInfo, bytes], bool]
ExchangeRequest = HaveRequest | BlobRequest | RangeRequest


@dataclass(frozen=True, slots=True)
class _Found:
    """What a request for a blob or for blocks of it comes to; the last four only if it is found."""

    status: BlobStatus
    data: bytes = b""
    address: bytes = b""
    """Content address of `data`."""
    size: int = 0
    """Of the whole blob."""
    proof: tuple[bytes, ...] = ()


class _Counter:
    """What one peer has us do: requests being answered, and the slots they wait for."""

    def __init__(self, slots: int) -> None:
        self.open = 0
        self.slots = trio.Semaphore(slots)


class Uploads:
    """Answers `HaveRequest`, `BlobRequest` and `RangeRequest`.

    A peer gets `slots` blobs or ranges read and sent at once; `waiting_max` more of its requests wait, and any beyond
    are answered `BUSY`, so that memory is bounded and no peer holds up another.
    """

    def __init__(
        self,
        network: NetworkPort,
        store: ChunkStore,
        may_fetch: MayFetch,
        *,
        slots: int,
        waiting_max: int,
        disk: DiskThreads,
        cap: RateCap,
        on_served: Callable[[bytes, int], None],
        on_corrupt: Callable[[bytes], None],
    ) -> None:
        self._network = network
        self._store = store
        self._may_fetch = may_fetch
        self._slots = slots
        self._open_max = slots + waiting_max
        self._disk = disk
        self._cap = cap
        self._on_served = on_served
        self._on_corrupt = on_corrupt
        self._counters: dict[bytes, _Counter] = {}

    async def serve(self, peer: PeerInfo, request: ExchangeRequest) -> None:
        """Answer one request; run in a task of its own."""
        counter = self._counters.setdefault(peer.public_key, _Counter(self._slots))
        counter.open += 1
        try:
            if counter.open > self._open_max:
                await self._decline(peer, request)
                return
            async with counter.slots:
                if isinstance(request, HaveRequest):
                    await self._serve_have(peer, request)
                else:
                    await self._serve_data(peer, request)
        finally:
            counter.open -= 1
            if counter.open == 0:
                self._counters.pop(peer.public_key, None)

    def is_flooded(self, peer: bytes) -> bool:
        """Whether so many requests of the peer are open that even saying BUSY has to wait: drop them."""
        counter = self._counters.get(peer)
        return counter is not None and counter.open >= 2 * self._open_max

    async def _decline(self, peer: PeerInfo, request: ExchangeRequest) -> None:
        # A question what we have isn't answered at all: no answer means to ask later, an empty bitmap would not.
        if not isinstance(request, HaveRequest):
            await self._answer(peer, request, _Found(BlobStatus.BUSY))

    async def _serve_have(self, peer: PeerInfo, request: HaveRequest) -> None:
        def present() -> list[bool]:
            return [self._store.has(digest) for digest in request.digests]

        try:
            stored = await self._disk.run(present)
        except LocalError as error:
            _log.error("chunk.unreadable", error=str(error))
            return
        bits = sum(
            1 << position
            for position, (digest, is_stored) in enumerate(zip(request.digests, stored, strict=True))
            if is_stored and self._may_fetch(peer, digest)
        )
        bitmap = bits.to_bytes(-(-len(request.digests) // 8), "little")
        await self._network.send(peer.public_key, HaveReply(request.request, bitmap))

    async def _serve_data(self, peer: PeerInfo, request: BlobRequest | RangeRequest) -> None:
        may_fetch = self._may_fetch(peer, request.digest)
        try:
            found = await self._disk.run(self._read, request, may_fetch)
        except MalformedMessage as error:
            self._network.penalise(peer.public_key, error)
            return
        except MissingBlob:
            found = _Found(BlobStatus.NOT_FOUND)
        except DiskCorruption as error:
            _log.warning("chunk.corrupt", digest=request.digest.hex(), error=str(error))
            self._on_corrupt(request.digest)
            found = _Found(BlobStatus.NOT_FOUND)
        except LocalError as error:
            _log.error("chunk.unreadable", digest=request.digest.hex(), error=str(error))
            found = _Found(BlobStatus.BUSY)
        if found.status is BlobStatus.FOUND and not await self._its_turn(len(found.data)):
            found = _Found(BlobStatus.BUSY)
        sent = await self._answer(peer, request, found)
        if sent and found.status is BlobStatus.FOUND:
            self._on_served(peer.public_key, len(found.data))
            _log.debug("chunk.served", digest=request.digest.hex(), peer=peer.remote, bytes=len(found.data))

    async def _its_turn(self, size: int) -> bool:
        """Wait as the cap demands; False if that is so long that the peer had better ask another."""
        now = trio.current_time()
        wait_s = self._cap.wait_s(now, size)
        if wait_s > _CAPPED_WAIT_S_MAX:
            return False
        self._cap.spend(size, now)
        await trio.sleep(wait_s)
        return True

    async def _answer(self, peer: PeerInfo, request: BlobRequest | RangeRequest, found: _Found) -> bool:
        reply: BlobReply | RangeReply
        if isinstance(request, BlobRequest):
            reply = BlobReply(request.request, request.digest, found.status)
        else:
            reply = RangeReply(
                request.request, request.digest, found.status, found.size, request.first_block, found.proof
            )
        return await self._network.send(peer.public_key, reply, found.data, found.address or None)

    def _read(self, request: BlobRequest | RangeRequest, may_fetch: bool) -> _Found:  # noqa: FBT001  # called by a thread
        if not self._store.has(request.digest):
            return _Found(BlobStatus.NOT_FOUND)
        if not may_fetch:
            return _Found(BlobStatus.NOT_LICENSED)
        if isinstance(request, BlobRequest):
            data = self._store.get(request.digest)
            return _Found(BlobStatus.FOUND, data, request.digest, len(data))
        first = request.first_block
        leaves, data = self._store.get_range(request.digest, first, request.block_count)
        if first >= len(leaves.hashes):
            raise MalformedMessage(f"asks for block {first} of a blob that has {len(leaves.hashes)}")
        count = min(request.block_count, len(leaves.hashes) - first)
        address = content_address(len(data), leaves.hashes[first : first + count])
        return _Found(BlobStatus.FOUND, data, address, leaves.size, range_proof(leaves.hashes, first, count))
