"""Hands over whole states, chunk by chunk, to nodes that join: the newest at multiples of the snapshot interval.

A state that somebody is fetching stays on offer until it isn't asked for any more: whoever is slow ends, too.
"""

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
LENT_S = 300.0
"""A state is lent for so long after it was last asked for, though newer ones have taken its place."""
LENT_MAX = 4
"""States lent beyond the newest ones; those asked for last stay."""
LENT_INTERVALS_MAX = 16
"""Snapshot intervals that a lent state may be behind: nobody keeps one alive for ever."""
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
        self._lent: dict[int, tuple[float, State]] = {}
        """States by height that were asked for, and when last."""
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
        newest = {height for height in offered if height in self._view.handed_over or height in stored}
        self._call_in()
        return tuple(sorted(newest | self._lent.keys()))

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
        state = self._on_offer(height)
        if state is not None:
            self._lent[height] = (trio.current_time(), state)
        self._call_in()
        return state

    def _call_in(self) -> None:
        """Forget lent states that nobody asks for any more, or that are too many or too old."""
        newest = handed_over_heights(self._view.height, self._interval)
        now, oldest = trio.current_time(), self._view.height - LENT_INTERVALS_MAX * self._interval
        fresh = {at: lent for at, lent in self._lent.items() if now - lent[0] < LENT_S and at >= oldest}
        beyond = sorted((at for at in fresh if at not in newest), key=lambda at: fresh[at][0])[:-LENT_MAX]
        self._lent = {at: lent for at, lent in fresh.items() if at not in beyond}

    def _on_offer(self, height: int) -> State | None:
        if height not in handed_over_heights(self._view.height, self._interval):
            self._call_in()
            return self._lent[height][1] if height in self._lent else None
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
