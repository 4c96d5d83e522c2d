"""The keeper: a validator's part in storage. Holds the shards placement assigns to it, and lets go of the rest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import structlog
import trio

from deepshard.disk.chunks import ChunkStore
from deepshard.errors import LocalError, RemoteError
from deepshard.ledger.records import ModelVersion
from deepshard.ledger.state import State
from deepshard.ledger.storage import candidates_of
from deepshard.limits import SHARD_GRACE_BLOCKS, VERSIONS_KEPT
from deepshard.placement import Candidate
from deepshard.services.attendance import Attendance
from deepshard.services.duty import attend
from deepshard.services.placing import Placements
from deepshard.services.shards import ShardExchange
from deepshard.services.shards_disk import DiskThreads
from deepshard.services.view import ChainView
from deepshard.services.weights import Lineage, WeightsRegistry
from deepshard.shards.repair import plan_repairs

_log = structlog.get_logger(__name__)
_DELETED_AT_ONCE: Final = 64
_FETCH_TIMEOUT_S: Final = 300.0
_OLDER_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Holding:
    """Shards of the newest version this node is assigned, and how many of them it holds in full.

    `covering` counts those that it fetches or holds besides, for validators that are away.
    """

    version: int
    assigned: int
    held: int
    covering: int = 0


class _Situation(NamedTuple):
    """All that decides what this node should hold."""

    model: ModelVersion
    candidates: tuple[Candidate, ...]
    away: frozenset[bytes]
    replication: int


class Keeper:
    """Follows the accepted version and the validators: fetches what falls to this node, deletes what is of no more use.

    What falls to it is what placement gives it, in the newest version and the `versions_kept` before; and, while others
    are away, what placement would give it without them. The shards that are nearest to being lost come first. Chunks
    that fell to it once are kept for `grace_blocks` more, also when it is no validator any more, for the others to
    fetch. While a vote, a training or a report needs the whole model, nothing is deleted.
    """

    def __init__(
        self,
        *,
        view: ChainView,
        exchange: ShardExchange,
        registry: WeightsRegistry,
        store: ChunkStore,
        address: bytes,
        attendance: Attendance,
        placements: Placements,
        peers: Callable[[], Collection[bytes]],
        versions_kept: int = VERSIONS_KEPT,
        grace_blocks: int = SHARD_GRACE_BLOCKS,
        look_again_blocks: int = 100,
        disk_threads: int = 1,
    ) -> None:
        """Set up.

        Args:
            peers: addresses of the peers connected now.
            look_again_blocks: after so many blocks it looks at the disk again, though nothing has changed on chain.
            disk_threads: as for `ShardExchange`.
        """
        self._view = view
        self._exchange = exchange
        self._registry = registry
        self._store = store
        self._address = address
        self._attendance = attendance
        self._peers = peers
        self._versions_kept = versions_kept
        self._grace_blocks = grace_blocks
        self._look_again_blocks = look_again_blocks
        self._disk = DiskThreads(disk_threads)
        self._placements = placements
        self._settled: _Situation | None = None
        self._looked_at = 0
        self._wanted: set[bytes] = set()
        self._duties: set[bytes] = set()
        """Chunks that have been wanted since the start."""
        self._released: dict[bytes, int] = {}
        """At what height chunks were first found to be wanted no more."""
        self._tidy_at: int | None = None
        self.holding = Holding(version=-1, assigned=0, held=0)

    async def run(self) -> None:
        """Keep shards for as long as the node runs."""
        await attend("keeper", self._view, self._step)

    async def _step(self) -> bool:
        state, height = self._view.state, self._view.height
        situation = self._situation(state, height)
        if situation != self._settled or height >= self._looked_at + self._look_again_blocks:
            await self._settle(situation, state)
            self._settled, self._looked_at, self._tidy_at = situation, height, height
            return True
        if self._tidy_at is not None and height >= self._tidy_at:
            await self._tidy(height)
        return False

    def _situation(self, state: State, height: int) -> _Situation:
        candidates = candidates_of(state)
        present = {self._address, *self._peers()}
        away = self._attendance.away(height, {each.address for each in candidates}, present)
        return _Situation(state.current_model(), candidates, away, state.params().replication)

    async def _settle(self, situation: _Situation, state: State) -> None:
        model = situation.model
        # Also who holds nothing serves what it still has, and has to know what that is.
        lineage = await self._registry.lineage(model.manifest, version=model.version)
        placed = await self._placed(lineage, situation)
        mine = {number for number, holders in enumerate(placed) if self._address in holders}
        urgency = await self._to_cover(lineage, situation, placed)
        wanted = lineage.chunks_of(sorted(mine | urgency.keys()))
        missing = await self._disk.run(self._missing, wanted)
        held = sum(missing.keys().isdisjoint(lineage.chunks_of([number])) for number in mine)
        self.holding = Holding(model.version, len(mine), held, len(urgency.keys() - mine))
        self._duties.update(wanted)
        if missing:
            _log.info("keeper.fetches", version=model.version, chunks=len(missing), away=len(situation.away))
            order = {chunk: rank for number, rank in urgency.items() for chunk in lineage.chunks_of([number])}
            await self._exchange.fetch({**lineage.files(), **missing}, urgency=order, timeout_s=_FETCH_TIMEOUT_S)
        self.holding = Holding(model.version, len(mine), len(mine), len(urgency.keys() - mine))
        self._wanted = set(wanted) | await self._keep_older(situation, state)
        self._duties.update(self._wanted)
        _log.info(
            "keeper.holds",
            version=model.version,
            shards=len(mine),
            covering=self.holding.covering,
            fetched_chunks=len(missing),
        )

    async def _placed(
        self, lineage: Lineage, situation: _Situation, *, without: Collection[bytes] = ()
    ) -> list[tuple[bytes, ...]]:
        digest, manifest = lineage.manifests[0]
        return await self._placements.of(digest, manifest, situation.candidates, situation.replication, without=without)

    async def _to_cover(
        self, lineage: Lineage, situation: _Situation, placed: list[tuple[bytes, ...]]
    ) -> dict[int, int]:
        """Shards that this node should have, if it had none, with their safety among those that are present.

        The others are taken to have what falls to them.
        """
        wanted = placed
        if situation.away:
            wanted = await self._placed(lineage, situation, without=situation.away)
        candidates = {each.address: each for each in situation.candidates}
        present = candidates.keys() - situation.away
        others = [[address for address in holders if address != self._address] for holders in placed]
        plan = await self._disk.run(plan_repairs, wanted, others, present, candidates)
        urgency = {fetch.shard: fetch.safety for fetch in plan.fetches if fetch.to == self._address}
        # Nobody who is present should have these, but somebody may.
        return urgency | {shard: 0 for shard in plan.lost if self._address in wanted[shard]}

    async def _keep_older(self, situation: _Situation, state: State) -> set[bytes]:
        """Chunks of this node's shards in the versions before the newest; what can't be had is done without."""
        kept: set[bytes] = set()
        newest = situation.model.version
        for version in range(newest - 1, max(-1, newest - 1 - self._versions_kept), -1):
            model = state.model(version)
            if model is None:
                continue
            try:
                lineage = await self._registry.lineage(model.manifest, version=version)
                placed = await self._placed(lineage, situation)
                mine = [number for number, holders in enumerate(placed) if self._address in holders]
                wanted = lineage.chunks_of(mine)
                kept.update(wanted)
                missing = await self._disk.run(self._missing, wanted)
                if missing:
                    await self._exchange.fetch(missing, timeout_s=_OLDER_TIMEOUT_S)
            except (LocalError, RemoteError) as error:
                _log.info("keeper.older_version_incomplete", version=version, error=str(error))
        return kept

    def _missing(self, wanted: Mapping[bytes, int | None]) -> dict[bytes, int | None]:
        return {chunk: size for chunk, size in wanted.items() if not self._store.has(chunk)}

    async def _tidy(self, height: int) -> None:
        running = self._view.state.current_round()
        if running is not None and running.status in {"training", "revealing", "scoring"}:
            return
        left = not any(each.address == self._address for each in candidates_of(self._view.state))
        due: list[bytes] = []
        self._released = {chunk: since for chunk, since in self._released.items() if chunk not in self._wanted}
        for chunk in sorted(self._registry.weight_chunks() - self._wanted):
            # What others count on is kept a while; what a job of this node brought is not.
            grace = self._grace_blocks if left or chunk in self._duties else 0
            if height >= self._released.setdefault(chunk, height) + grace:
                due.append(chunk)
        dropped = 0
        for start in range(0, len(due), _DELETED_AT_ONCE):
            await trio.lowlevel.checkpoint()
            if self._registry.busy:
                return
            for chunk in due[start : start + _DELETED_AT_ONCE]:
                if self._store.has(chunk):
                    self._store.delete(chunk)
                    dropped += 1
        waiting = [since for chunk, since in self._released.items() if chunk not in due]
        self._tidy_at = min(waiting) + self._grace_blocks if waiting else None
        _log.info("keeper.tidied", kept=len(self._wanted), dropped=dropped, in_grace=len(waiting))
