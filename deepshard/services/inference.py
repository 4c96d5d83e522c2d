"""The inference operator: buys a licence, brings the weights here, keeps them current, and answers people.

It trusts no seller: which weights are current, what they cost and whether the licence is granted are read through a
`ChainReader`, which on a light node checks certificates and Merkle proofs; the manifest must be the one a certified
header names, and every chunk must be the one the manifest names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import structlog
import trio

from deepshard.compute.client import ComputeClient
from deepshard.compute.jobs import ChatMessage, Generate, GenerateResult, ModelRef, Progress
from deepshard.disk.chunks import ChunkStore
from deepshard.errors import DeepshardError, LocalError, RemoteError, UsageError
from deepshard.ledger.market import licence_price
from deepshard.ledger.params import Params
from deepshard.ledger.records import Licence, ModelVersion
from deepshard.ledger.transactions import BuyLicence
from deepshard.primitives import format_amount
from deepshard.services.wallet import Wallet
from deepshard.services.weights import WeightsRegistry

_log = structlog.get_logger(__name__)
DownloadState = Literal["unlicensed", "downloading", "ready", "failed"]


class ChainReader(Protocol):
    """What an inference operator reads of the chain."""

    async def current_model(self) -> ModelVersion:
        """Newest accepted weights."""
        ...

    async def licence(self, address: bytes) -> Licence | None:
        """Licence of an account."""
        ...

    async def changed(self) -> None:
        """Wait for the next committed block."""
        ...


@dataclass(slots=True)
class Download:
    """State of bringing one version here."""

    version: int = -1
    manifest: bytes = b""
    weights_root: bytes = b""
    state: DownloadState = "unlicensed"
    chunks_done: int = 0
    chunks_total: int = 0
    chunks_verified: int = 0
    bytes_by_peer: dict[bytes, int] = field(default_factory=dict)
    error: str = ""


class Inference:
    """Follows the accepted version while the licence lasts, and serves the newest version that is here in full."""

    def __init__(
        self,
        *,
        reader: ChainReader,
        wallet: Wallet,
        registry: WeightsRegistry,
        compute: ComputeClient,
        store: ChunkStore,
        params: Params,
    ) -> None:
        self._reader = reader
        self._wallet = wallet
        self._registry = registry
        self._compute = compute
        self._store = store
        self._params = params
        self.download = Download()
        self.history: list[Download] = []
        self._serving: ModelVersion | None = None
        self._wanted = trio.Event()

    @property
    def serving(self) -> ModelVersion | None:
        """The version that answers now."""
        return self._serving

    async def run(self) -> None:
        """Keep the weights current for as long as the node runs."""
        while True:
            wanted = self._wanted
            try:
                await self._follow()
            except (RemoteError, LocalError) as error:
                self.download.state, self.download.error = "failed", str(error)
                _log.warning("inference.download_failed", version=self.download.version, error=str(error))
            with trio.move_on_after(2.0):
                await wanted.wait()

    async def buy(self, price_max: int | None) -> tuple[Licence, ModelVersion]:
        """Buy a licence for the current weights; returns when it is on chain.

        Raises:
            UsageError: the price is above `price_max`, or the ledger refuses (no balance, version moved on).
        """
        model = await self._reader.current_model()
        price = licence_price(self._params, model.value)
        if price_max is not None and price > price_max:
            raise UsageError(
                f"the licence costs {format_amount(price)} tokens, more than the {format_amount(price_max)} you allow: "
                "raise the maximum"
            )
        await self._wallet.send(BuyLicence(model.version, price if price_max is None else price_max))
        licence = await self._reader.licence(self._wallet.address)
        while licence is None or licence.last_version < model.version:
            await self._reader.changed()
            licence = await self._reader.licence(self._wallet.address)
        _log.info("inference.licensed", version=model.version, price=licence.price, height=licence.height)
        wanted, self._wanted = self._wanted, trio.Event()
        wanted.set()
        return licence, model

    async def _follow(self) -> None:
        licence = await self._reader.licence(self._wallet.address)
        if licence is None:
            return
        model = await self._reader.current_model()
        if self._serving is not None and self._serving.manifest == model.manifest:
            return
        if model.version > licence.last_version:
            if self.download.version != model.version:
                self.download = Download(
                    version=model.version, error="the licence does not cover this version: renew it"
                )
                _log.warning("inference.licence_expired", version=model.version, last_version=licence.last_version)
            return
        await self._bring(model)

    async def _bring(self, model: ModelVersion) -> None:
        download = Download(model.version, model.manifest, model.weights_root, "downloading")
        self.download = download
        async with self._registry.in_use():
            lineage = await self._registry.lineage(model.manifest, version=model.version)
            if lineage.newest.weights_root != model.weights_root:
                raise LocalError(f"manifest of version {model.version} has another weights root than the ledger")
            wanted = {**lineage.files(), **lineage.chunks()}
            download.chunks_total = len(wanted)

            def note(done: int, _total: int, _peer: bytes, _size: int) -> None:
                download.chunks_done = done

            report = await self._registry.fetch_all(lineage, progress=note)
            download.chunks_done, download.chunks_verified = len(wanted), report.verified
            download.bytes_by_peer = dict(report.bytes_by_peer)
            # The first token proves that the worker decoded every chunk and that the weights have the root.
            await self._generate(model, (ChatMessage(role="user", content="Hello"),), 1, 0.0, 0, None)
        self._serving = model
        download.state = "ready"
        self.history.append(download)
        _log.info(
            "inference.ready",
            version=model.version,
            chunks=download.chunks_total,
            fetched=report.verified,
            bytes=sum(report.bytes_by_peer.values()),
            peers=len(report.bytes_by_peer),
        )

    @asynccontextmanager
    async def chat(
        self, messages: tuple[ChatMessage, ...], *, max_tokens: int, temperature: float, seed: int
    ) -> AsyncIterator[trio.MemoryReceiveChannel[str | GenerateResult]]:
        """Answer a conversation: yields a channel of text pieces that ends with the `GenerateResult`.

        Raises:
            UsageError: no weights are here yet.
        """
        model = self._serving
        if model is None:
            raise UsageError(
                f"no weights are ready to serve (download: {self.download.state}); "
                "buy a licence with `deepshard licence buy`"
            )
        send, receive = trio.open_memory_channel[str | GenerateResult](max_tokens + 8)
        failure: list[DeepshardError] = []

        async def work() -> None:
            async with send:

                def piece(progress: Progress) -> None:
                    if progress.stage == "token" and progress.text:
                        send.send_nowait(progress.text)

                try:
                    await send.send(await self._generate(model, messages, max_tokens, temperature, seed, piece))
                except DeepshardError as error:
                    failure.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            yield receive
            nursery.cancel_scope.cancel()
        if failure:
            raise failure[0]

    async def _generate(  # one call site each way; names would repeat the job's fields
        self,
        model: ModelVersion,
        messages: tuple[ChatMessage, ...],
        max_tokens: int,
        temperature: float,
        seed: int,
        on_piece: object,
    ) -> GenerateResult:
        job = Generate(
            model=ModelRef(manifest=model.manifest, store=str(self._store.root)),
            messages=messages,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
        )
        result = await self._compute.submit(job, on_piece)  # type: ignore[arg-type]  # None or the callback above
        if not isinstance(result, GenerateResult):
            raise LocalError(f"the compute worker answered {type(result).__name__} to Generate")
        return result
