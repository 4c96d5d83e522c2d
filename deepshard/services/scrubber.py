"""The scrubber: reads what is stored from time to time, so that what rots is found while others still have it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog
import trio

from deepshard.disk.chunks import ChunkStore, MissingBlob
from deepshard.errors import DiskCorruption, LocalError
from deepshard.limits import SCRUB_BYTES_PER_S, SCRUB_PAUSE_S
from deepshard.services.shards_disk import DiskThreads

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class ScrubStats:
    """Since the start: passes over the whole store, bytes read, blobs that weren't what their names say."""

    passes: int = 0
    bytes: int = 0
    corrupt: int = 0


class Scrubber:
    """Verifies every blob of a store, one after the other, slowly and over again."""

    def __init__(
        self,
        store: ChunkStore,
        repair: Callable[[bytes], None],
        *,
        first: bytes = bytes(32),
        bytes_per_s: int = SCRUB_BYTES_PER_S,
        pause_s: float = SCRUB_PAUSE_S,
        disk_threads: int = 1,
    ) -> None:
        """Set up.

        Args:
            repair: told of each blob that was corrupt, and was moved aside.
            first: address to begin at. A node that is often restarted should give another each time.
            bytes_per_s: what is read in the long run.
            pause_s: between two passes.
            disk_threads: as for `ShardExchange`.
        """
        self.stats = ScrubStats()
        self._store = store
        self._repair = repair
        self._first = first
        self._bytes_per_s = bytes_per_s
        self._pause_s = pause_s
        self._disk = DiskThreads(disk_threads)

    async def run(self) -> None:
        """Scrub until cancelled."""
        while True:
            try:
                await self._pass()
            except LocalError as error:
                _log.warning("scrub.failed", error=str(error))
            await trio.sleep(self._pause_s)

    async def _pass(self) -> None:
        digests = await self._disk.run(self._store.digests)
        for digest in sorted(digests, key=lambda each: (each < self._first, each)):
            try:
                size = len(await self._disk.run(self._store.get, digest))
            except MissingBlob:
                continue
            except DiskCorruption as error:
                _log.warning("chunk.corrupt", digest=digest.hex(), error=str(error))
                self.stats.corrupt += 1
                self._repair(digest)
                continue
            self.stats.bytes += size
            await trio.sleep(size / self._bytes_per_s)
        self.stats.passes += 1
