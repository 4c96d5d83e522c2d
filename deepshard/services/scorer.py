"""The scorer: a validator's report of a round's submissions by probability curvature."""

from __future__ import annotations

import structlog
import trio

from deepshard.chunk_tree import chunks_root
from deepshard.compute.client import ComputeClient
from deepshard.compute.jobs import ModelRef, Profile, ProfileResult, Progress, ScoringPath
from deepshard.disk.chunks import ChunkStore
from deepshard.errors import LocalError, RemoteError
from deepshard.ledger.probes import probes_of_round
from deepshard.ledger.records import ModelVersion, TrainerEntry, TrainingRound
from deepshard.ledger.state import State
from deepshard.ledger.transactions import ReportScores, SubmissionReport
from deepshard.primitives import ZERO_DIGEST
from deepshard.services.duty import attend
from deepshard.services.shards import ShardExchange
from deepshard.services.view import ChainView
from deepshard.services.wallet import Wallet
from deepshard.services.weights import Lineage, WeightsRegistry, WrongManifest

_log = structlog.get_logger(__name__)
FETCH_TIMEOUT_S = 180.0


class Scorer:
    """Fetches the revealed submissions, profiles them on the drawn probes, and reports, once a round.

    `scoring` and `memory_bytes` are those of `jobs.Profile`.
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
        scoring: ScoringPath = "auto",
        memory_bytes: int = 0,
    ) -> None:
        self._view = view
        self._wallet = wallet
        self._exchange = exchange
        self._registry = registry
        self._compute = compute
        self._store = store
        self._scoring: ScoringPath = scoring
        self._memory_bytes = memory_bytes
        self.progress: Progress | None = None
        self._scored_by = ""

    async def run(self) -> None:
        """Score for as long as the node runs."""
        await attend("scorer", self._view, self._step)

    async def _step(self) -> bool:
        state, me = self._view.state, self._wallet.address
        current = state.current_round()
        if (
            current is None
            or current.status != "scoring"
            or me in current.reporters
            or not any(address == me for address, _, _ in state.active_validators())
        ):
            return False
        await self._wallet.send(await self._report(state, current))
        _log.info("scorer.reported", round=current.number, scored_by=self._scored_by)
        return True

    async def _report(self, state: State, current: TrainingRound) -> ReportScores:
        base = state.model(current.base_version)
        if base is None:
            raise LocalError(
                f"round {current.number} builds on version {current.base_version}, which is not in the state"
            )
        revealed = [entry for entry in current.trainers if entry.manifest != ZERO_DIGEST]
        async with self._registry.in_use():
            lineage = await self._registry.lineage(base.manifest, version=base.version)
            await self._registry.fetch_all(lineage)
            available = await self._fetch_all(revealed, base)
            probes = probes_of_round(state, current.number)
            await self._exchange.fetch({probe.digest: None for probe in probes}, timeout_s=60.0)
            job = Profile(
                base=self._reference(base.manifest),
                submissions=tuple(self._reference(entry.manifest) for entry in available),
                probes=tuple(self._store.get(probe.digest).decode("utf-8", errors="replace") for probe in probes),
                plan=state.params().probes,
                seed=current.probe_seed,
                scoring=self._scoring,
                memory_bytes=self._memory_bytes,
            )
            result = (
                await self._compute.submit(job, self._note) if available else ProfileResult(base=(), submissions=())
            )
        self.progress = None
        if not isinstance(result, ProfileResult):
            raise LocalError(f"the compute worker answered {type(result).__name__} to Profile")
        self._scored_by = result.scored_by
        scored = {entry.address: found for entry, found in zip(available, result.submissions, strict=True)}
        reports = []
        for entry in revealed:
            found = scored.get(entry.address)
            if found is not None and not found.error and found.weights_root == entry.weights_root:
                reports.append(
                    SubmissionReport(entry.address, available=True, profile=found.profile, sketch=found.sketch)
                )
            else:
                reason = "not fetched" if found is None else found.error or "weights root differs from the revealed one"
                _log.warning("scorer.unavailable", round=current.number, trainer=entry.address.hex(), reason=reason)
                reports.append(SubmissionReport(entry.address, available=False, profile=(), sketch=()))
        is_any_available = any(report.available for report in reports)
        return ReportScores(current.number, tuple(reports), result.base if is_any_available else ())

    async def _fetch_all(self, revealed: list[TrainerEntry], base: ModelVersion) -> list[TrainerEntry]:
        """Fetch submissions side by side, so that one that is withheld costs its own time only; those that came."""
        fetched: set[bytes] = set()

        async def fetch(entry: TrainerEntry) -> None:
            if await self._fetch(entry, base):
                fetched.add(entry.address)

        async with trio.open_nursery() as nursery:
            for entry in revealed:
                nursery.start_soon(fetch, entry)
        return [entry for entry in revealed if entry.address in fetched]

    async def _fetch(self, entry: TrainerEntry, base: ModelVersion) -> bool:
        try:
            with trio.fail_after(FETCH_TIMEOUT_S):
                lineage = await self._registry.lineage(entry.manifest, version=None, parent=base.manifest)
                check_chunk_tree(lineage, entry)
                report = await self._registry.fetch_all(lineage, timeout_s=FETCH_TIMEOUT_S)
        except (RemoteError, LocalError, trio.TooSlowError) as error:
            _log.warning("scorer.fetch_failed", trainer=entry.address.hex(), error=str(error) or "too slow")
            return False
        _log.info(
            "scorer.fetched",
            trainer=entry.address.hex(),
            chunks=report.verified,
            bytes=sum(report.bytes_by_peer.values()),
        )
        return True

    def _reference(self, manifest: bytes) -> ModelRef:
        return ModelRef(manifest=manifest, store=str(self._store.root))

    def _note(self, progress: Progress) -> None:
        self.progress = progress


def check_chunk_tree(lineage: Lineage, entry: TrainerEntry) -> None:
    """Check that a submission's chunk tree, of which audits will be drawn, is that of its manifests.

    Raises:
        WrongManifest: it isn't.
    """
    leaves = lineage.leaves()
    made = chunks_root(leaves)
    if (made, len(leaves)) != (entry.chunks_root, entry.shard_count):
        raise WrongManifest(
            f"the trainer revealed the chunk tree {entry.chunks_root.hex()[:16]} of {entry.shard_count} shards, "
            f"its manifest's is {made.hex()[:16]} of {len(leaves)}"
        )
