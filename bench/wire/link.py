"""Two processes with a real link between them: `deepshard.net.Network` over loopback TCP, nothing left out.

The receiver counts what it gets and says so now and then; the sender never has more under way than a window of frames.
Times of votes are of the clock that all processes of the machine share.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from deepshard.identity.keys import SecretKey
from deepshard.limits import MIB
from deepshard.net.allocation import keep_freed_memory
from deepshard.net.network import Network
from deepshard.net.types import PeerUp, Received
from deepshard.primitives import content_digest
from deepshard.wire.messages import BlobReply, BlobStatus, HaveReply, ProofReply, ProofRequest, Status, Votes

VOTE_BYTES: Final = 196
"""With its three heads a body of 200 bytes."""
WINDOW_FRAMES: Final = 768
ACK_FRAMES: Final = 64
ACK_BULK_FRAMES: Final = 16
VOTE_EVERY_S: Final = 0.003
CHUNK_BYTES: Final = 4 * MIB
_STAMP: Final = struct.Struct("<Q")
_REPORT: Final = struct.Struct("<Qd")


def _network(number: int, *, listen: str | None, dial: tuple[str, ...] = ()) -> Network:
    key = SecretKey(bytes([number]) * 32)
    return Network(key=key, chain_id="bench", genesis_hash=bytes(32), roles=(), listen=listen, dial=dial)


async def receive() -> None:
    """The receiving process; ends when it is killed."""
    keep_freed_memory()
    network = _network(2, listen="127.0.0.1:0")
    frames = bulk = 0
    latencies: list[int] = []
    async with trio.open_nursery() as nursery:
        listening = await nursery.start(network.run)
        print(listening.rpartition(":")[2], flush=True)
        async for event in network.events:
            if not isinstance(event, Received):
                continue
            now = time.monotonic_ns()
            peer = event.peer.public_key
            match event.message:
                case Votes(votes):
                    frames += 1
                    stamp = _STAMP.unpack_from(votes[0])[0]
                    if stamp:
                        latencies.append(now - stamp)
                    if stamp or frames % ACK_FRAMES == 0:
                        await network.send(peer, Status(frames))
                case BlobReply():
                    assert event.attachment_digest == event.message.digest
                    bulk += 1
                    if bulk % ACK_BULK_FRAMES == 0:
                        await network.send(peer, HaveReply(bulk, b""))
                case ProofRequest(request):
                    value = struct.pack(f"<{len(latencies)}Q", *latencies)
                    report = _REPORT.pack(frames + bulk, time.process_time())
                    await network.send(peer, ProofReply(request, 0, value, report))
                    frames = bulk = 0
                    latencies.clear()
                case _:
                    pass


class LinkSender:
    """The sending side. One measurement at a time."""

    def __init__(self, network: Network, peer: bytes) -> None:
        self._network = network
        self._peer = peer
        self._acknowledged = self._bulk_acknowledged = 0
        self._changed = trio.Event()
        self._reports: list[ProofReply] = []
        self.cpu_s = (0.0, 0.0)
        """Processor time of both sides in the last measurement."""
        self._cpu_before = (0.0, 0.0)
        self._saturating = False

    async def listen(self) -> None:
        async for event in self._network.events:
            if isinstance(event, Received):
                if isinstance(event.message, Status):
                    self._acknowledged = event.message.height
                elif isinstance(event.message, HaveReply):
                    self._bulk_acknowledged = event.message.request
                elif isinstance(event.message, ProofReply):
                    self._reports.append(event.message)
                self._changed.set()
                self._changed = trio.Event()

    async def report(self) -> ProofReply:
        """What the receiver counted since the last time; also begins a new count."""
        await self._network.send(self._peer, ProofRequest(0, b""))
        while not self._reports:
            await self._changed.wait()
        self._acknowledged = self._bulk_acknowledged = 0
        found = self._reports.pop()
        now = (time.process_time(), _REPORT.unpack(found.proof)[1])
        self.cpu_s = (now[0] - self._cpu_before[0], now[1] - self._cpu_before[1])
        self._cpu_before = now
        return found

    async def _until_acknowledged(self, count: int) -> None:
        while self._acknowledged < count:
            await self._changed.wait()

    async def _until_bulk_acknowledged(self, count: int) -> None:
        while self._bulk_acknowledged < count:
            await self._changed.wait()

    async def small_seconds(self, frames: int) -> float:
        """Wall time of so many signed frames with a body of 200 bytes."""
        assert frames % ACK_FRAMES == 0
        await self.report()
        message = Votes((bytes(VOTE_BYTES),))
        started = time.perf_counter()
        for number in range(frames):
            if number % ACK_FRAMES == 0:
                await self._until_acknowledged(number + ACK_FRAMES - WINDOW_FRAMES)
            await self._network.send(self._peer, message)
        await self._until_acknowledged(frames)
        seconds = time.perf_counter() - started
        await self.report()
        return seconds

    async def bulk_seconds(self, mebibytes: int) -> float:
        """Wall time of so many attachments of one mebibyte, as a node sends chunks whose addresses it knows."""
        assert mebibytes % ACK_BULK_FRAMES == 0
        data = os.urandom(MIB)
        digest = content_digest(data)
        await self.report()
        started = time.perf_counter()
        for number in range(mebibytes):
            await self._network.send(self._peer, BlobReply(number, digest, BlobStatus.FOUND), data, digest)
        await self._until_bulk_acknowledged(mebibytes)
        seconds = time.perf_counter() - started
        await self.report()
        return seconds

    async def vote_latencies(self, votes: int, *, saturated: bool) -> list[float]:
        """Seconds from the call that sends a vote to its delivery, one after the other; with a transfer beside."""
        await self.report()
        self._saturating = saturated
        async with trio.open_nursery() as nursery:
            if saturated:
                nursery.start_soon(self._saturate)
                await self._until_bulk_acknowledged(ACK_BULK_FRAMES)
            for number in range(votes):
                await trio.sleep(VOTE_EVERY_S)
                stamp = _STAMP.pack(time.monotonic_ns())
                await self._network.send(self._peer, Votes((stamp + bytes(VOTE_BYTES - len(stamp)),)))
                await self._until_acknowledged(number + 1)
            self._saturating = False
        found = (await self.report()).value
        assert found is not None
        assert len(found) == votes * _STAMP.size
        return [stamp / 1e9 for (stamp,) in _STAMP.iter_unpack(found)]

    async def _saturate(self) -> None:
        """Keep the link full of chunks, and leave when the last one has arrived."""
        data = os.urandom(CHUNK_BYTES)
        digest = content_digest(data)
        sent = 0
        while self._saturating or sent % ACK_BULK_FRAMES:
            await self._network.send(self._peer, BlobReply(0, digest, BlobStatus.FOUND), data, digest)
            sent += 1
        await self._until_bulk_acknowledged(sent)


@asynccontextmanager
async def linked(port: int) -> AsyncIterator[LinkSender]:
    """A link to the receiver at this port."""
    keep_freed_memory()
    network = _network(1, listen=None, dial=(f"127.0.0.1:{port}",))
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        while not isinstance(event := await network.events.receive(), PeerUp):
            pass
        sender = LinkSender(network, event.peer.public_key)
        nursery.start_soon(sender.listen)
        yield sender
        nursery.cancel_scope.cancel()
