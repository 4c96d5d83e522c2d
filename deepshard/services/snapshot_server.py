"""Hands over whole states, chunk by chunk, to nodes that join: the newest at multiples of the snapshot interval."""

from __future__ import annotations

from collections import Counter

import structlog
import trio

from deepshard.actors import Mailbox
from deepshard.consensus.types import Block
from deepshard.disk.chain import ChainStore
from deepshard.encoding import decode, encode
from deepshard.errors import DiskCorruption, RemoteError
from deepshard.ledger.state import State
from deepshard.limits import BLOCK_BYTES_MAX
from deepshard.net.types import NetworkPort, PeerInfo, Received
from deepshard.services.executor import HANDED_OVER, handed_over_heights
from deepshard.services.view import ChainView
from deepshard.wire.messages import SnapshotChunk, SnapshotChunkRequest, Snapshots, SnapshotsRequest

_log = structlog.get_logger(__name__)
CHUNKS_PER_PEER = 4
"""Chunks sent to one peer at a time; what it asks for beyond is dropped, and it asks again or elsewhere."""


class SnapshotServer:
    """Answers from the states in memory; after a restart, from those on disk.

    A chunk is sent in a task of its own, since it is bulk and waits for room: no slow peer holds up another.
    """

    def __init__(self, *, view: ChainView, store: ChainStore, network: NetworkPort, interval: int) -> None:
        """Serve what `view` hands over; `interval` is `snapshot_interval`."""
        self._view = view
        self._store = store
        self._network = network
        self._interval = interval
        self._loaded: dict[int, State] = {}
        self._sending: Counter[bytes] = Counter()
        self.mailbox: Mailbox[Received] = Mailbox()

    async def run(self) -> None:
        """Answer until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                event = await self.mailbox.get()
                peer = event.peer
                match event.message:
                    case SnapshotsRequest(request=request):
                        await self._network.send(peer.public_key, Snapshots(request, self._heights()))
                    case SnapshotChunkRequest() as request if self._sending[peer.public_key] < CHUNKS_PER_PEER:
                        self._sending[peer.public_key] += 1
                        nursery.start_soon(self._send_chunk, peer, request)
                    case SnapshotChunkRequest():
                        _log.debug("snapshot.busy", peer=peer.remote)
                    case _:
                        error = RemoteError(f"{type(event.message).__name__} is not a question for a snapshot")
                        self._network.penalise(peer.public_key, error)

    def _heights(self) -> tuple[int, ...]:
        stored = self._store.snapshot_heights()
        offered = handed_over_heights(self._view.height, self._interval)
        return tuple(height for height in offered if height in self._view.handed_over or height in stored)

    async def _send_chunk(self, peer: PeerInfo, request: SnapshotChunkRequest) -> None:
        try:
            state = self._state(request.height)
            chunk = None if state is None else encode(state.chunk(request.cursor))
            await self._network.send(peer.public_key, SnapshotChunk(request.request, chunk))
        finally:
            self._sending[peer.public_key] -= 1
            if not self._sending[peer.public_key]:
                del self._sending[peer.public_key]

    def _state(self, height: int) -> State | None:
        if height not in handed_over_heights(self._view.height, self._interval):
            return None
        state = self._view.handed_over.get(height) or self._loaded.get(height)
        if state is None and (state := self._load(height)) is not None:
            newest = sorted({**self._loaded, height: state})[-HANDED_OVER:]
            self._loaded = {at: known for at, known in {**self._loaded, height: state}.items() if at in newest}
        return state

    def _load(self, height: int) -> State | None:
        """A state from disk; None if there is none, or it is damaged."""
        try:
            stored, snapshot = self._store.block(height), self._store.snapshot_at(height)
            if stored is None or snapshot is None:
                return None
            state = State.load(snapshot)
        except DiskCorruption as error:
            _log.error("snapshot.unreadable", height=height, error=str(error))
            return None
        if state.root != decode(stored.block, Block, bytes_max=BLOCK_BYTES_MAX).header.state_root:
            _log.error("snapshot.unreadable", height=height, error="its root is not that of the header")
            return None
        return state
