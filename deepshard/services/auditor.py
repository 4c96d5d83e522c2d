"""The auditor: a validator's part in storage audits. Answers what it is asked, and shows what nobody answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from deepshard.chunk_tree import ShardChunks, leaf_path
from deepshard.disk.chunks import ChunkStore, MissingBlob
from deepshard.errors import DiskCorruption, UsageError
from deepshard.ledger.audits import drawn_block, due_holders
from deepshard.ledger.records import Audit, AuditedShard
from deepshard.ledger.state import State
from deepshard.ledger.transactions import AnswerAudit, ShowAudit
from deepshard.primitives import tagged_hash
from deepshard.ranges import range_proof
from deepshard.services.duty import attend
from deepshard.services.shards_disk import DiskThreads
from deepshard.services.view import ChainView
from deepshard.services.wallet import Wallet
from deepshard.services.weights import WeightsRegistry

_log = structlog.get_logger(__name__)
LAST_BLOCKS: Final = 2
"""So long before the end everybody shows what is still unknown."""


def showing_height(audit: Audit, shard: int, validators: list[bytes], address: bytes) -> int:
    """From this height on a validator shows the leaf of a shard that nobody has shown; its turn is drawn by hash.

    The first turn is when a third of the blocks is left; each next validator has its turn a block later.
    """
    order = sorted(
        validators, key=lambda each: tagged_hash("show order", audit.seed, shard.to_bytes(8, "little"), each)
    )
    begins = audit.deadline - (audit.deadline - audit.opened_height) // 3
    return min(begins + order.index(address), max(begins, audit.deadline - LAST_BLOCKS))


class Auditor:
    """Follows the open audit: one answer for each shard that is asked of this node, as soon as it is drawn.

    Chunks are read and paths computed beside the event loop. What can't be read is handed to `repair`, and tried again
    at the next block. A shard that this node should have shown and can't is shown by others: nobody accuses itself.
    """

    def __init__(
        self,
        *,
        view: ChainView,
        wallet: Wallet,
        registry: WeightsRegistry,
        store: ChunkStore,
        repair: Callable[[bytes], None],
        disk_threads: int = 1,
    ) -> None:
        """Set up.

        Args:
            repair: told of each chunk that was asked for and is missing or corrupt.
            disk_threads: as for `ShardExchange`.
        """
        self._view = view
        self._wallet = wallet
        self._registry = registry
        self._store = store
        self._repair = repair
        self._disk = DiskThreads(disk_threads)
        self._leaves: tuple[bytes, tuple[ShardChunks, ...]] = (b"", ())
        """Manifest of the audited version, and its leaves."""
        self._epoch = -1
        self._due: dict[int, tuple[bytes, ...]] = {}
        self._settled: set[int] = set()
        """Shards of this epoch's audit that were refused, so that the others have their turn."""
        self._lacking: set[int] = set()
        self._told = -1

    async def run(self) -> None:
        """Take part for as long as the node runs."""
        await attend("auditor", self._view, self._step)

    async def _step(self) -> bool:
        state, height = self._view.state, self._view.height
        self._tell(state)
        audit = state.audit(state.chain().epoch)
        active = [address for address, _, _ in state.active_validators()]
        if audit is None or audit.closed or height >= audit.deadline or self._wallet.address not in active:
            return False
        if audit.epoch != self._epoch:
            self._epoch, self._due = audit.epoch, {}
            self._settled.clear()
            self._lacking.clear()
        leaves = await self._leaves_of(state, audit)
        for drawn in audit.shards:
            if drawn.shard in self._settled:
                continue
            if self._is_asked(state, drawn, leaves):
                if await self._answer(audit, leaves, drawn.shard):
                    return True
            elif not drawn.shown and height >= showing_height(audit, drawn.shard, active, self._wallet.address):
                path = await self._disk.run(leaf_path, leaves, drawn.shard)
                if await self._send(ShowAudit(audit.epoch, leaves[drawn.shard], path), drawn.shard):
                    return True
        return False

    async def _leaves_of(self, state: State, audit: Audit) -> tuple[ShardChunks, ...]:
        model = state.model(audit.version)
        assert model is not None
        if self._leaves[0] != model.manifest:
            lineage = await self._registry.lineage(model.manifest, version=audit.version)
            self._leaves = (model.manifest, await self._disk.run(lineage.leaves))
        return self._leaves[1]

    def _is_asked(self, state: State, drawn: AuditedShard, leaves: tuple[ShardChunks, ...]) -> bool:
        """Whether this node is due for the shard and hasn't answered."""
        if drawn.shown:
            return self._wallet.address in drawn.due and self._wallet.address not in drawn.answered
        if drawn.shard not in self._due:
            self._due[drawn.shard] = due_holders(state, leaves[drawn.shard].key)
        return self._wallet.address in self._due[drawn.shard]

    async def _answer(self, audit: Audit, leaves: tuple[ShardChunks, ...], shard: int) -> bool:
        try:
            answer = await self._disk.run(self._prepare, audit, leaves, shard)
        except (MissingBlob, DiskCorruption) as error:
            if shard not in self._lacking:
                self._lacking.add(shard)
                _log.warning("audit.cannot_answer", epoch=audit.epoch, shard=shard, error=str(error))
                self._repair(self._drawn(audit, leaves[shard])[0])
            return False
        return await self._send(answer, shard)

    def _drawn(self, audit: Audit, leaf: ShardChunks) -> tuple[bytes, int]:
        """Address of the chunk, and number of its block, that this node has to show."""
        chunk, block = leaf.locate(drawn_block(audit.seed, leaf.position, self._wallet.address, leaf.blocks))
        return chunk.digest, block

    def _prepare(self, audit: Audit, leaves: tuple[ShardChunks, ...], shard: int) -> AnswerAudit:
        chunk, block = self._drawn(audit, leaves[shard])
        of_chunk, data = self._store.get_range(chunk, block, 1)
        proof = range_proof(of_chunk.hashes, block, 1)
        return AnswerAudit(audit.epoch, leaves[shard], leaf_path(leaves, shard), data, proof)

    async def _send(self, action: AnswerAudit | ShowAudit, shard: int) -> bool:
        try:
            await self._wallet.send(action)
        except UsageError as error:
            self._settled.add(shard)
            _log.info("audit.refused", epoch=action.epoch, shard=shard, error=str(error))
            return False
        kind = "audit.answered" if isinstance(action, AnswerAudit) else "audit.shown"
        _log.info(kind, epoch=action.epoch, shard=shard)
        return True

    def _tell(self, state: State) -> None:
        """Log what this node lost in audits that have closed since the last look."""
        closed = [audit for audit in state.audits() if audit.closed]
        for audit in closed if self._told >= 0 else ():
            for outcome in audit.outcomes:
                if audit.epoch > self._told and outcome.holder == self._wallet.address and outcome.failed:
                    lost = outcome.bonded + outcome.unbonding
                    _log.error("audit.failed", epoch=audit.epoch, asked=outcome.asked, failed=outcome.failed, lost=lost)
        self._told = max([0, self._told, *(audit.epoch for audit in closed)])
