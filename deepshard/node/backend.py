"""The node as its HTTP API sees it: reads snapshots, and hands requests to the services."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import trio
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from deepshard.compute.jobs import ChatMessage, GenerateResult
from deepshard.consensus.types import Block, CommitCertificate
from deepshard.disk.chain import ChainStore
from deepshard.disk.chunks import ChunkStore
from deepshard.encoding import decode
from deepshard.errors import LocalError, RemoteError, UsageError
from deepshard.ledger.explain import explain_audit, explain_conviction, explain_proposal, explain_round
from deepshard.ledger.market import licence_price
from deepshard.ledger.params import Genesis
from deepshard.ledger.records import Receipt
from deepshard.ledger.transactions import (
    AXES,
    AxisScores,
    OfferStorage,
    ProposeData,
    ReportEvidence,
    SegmentRef,
    Transfer,
    Unjail,
)
from deepshard.limits import BLOCK_BYTES_MAX, CERTIFICATE_BYTES_MAX, CHAT_TOKENS_MAX, TRANSACTION_BYTES_MAX
from deepshard.net.network import Network
from deepshard.node.presenting import (
    Json,
    account_json,
    block_json,
    download_json,
    evidence_json,
    licence_json,
    proposal_json,
    receipt_json,
    round_json,
    shard_map_json,
    validators_json,
)
from deepshard.node.settings import Settings
from deepshard.primitives import ADDRESS_PREFIX, format_address, format_amount, parse_address
from deepshard.services.accountability import EvidenceLocker, convicting
from deepshard.services.curator import Curator
from deepshard.services.inference import Inference
from deepshard.services.keeper import Keeper
from deepshard.services.light import LightClient
from deepshard.services.scrubber import Scrubber
from deepshard.services.segmentation import split_segments
from deepshard.services.shard_map import ShardMapper
from deepshard.services.view import ChainView
from deepshard.services.wallet import Wallet

RECEIPTS_MAX = 1000

_LIGHT = "this node is a light client: ask a full node for that"


class NodeBackend:
    """Implements `deepshard.api.backend.Backend` over the services this node runs; absent ones are None."""

    def __init__(
        self,
        *,
        settings: Settings,
        genesis: Genesis,
        network: Network,
        wallet: Wallet,
        chunks: ChunkStore,
        store: ChainStore | None,
        view: ChainView | None,
        light: LightClient | None,
        curator: Curator | None,
        keeper: Keeper | None,
        scrubber: Scrubber | None,
        mapper: ShardMapper | None,
        inference: Inference | None,
        locker: EvidenceLocker | None,
    ) -> None:
        self._settings = settings
        self._genesis = genesis
        self._network = network
        self._wallet = wallet
        self._chunks = chunks
        self._store = store
        self._view = view
        self._light = light
        self._curator = curator
        self._keeper = keeper
        self._scrubber = scrubber
        self._mapper = mapper
        self._inference = inference
        self._locker = locker

    # -- reading -----------------------------------------------------------------------------------------------------

    async def status(self) -> Json:
        """See `Backend.status`."""
        stats = self._network.stats()
        status: Json = {
            "chain_id": self._genesis.chain_id,
            "address": format_address(self._wallet.address),
            "roles": list(self._settings.roles),
            "listen": self._network.listening,
            "light": self._view is None,
            "peers": [
                {
                    "address": format_address(peer.address),
                    "roles": list(peer.roles),
                    "remote": peer.remote,
                    "outbound": peer.outbound,
                    "bytes_in": stats[peer.public_key].bytes_in,
                    "bytes_out": stats[peer.public_key].bytes_out,
                }
                for peer in self._network.peers()
            ],
            "bytes_in": sum(entry.bytes_in for entry in stats.values()),
            "bytes_out": sum(entry.bytes_out for entry in stats.values()),
            "model": None,
            "storage": self._storage(),
        }
        if self._view is not None:
            status |= self._full_status(self._view)
        elif self._light is not None:
            trusted = self._light.trusted
            status |= {"height": trusted.height, "block_id": trusted.block_id.hex(), "caught_up": trusted.height > 0}
            status |= {"witnesses": len(self._light.witnesses), "unwitnessed": self._light.unwitnessed}
            status |= {"attacked": self._light.attack is not None}
            status |= {} if trusted.header is None else {"manifest": trusted.header.manifest.hex()}
            status |= {} if trusted.header is None else {"state_root": trusted.header.state_root.hex()}
        if self._inference is not None and self._inference.serving is not None:
            serving = self._inference.serving
            status["model"] = {
                "version": serving.version,
                "manifest": serving.manifest.hex(),
                "weights_root": serving.weights_root.hex(),
            }
        return status

    def _full_status(self, view: ChainView) -> Json:
        state = view.state
        chain, supply, model = state.chain(), state.supply(), state.current_model()
        return {
            "height": view.height,
            "caught_up": view.caught_up,
            "state_root": state.root.hex(),
            "beacon": chain.beacon.hex(),
            "epoch": chain.epoch,
            "round": chain.round,
            "version": model.version,
            "manifest": model.manifest.hex(),
            "weights_root": model.weights_root.hex(),
            "value": model.value,
            "licence_price": licence_price(state.params(), model.value),
            "supply": {
                "genesis": supply.genesis,
                "minted": supply.minted,
                "burned": supply.burned,
                "treasury": supply.treasury,
                "total": state.money(),
                "conserved": state.money() == supply.genesis + supply.minted - supply.burned,
            },
            "validators": validators_json(state),
        }

    def _storage(self) -> Json:
        storage: Json = {"bytes": self._chunks.total_bytes()}
        if self._keeper is not None:
            holding = self._keeper.holding
            storage |= {
                "version": holding.version,
                "assigned": holding.assigned,
                "held": holding.held,
                "missing": holding.assigned - holding.held,
                "covering": holding.covering,
            }
        if self._scrubber is not None:
            stats = self._scrubber.stats
            storage["scrub"] = {"passes": stats.passes, "bytes": stats.bytes, "corrupt": stats.corrupt}
        return storage

    async def account(self, address: str) -> Json:
        """See `Backend.account`."""
        raw = parse_address(address)
        if self._view is not None:
            bond = self._view.state.validator(raw)
            return account_json(raw, self._view.state.account(raw), 0 if bond is None else bond.stake)
        assert self._light is not None
        return account_json(raw, await self._light.account(raw), 0)

    async def proposals(self) -> list[Json]:
        """See `Backend.proposals`."""
        return [proposal_json(proposal) for proposal in reversed(self._full_view().state.proposals())]

    async def rounds(self) -> list[Json]:
        """See `Backend.rounds`."""
        return [round_json(current) for current in reversed(self._full_view().state.rounds())]

    async def receipts(self, *, after: int, account: str | None, subject: str | None) -> list[Json]:
        """See `Backend.receipts`."""
        if self._store is None:
            raise UsageError(_LIGHT)
        rows = self._store.receipts(
            after=after,
            account=None if account is None else parse_address(account),
            subject=None if subject is None else _digest(subject),
            limit=RECEIPTS_MAX,
        )
        return [receipt_json(row.seq, decode(row.data, Receipt, bytes_max=TRANSACTION_BYTES_MAX)) for row in rows]

    async def explain(self, subject: str) -> Json:
        """See `Backend.explain`: `round-N`, `audit-N`, a proposal's or evidence's id, an address (receipts and all)."""
        state = self._full_view().state
        if subject.startswith("round-"):
            number = subject.removeprefix("round-")
            if not number.isdecimal() or state.round(int(number)) is None:
                raise UsageError(f"no such round: {subject}")
            return explain_round(state, int(number))
        if subject.startswith("audit-"):
            epoch = subject.removeprefix("audit-")
            if not epoch.isdecimal() or len(epoch) > 10:
                raise UsageError(f"no such audit: {subject}: give audit-N, with the number of an epoch")
            return explain_audit(state, int(epoch))
        if subject.startswith(ADDRESS_PREFIX):
            receipts = await self.receipts(after=0, account=subject, subject=None)
            latest = state.current_round()
            return {
                "account": await self.account(subject),
                "conviction": explain_conviction(state, parse_address(subject)),
                "receipts": receipts,
                "round": None if latest is None else explain_round(state, latest.number),
            }
        for address, conviction in state.convictions():
            if conviction.evidence == _digest(subject):
                return {"validator": format_address(address), **(explain_conviction(state, address) or {})}
        if state.proposal(_digest(subject)) is None:
            raise UsageError(f"no such proposal, round, evidence or address: {subject}")
        explained: Json = explain_proposal(state, _digest(subject))
        return explained

    async def block(self, height: int) -> Json:
        """See `Backend.block`."""
        if self._store is None:
            raise UsageError(_LIGHT)
        stored = self._store.block(height)
        if stored is None:
            raise UsageError(f"no such block: {height}, the newest is {self._store.height()}")
        return block_json(
            decode(stored.block, Block, bytes_max=BLOCK_BYTES_MAX),
            decode(stored.certificate, CommitCertificate, bytes_max=CERTIFICATE_BYTES_MAX),
        )

    async def evidence(self) -> Json:
        """See `Backend.evidence`."""
        return evidence_json(self._full_view().state, self._locker or ())

    async def licences(self) -> list[Json]:
        """See `Backend.licences`."""
        if self._view is not None:
            licence = self._view.state.licence(self._wallet.address)
        else:
            assert self._light is not None
            licence = await self._light.licence(self._wallet.address)
        return [] if licence is None else [licence_json(licence)]

    async def shards(self) -> Json:
        """See `Backend.shards`."""
        if self._mapper is None:
            raise UsageError(_LIGHT)
        return shard_map_json(await self._mapper.draw())

    async def audits(self) -> list[Json]:
        """See `Backend.audits`."""
        state = self._full_view().state
        return [explain_audit(state, audit.epoch) for audit in reversed(state.audits())]

    async def download(self) -> Json:
        """See `Backend.download`."""
        inference = self._serving_role()
        return {
            **download_json(inference.download),
            "history": [download_json(download) for download in inference.history],
        }

    # -- acting ------------------------------------------------------------------------------------------------------

    async def propose(self, request: Mapping[str, Any]) -> Json:
        """See `Backend.propose`."""
        view = self._full_view()
        if "informant" not in self._settings.roles:
            raise UsageError("this node is no informant: start it with --roles informant")
        segments = split_segments(request["text"])
        stake = int(request["stake"])
        balance = view.state.account(self._wallet.address).balance
        if stake > balance:
            raise UsageError(
                f"the stake of {format_amount(stake)} tokens is above the balance of {format_amount(balance)}: "
                "lower it, or get tokens first"
            )
        blobs = [segment.encode() for segment in segments]
        digests = [await trio.to_thread.run_sync(self._chunks.put, blob) for blob in blobs]
        references = tuple(SegmentRef(digest, len(blob)) for digest, blob in zip(digests, blobs, strict=True))
        before = {proposal.id for proposal in view.state.proposals()}
        transaction = await self._wallet.send(
            ProposeData(references, request["title"], request["language"], request["licence"], stake)
        )
        found = [
            proposal
            for proposal in view.state.proposals()
            if proposal.id not in before
            and proposal.segments == references
            and proposal.proposer == self._wallet.address
        ]
        if not found:
            raise LocalError("the proposal's transaction is in a block, but the proposal is not in the state")
        return {"proposal": found[-1].id.hex(), "segments": len(segments), "transaction": transaction.hex()}

    async def vote(self, request: Mapping[str, Any]) -> Json:
        """See `Backend.vote`."""
        if self._curator is None:
            raise UsageError("this node is no validator, so it has no vote")
        scores = request.get("scores")
        parsed: tuple[AxisScores, ...] | None = None
        if scores is not None:
            if any(len(axes) != len(AXES) or not all(0 <= score <= 10_000 for score in axes) for axes in scores):
                raise UsageError(f"scores are lists of {len(AXES)} numbers from 0 to 10000: {', '.join(AXES)}")
            parsed = tuple((axes[0], axes[1], axes[2], axes[3], axes[4]) for axes in scores)
        accept = bool(request["accept"])
        predicted = request.get("predicted_accept_bp")
        self._curator.record_vote(
            _digest(request["proposal"]),
            accept=accept,
            harmful=bool(request.get("harmful", False)),
            scores=parsed,
            predicted_bp=(8_000 if accept else 2_000) if predicted is None else int(predicted),
        )
        return {"proposal": request["proposal"], "recorded": True}

    async def transfer(self, request: Mapping[str, Any]) -> Json:
        """See `Backend.transfer`."""
        transaction = await self._wallet.send(Transfer(parse_address(request["to"]), int(request["amount"])))
        return {"transaction": transaction.hex()}

    async def report_evidence(self, request: Mapping[str, Any]) -> Json:
        """See `Backend.report_evidence`."""
        try:
            pieces = convicting(bytes.fromhex(request["evidence"]), self._genesis.chain_id)
        except RemoteError as error:
            raise UsageError(f"this proves nothing: {error}") from None
        if not pieces:
            raise UsageError("these two decisions are of different rounds: by themselves they convict nobody")
        transactions = [await self._wallet.send(ReportEvidence(piece)) for piece in pieces]
        return {"transactions": [transaction.hex() for transaction in transactions]}

    async def unjail(self) -> Json:
        """See `Backend.unjail`."""
        return {"transaction": (await self._wallet.send(Unjail())).hex()}

    async def offer_storage(self, request: Mapping[str, Any]) -> Json:
        """See `Backend.offer_storage`."""
        action = OfferStorage(int(request["capacity"]), request["operator"], request["network"])
        transaction = await self._wallet.send(action)
        return {"transaction": transaction.hex()}

    async def buy_licence(self, request: Mapping[str, Any]) -> Json:
        """See `Backend.buy_licence`."""
        price_max = request.get("price_max")
        licence, model = await self._serving_role().buy(None if price_max is None else int(price_max))
        return {"version": model.version, "weights_root": model.weights_root.hex(), **licence_json(licence)}

    @asynccontextmanager
    async def chat(self, request: Mapping[str, Any]) -> AsyncIterator[AsyncIterator[Json]]:
        """See `Backend.chat`."""
        messages = tuple(
            ChatMessage(role=str(message["role"]), content=str(message["content"])) for message in request["messages"]
        )
        max_tokens = min(CHAT_TOKENS_MAX, int(request.get("max_tokens") or 256))
        temperature = request.get("temperature")
        async with self._serving_role().chat(
            messages,
            max_tokens=max_tokens,
            temperature=1.0 if temperature is None else float(temperature),
            seed=int(request.get("seed") or 0),
        ) as pieces:

            async def stream() -> AsyncGenerator[Json, None]:
                async for piece in pieces:
                    if isinstance(piece, GenerateResult):
                        yield {
                            "finish_reason": piece.finish_reason,
                            "prompt_tokens": piece.prompt_tokens,
                            "completion_tokens": piece.completion_tokens,
                        }
                    else:
                        yield {"text": piece}

            async with aclosing(stream()) as shown:  # a client may leave in the middle
                yield shown

    def metrics(self) -> bytes:
        """See `Backend.metrics`."""
        registry = CollectorRegistry()
        peers = Gauge("deepshard_peers", "Peers connected now", registry=registry)
        peers.set(len(self._network.peers()))
        moved = Gauge("deepshard_link_bytes", "Bytes over links since start", ["direction"], registry=registry)
        stats = self._network.stats().values()
        moved.labels("in").set(sum(entry.bytes_in for entry in stats))
        moved.labels("out").set(sum(entry.bytes_out for entry in stats))
        height = Gauge("deepshard_height", "Newest committed height", registry=registry)
        if self._view is not None:
            height.set(self._view.height)
        elif self._light is not None:
            height.set(self._light.height)
        stored = Gauge("deepshard_chunk_bytes", "Bytes of blobs and chunks on disk", registry=registry)
        stored.set(self._chunks.total_bytes())
        return bytes(generate_latest(registry))

    def _full_view(self) -> ChainView:
        if self._view is None:
            raise UsageError(_LIGHT)
        return self._view

    def _serving_role(self) -> Inference:
        if self._inference is None:
            raise UsageError("this node is no inference node: start it with --roles inference")
        return self._inference


def _digest(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise UsageError(f"{text!r} is not an identifier: expected 64 hexadecimal digits")
    return raw
