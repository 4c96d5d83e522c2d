"""The curator: a validator's votes on proposed data, automatic unless a person has voted."""

from __future__ import annotations

import structlog

from deepshard.compute.client import ComputeClient
from deepshard.compute.jobs import ModelRef, ScoreTexts, ScoringPath, TextScores
from deepshard.disk.chunks import ChunkStore
from deepshard.disk.journal import Journal
from deepshard.encoding import decode, encode
from deepshard.errors import LocalError, RemoteError, UsageError
from deepshard.ledger.records import DataProposal
from deepshard.ledger.state import State
from deepshard.ledger.transactions import AxisScores, CommitVote, RevealVote, vote_commitment
from deepshard.limits import TRANSACTION_BYTES_MAX
from deepshard.primitives import tagged_hash
from deepshard.services.curation import Measurement, axis_scores, shingles, verdict
from deepshard.services.duty import attend
from deepshard.services.shards import ShardExchange
from deepshard.services.view import ChainView
from deepshard.services.wallet import Wallet
from deepshard.services.weights import WeightsRegistry

_log = structlog.get_logger(__name__)
PERTURBATIONS = 1
SURE_BP = 8_500
POSTPONED_BLOCKS = 10
TEXTS_TIMEOUT_S = 20.0


class Curator:
    """Votes on proposals whose committee it is in: commits, and reveals when the ledger asks for it.

    `scoring` and `memory_bytes` are those of `jobs.ScoreTexts`.
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
        tokens_max: int = 128,
        scoring: ScoringPath = "auto",
        memory_bytes: int = 0,
    ) -> None:
        self._view = view
        self._wallet = wallet
        self._exchange = exchange
        self._registry = registry
        self._compute = compute
        self._store = store
        self._journal = journal
        self._salt_seed = salt_seed
        self._tokens_max = tokens_max
        self._scoring: ScoringPath = scoring
        self._memory_bytes = memory_bytes
        self._postponed: dict[bytes, int] = {}

    async def run(self) -> None:
        """Vote for as long as the node runs."""
        self._compute.prewarm()
        await attend("curator", self._view, self._step)

    async def _step(self) -> bool:
        state, me = self._view.state, self._wallet.address
        for proposal in state.proposals():
            if me not in proposal.committee:
                continue
            committed = any(address == me for address, _ in proposal.commitments)
            if proposal.status == "committing" and not committed:
                if self._postponed.get(proposal.id, 0) > self._view.height:
                    continue
                return await self._try_commit(state, proposal)
            if proposal.status == "revealing" and committed and me not in proposal.revealed:
                await self._wallet.send(self._promised(proposal.id))
                _log.info("curator.revealed", proposal=proposal.id.hex())
                return True
        return False

    async def _try_commit(self, state: State, proposal: DataProposal) -> bool:
        """Vote; a proposal whose texts can't be had is put off, so that it doesn't hold up the others."""
        try:
            await self._commit(state, proposal)
        except (RemoteError, LocalError) as error:
            self._postponed[proposal.id] = self._view.height + POSTPONED_BLOCKS
            _log.warning("curator.postponed", proposal=proposal.id.hex(), error=str(error))
        else:
            self._postponed.pop(proposal.id, None)
        return True

    async def _commit(self, state: State, proposal: DataProposal) -> None:
        key = _journal_key(proposal.id)
        if self._journal.get(key) is None:
            opinion = await self._opinion(state, proposal)
            # A person may have voted while the model was scoring; theirs stands.
            if self._journal.get(key) is None:
                self._journal.put(key, encode(opinion))
        ballot = self._promised(proposal.id)
        await self._wallet.send(CommitVote(proposal.id, vote_commitment(ballot, self._wallet.address)))
        _log.info("curator.committed", proposal=proposal.id.hex(), accept=ballot.accept)

    def record_vote(
        self,
        proposal_id: bytes,
        *,
        accept: bool,
        harmful: bool,
        scores: tuple[AxisScores, ...] | None,
        predicted_bp: int,
    ) -> None:
        """Take a person's vote in place of the automatic one.

        Raises:
            UsageError: no such proposal, not in its committee, already committed, or scores of the wrong number.
        """
        proposal = self._view.state.proposal(proposal_id)
        if proposal is None:
            raise UsageError(f"no such proposal: {proposal_id.hex()}")
        me = self._wallet.address
        if me not in proposal.committee:
            raise UsageError("this node is not in the proposal's committee")
        if proposal.status != "committing" or any(address == me for address, _ in proposal.commitments):
            raise UsageError(f"too late: the proposal is {proposal.status} and this node's vote is committed")
        count = len(proposal.segments)
        if scores is None:
            level = 8_000 if accept else 2_000
            scores = ((level,) * 5,) * count
        if len(scores) != count:
            raise UsageError(f"the proposal has {count} segments, but {len(scores)} lists of scores were given")
        ballot = RevealVote(proposal_id, scores, accept, harmful, predicted_bp, self._salt(proposal_id))
        self._journal.put(_journal_key(proposal_id), encode(ballot))
        self._view.wake()

    async def _opinion(self, state: State, proposal: DataProposal) -> RevealVote:
        texts = await self._texts(proposal)
        model = state.current_model()
        async with self._registry.in_use():
            lineage = await self._registry.lineage(model.manifest, version=model.version)
            await self._registry.fetch_all(lineage)
            job = ScoreTexts(
                model=ModelRef(manifest=model.manifest, store=str(self._store.root)),
                texts=texts,
                tokens_max=self._tokens_max,
                perturbations=PERTURBATIONS,
                seed=proposal.id,
                scoring=self._scoring,
                memory_bytes=self._memory_bytes,
            )
            result = await self._compute.submit(job)
        if not isinstance(result, TextScores):
            raise LocalError(f"the compute worker answered {type(result).__name__} to ScoreTexts")
        accepted = [shingles(text) for text in await self._accepted_texts(state)]
        scores = tuple(
            axis_scores(
                text,
                Measurement(score.tokens, score.log_prob, score.conditional_curvature, score.perturbation_curvature),
                accepted,
            )
            for text, score in zip(texts, result.scores, strict=True)
        )
        accept = verdict(scores)
        _log.info(
            "curator.opinion",
            proposal=proposal.id.hex(),
            accept=accept,
            scores=[list(axes) for axes in scores],
            log_prob=[round(score.log_prob, 3) for score in result.scores],
            conditional=[round(score.conditional_curvature, 2) for score in result.scores],
            perturbation=[round(score.perturbation_curvature, 3) for score in result.scores],
        )
        predicted = SURE_BP if accept else 10_000 - SURE_BP
        return RevealVote(
            proposal=proposal.id,
            scores=scores,
            accept=accept,
            harmful=False,
            predicted_accept_bp=predicted,
            salt=self._salt(proposal.id),
        )

    async def _texts(self, proposal: DataProposal) -> tuple[str, ...]:
        await self._exchange.fetch(
            {segment.digest: segment.size for segment in proposal.segments}, timeout_s=TEXTS_TIMEOUT_S
        )
        blobs = [self._store.get(segment.digest) for segment in proposal.segments]
        return tuple(blob.decode("utf-8", errors="replace") for blob in blobs)

    async def _accepted_texts(self, state: State) -> list[str]:
        """Texts of accepted proposals that are at hand; a missing one only weakens the duplicate check."""
        digests = [s.digest for p in state.proposals() if p.status in {"accepted", "trained"} for s in p.segments]
        return [
            self._store.get(digest).decode("utf-8", errors="replace") for digest in digests if self._store.has(digest)
        ]

    def _salt(self, proposal_id: bytes) -> bytes:
        return tagged_hash("vote salt", self._salt_seed, proposal_id)

    def _promised(self, proposal_id: bytes) -> RevealVote:
        stored = self._journal.get(_journal_key(proposal_id))
        if stored is None:
            raise LocalError(f"the opening of this node's vote on {proposal_id.hex()} is not in its journal")
        return decode(stored, RevealVote, bytes_max=TRANSACTION_BYTES_MAX)


def _journal_key(proposal_id: bytes) -> str:
    return f"vote/{proposal_id.hex()}"
