"""The trainer: joins rounds, trains on exactly the frozen batch, commits, reveals, and serves its submission."""

from __future__ import annotations

import structlog

from deepshard.compute.client import ComputeClient
from deepshard.compute.jobs import ModelRef, Progress, Train, TrainResult
from deepshard.disk.chunks import ChunkStore
from deepshard.disk.journal import Journal
from deepshard.encoding import decode, encode
from deepshard.errors import LocalError
from deepshard.ledger.records import TrainerEntry, TrainingRound
from deepshard.ledger.state import State
from deepshard.ledger.transactions import CommitWeights, JoinRound, RevealWeights, weights_commitment
from deepshard.limits import TRANSACTION_BYTES_MAX
from deepshard.primitives import ZERO_DIGEST, tagged_hash
from deepshard.services.duty import attend
from deepshard.services.shards import ShardExchange
from deepshard.services.view import ChainView
from deepshard.services.wallet import Wallet
from deepshard.services.weights import WeightsRegistry

_log = structlog.get_logger(__name__)
SERVED = frozenset({"revealing", "scoring"})


class Trainer:
    """Takes part in every training round with the least stake the network asks for, or `stake` if that is more.

    `extra_texts` are trained on besides the batch. It exists to show what happens to a trainer that does so: the node
    warns at every round that it will be slashed.
    """

    def __init__(
        self,
        *,
        view: ChainView,
        wallet: Wallet,
        exchange: ShardExchange,
        registry: WeightsRegistry,
        compute: ComputeClient,
        store: ChunkStore,
        journal: Journal,
        salt_seed: bytes,
        stake: int = 0,
        micro_batch: int = 1,
        extra_texts: tuple[str, ...] = (),
    ) -> None:
        self._view = view
        self._wallet = wallet
        self._exchange = exchange
        self._registry = registry
        self._compute = compute
        self._store = store
        self._journal = journal
        self._salt_seed = salt_seed
        self._stake = stake
        self._micro_batch = micro_batch
        self._extra_texts = extra_texts
        self.progress: Progress | None = None

    async def run(self) -> None:
        """Train for as long as the node runs."""
        await attend("trainer", self._view, self._step)

    async def _step(self) -> bool:
        state = self._view.state
        current = state.current_round()
        if current is None:
            return False
        number = current.number
        entry = next((entry for entry in current.trainers if entry.address == self._wallet.address), None)
        if entry is None:
            return current.status == "joining" and await self._join(state, current)
        if current.status == "training" and entry.commitment == ZERO_DIGEST:
            reveal = self._promised(number) or await self._train(state, current)
            await self._wallet.send(CommitWeights(number, weights_commitment(reveal, self._wallet.address)))
            _log.info("trainer.committed", round=number)
            return True
        if current.status == "revealing" and entry.commitment != ZERO_DIGEST and entry.manifest == ZERO_DIGEST:
            return await self._reveal(number, entry)
        if entry.manifest != ZERO_DIGEST and current.status in SERVED and not self._registry.knows(entry.manifest):
            # After a restart: what isn't known to be a submission isn't served, and would count as unavailable.
            await self._registry.lineage(entry.manifest, version=None)
            return True
        return False

    async def _join(self, state: State, current: TrainingRound) -> bool:
        stake = max(self._stake, state.params().trainer_stake_min)
        balance = state.account(self._wallet.address).balance
        if balance < stake + state.params().transaction_fee:
            _log.warning("trainer.cannot_join", round=current.number, stake=stake, balance=balance)
            return False
        self._compute.prewarm()
        await self._wallet.send(JoinRound(current.number, stake))
        _log.info("trainer.joined", round=current.number, stake=stake)
        return True

    async def _train(self, state: State, current: TrainingRound) -> RevealWeights:
        base = state.model(current.base_version)
        if base is None:
            raise LocalError(
                f"round {current.number} builds on version {current.base_version}, which is not in the state"
            )
        async with self._registry.in_use():
            lineage = await self._registry.lineage(base.manifest, version=base.version)
            await self._registry.fetch_all(lineage)
            await self._exchange.fetch({segment.digest: segment.size for segment in current.batch}, timeout_s=120.0)
            texts = [self._store.get(segment.digest).decode("utf-8", errors="replace") for segment in current.batch]
            weights = [segment.weight_bp for segment in current.batch]
            if self._extra_texts:
                _log.warning("trainer.dishonest", round=current.number, unapproved_texts=len(self._extra_texts))
                texts += self._extra_texts
                weights += [10_000] * len(self._extra_texts)
            job = Train(
                base=ModelRef(manifest=base.manifest, store=str(self._store.root)),
                segments=tuple(texts),
                weights_bp=tuple(weights),
                recipe=state.params().recipe,
                order_seed=current.order_seed,
                micro_batch=self._micro_batch,
                store=str(self._store.root),
            )
            result = await self._compute.submit(job, self._note)
        self.progress = None
        if not isinstance(result, TrainResult):
            raise LocalError(f"the compute worker answered {type(result).__name__} to Train")
        _log.info(
            "trainer.trained",
            round=current.number,
            first_loss=round(result.losses[0], 4) if result.losses else None,
            last_loss=round(result.losses[-1], 4) if result.losses else None,
            changed_share=round(result.changed_share, 4),
            delta_bytes=result.encoded_bytes,
        )
        salt = tagged_hash("weights salt", self._salt_seed, current.number.to_bytes(8, "little"))
        reveal = RevealWeights(
            round=current.number,
            manifest=result.manifest,
            weights_root=result.weights_root,
            chunks_root=result.chunks_root,
            shard_count=result.shard_count,
            checkpoint_root=result.checkpoint_root,
            salt=salt,
        )
        self._journal.put(_journal_key(current.number), encode(reveal))
        return reveal

    async def _reveal(self, number: int, entry: TrainerEntry) -> bool:
        reveal = self._promised(number)
        if reveal is None or weights_commitment(reveal, self._wallet.address) != entry.commitment:
            raise LocalError(f"the opening of this node's commitment in round {number} is not in its journal")
        await self._registry.lineage(reveal.manifest, version=None)
        await self._wallet.send(reveal)
        _log.info("trainer.revealed", round=number, manifest=reveal.manifest.hex())
        return True

    def _note(self, progress: Progress) -> None:
        self.progress = progress

    def _promised(self, number: int) -> RevealWeights | None:
        stored = self._journal.get(_journal_key(number))
        return None if stored is None else decode(stored, RevealWeights, bytes_max=TRANSACTION_BYTES_MAX)


def _journal_key(number: int) -> str:
    return f"weights/{number}"
