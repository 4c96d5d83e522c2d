"""Serving blobs: a few at a time to each peer, to those who may have them, and never a corrupt one."""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio

from deepshard.disk.chunks import ChunkStore, MissingBlob
from deepshard.errors import DiskCorruption, LocalError
from deepshard.net.types import NetworkPort, PeerInfo
from deepshard.services.shards_disk import DiskThreads
from deepshard.wire.messages import BlobReply, BlobRequest, BlobStatus, HaveReply, HaveRequest

_log = structlog.get_logger(__name__)

MayFetch = Callable[[PeerInfo, bytes], bool]


class _Counter:
    """What one peer has us do: requests being answered, and the slots they wait for."""

    def __init__(self, slots: int) -> None:
        self.open = 0
        self.slots = trio.Semaphore(slots)


class Uploads:
    """Answers `HaveRequest` and `BlobRequest`.

    A peer gets `slots` blobs read and sent at once; `waiting_max` more of its requests wait, and any beyond are
    answered `BUSY`, so that memory is bounded and no peer holds up another.
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
        on_served: Callable[[bytes, int], None],
        on_corrupt: Callable[[bytes], None],
    ) -> None:
        self._network = network
        self._store = store
        self._may_fetch = may_fetch
        self._slots = slots
        self._open_max = slots + waiting_max
        self._disk = disk
        self._on_served = on_served
        self._on_corrupt = on_corrupt
        self._counters: dict[bytes, _Counter] = {}

    async def serve(self, peer: PeerInfo, request: HaveRequest | BlobRequest) -> None:
        """Answer one request; run in a task of its own."""
        counter = self._counters.setdefault(peer.public_key, _Counter(self._slots))
        counter.open += 1
        try:
            if counter.open > self._open_max:
                await self._decline(peer, request)
                return
            async with counter.slots:
                if isinstance(request, BlobRequest):
                    await self._serve_blob(peer, request)
                else:
                    await self._serve_have(peer, request)
        finally:
            counter.open -= 1
            if counter.open == 0:
                self._counters.pop(peer.public_key, None)

    def is_flooded(self, peer: bytes) -> bool:
        """Whether so many requests of the peer are open that even saying BUSY has to wait: drop them."""
        counter = self._counters.get(peer)
        return counter is not None and counter.open >= 2 * self._open_max

    async def _decline(self, peer: PeerInfo, request: HaveRequest | BlobRequest) -> None:
        # A question what we have isn't answered at all: no answer means to ask later, an empty bitmap would not.
        if isinstance(request, BlobRequest):
            await self._network.send(peer.public_key, BlobReply(request.request, request.digest, BlobStatus.BUSY))

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

    async def _serve_blob(self, peer: PeerInfo, request: BlobRequest) -> None:
        may_fetch = self._may_fetch(peer, request.digest)
        try:
            status, data = await self._disk.run(self._read, request.digest, may_fetch)
        except MissingBlob:
            status, data = BlobStatus.NOT_FOUND, b""
        except DiskCorruption as error:
            _log.warning("chunk.corrupt", digest=request.digest.hex(), error=str(error))
            self._on_corrupt(request.digest)
            status, data = BlobStatus.NOT_FOUND, b""
        except LocalError as error:
            _log.error("chunk.unreadable", digest=request.digest.hex(), error=str(error))
            status, data = BlobStatus.BUSY, b""
        sent = await self._network.send(peer.public_key, BlobReply(request.request, request.digest, status), data)
        if sent and status is BlobStatus.FOUND:
            self._on_served(peer.public_key, len(data))
            _log.debug("chunk.served", digest=request.digest.hex(), peer=peer.remote, bytes=len(data))

    def _read(self, digest: bytes, may_fetch: bool) -> tuple[BlobStatus, bytes]:  # noqa: FBT001  # called by a thread
        if not self._store.has(digest):
            return BlobStatus.NOT_FOUND, b""
        if not may_fetch:
            return BlobStatus.NOT_LICENSED, b""
        return BlobStatus.FOUND, self._store.get(digest)
