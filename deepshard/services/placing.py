"""Which shards fall to whom (chapter 8.10), computed beside the event loop."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from deepshard.placement import Candidate, place
from deepshard.services.shards_disk import DiskThreads
from deepshard.shards.layout import shard_keys
from deepshard.shards.manifest import Manifest

_REMEMBERED_MAX: Final = 8


class Placements:
    """Placements of manifests, remembered: a large one takes seconds, so it is computed beside the event loop."""

    def __init__(self, threads: DiskThreads) -> None:
        self._threads = threads
        self._known: dict[tuple[bytes, tuple[Candidate, ...], int], list[tuple[bytes, ...]]] = {}

    async def of(
        self,
        digest: bytes,
        manifest: Manifest,
        candidates: tuple[Candidate, ...],
        replication: int,
        *,
        without: Collection[bytes] = (),
    ) -> list[tuple[bytes, ...]]:
        """Holders of each shard of a manifest, as if the addresses in `without` were no candidates."""
        able = tuple(each for each in candidates if each.address not in without)
        key = (digest, able, replication)
        if key not in self._known:
            placed = await self._threads.run(place, shard_keys(manifest), able, replication)
            while len(self._known) >= _REMEMBERED_MAX:
                del self._known[next(iter(self._known))]
            self._known[key] = placed
        return self._known[key]
