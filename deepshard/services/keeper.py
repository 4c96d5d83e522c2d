"""The keeper: a validator's part in storage. Holds the shards placement assigns to it, and lets go of the rest."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from deepshard.disk.chunks import ChunkStore
from deepshard.services.duty import attend
from deepshard.services.placing import candidates_of
from deepshard.services.shards import ShardExchange
from deepshard.services.view import ChainView
from deepshard.services.weights import Lineage, WeightsRegistry
from deepshard.shards.placement import Candidate, place, shard_keys

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Holding:
    """Shards of the newest version this node is assigned, and how many of them it holds in full."""

    version: int
    assigned: int
    held: int


class Keeper:
    """Follows the accepted version: fetches the assigned shards' chunks, then deletes weight chunks of no further use.

    While a vote, a training or a report needs the whole model, nothing is deleted.
    """

    def __init__(
        self, *, view: ChainView, exchange: ShardExchange, registry: WeightsRegistry, store: ChunkStore, address: bytes
    ) -> None:
        self._view = view
        self._exchange = exchange
        self._registry = registry
        self._store = store
        self._address = address
        self._tidied: tuple[int, bytes] | None = None
        self.holding = Holding(version=-1, assigned=0, held=0)

    async def run(self) -> None:
        """Keep shards for as long as the node runs."""
        await attend("keeper", self._view, self._step)

    async def _step(self) -> bool:
        state = self._view.state
        model = state.current_model()
        candidates = candidates_of(state)
        if not any(each.address == self._address for each in candidates):
            return False
        current = (model.version, model.manifest)
        if self.holding.version == model.version and self.holding.held == self.holding.assigned:
            return self._tidied != current and self._tidy(current, candidates, state.params().replication)
        lineage = await self._registry.lineage(model.manifest, version=model.version)
        mine = self._assigned(lineage, candidates, state.params().replication)
        missing = {chunk: size for chunk, size in lineage.chunks_of(mine).items() if not self._store.has(chunk)}
        if missing:
            self.holding = Holding(model.version, len(mine), self.holding.held if self.holding.version >= 0 else 0)
            await self._exchange.fetch({**lineage.files(), **missing}, timeout_s=300.0)
        self.holding = Holding(model.version, len(mine), len(mine))
        _log.info("keeper.holds", version=model.version, shards=len(mine), fetched_chunks=len(missing))
        return True

    def _tidy(self, current: tuple[int, bytes], candidates: tuple[Candidate, ...], replication: int) -> bool:
        if self._registry.busy:
            return False
        running = self._view.state.current_round()
        if running is not None and running.status in {"training", "revealing", "scoring"}:
            return False
        lineage = self._registry.known_lineage(current[1])
        keep = lineage.chunks_of(self._assigned(lineage, candidates, replication))
        dropped = [
            digest for digest in self._registry.weight_chunks() if digest not in keep and self._store.has(digest)
        ]
        for digest in dropped:
            self._store.delete(digest)
        self._tidied = current
        _log.info("keeper.tidied", version=current[0], kept=len(keep), dropped=len(dropped))
        return False

    def _assigned(self, lineage: Lineage, candidates: tuple[Candidate, ...], replication: int) -> list[int]:
        placed = place(shard_keys(lineage.newest), candidates, replication)
        return [number for number, held_by in enumerate(placed) if self._address in held_by]
