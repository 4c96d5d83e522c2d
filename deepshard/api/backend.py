"""What the HTTP API asks of the node. Every method answers with JSON-ready values.

Amounts are integers in base units, addresses `ds1...` strings, digests lower-case hex. A `UsageError` becomes HTTP 400
(404 where the message begins with "no such"), a `LocalError` 503; both carry the message.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

Json = dict[str, Any]


class Backend(Protocol):
    """The node, as the API sees it."""

    async def status(self) -> Json:
        """chain_id, address, roles, height, version, epoch, round, supply, weights_root, peers, storage and model.

        `model` is what this node serves (`version`, `manifest`, `weights_root`), or none.
        """
        ...

    async def account(self, address: str) -> Json:
        """address, balance, locked, unbonding, bonded, nonce."""
        ...

    async def proposals(self) -> list[Json]:
        """Data proposals, newest first, with their tallies."""
        ...

    async def rounds(self) -> list[Json]:
        """Training rounds, newest first, with their trainers."""
        ...

    async def receipts(self, *, after: int, account: str | None, subject: str | None) -> list[Json]:
        """Receipts with a sequence number above `after`: seq, height, kind, account, subject, amount, reason, facts."""
        ...

    async def explain(self, subject: str) -> Json:
        """Replay of a reward or slash by its inputs: receipts, the records behind them, the result computed again."""
        ...

    async def block(self, height: int) -> Json:
        """A decided block: height, block_id, time_ms, proposer, number of transactions, state_root, round, signers.

        `round` and `signers` are those of the commit certificate that this node keeps; another node may keep another.
        """
        ...

    async def evidence(self) -> Json:
        """`held`: evidence that waits to be punished; `convictions`: who was, of what, and until when it is jailed."""
        ...

    async def licences(self) -> list[Json]:
        """This node's licences."""
        ...

    async def shards(self) -> Json:
        """Who holds which shard of the newest version: version, manifest, replication, shards, holders, unsaid.

        A shard has number, name, decoded_bytes, chunk_bytes, holders (addresses, best first), copies (holders that are
        present), domains and failures_to_lose (failures that take all holders, and all that are present), and safety
        (`safe`, `thin`, `endangered`, `lost`). A holder has address, stake, weight, capacity (or none), operator,
        network, seen_network (or none), present, shards and chunk_bytes. `unsaid` are holders seen in one network that
        don't say that they share it: network, holders.
        """
        ...

    async def audits(self) -> list[Json]:
        """Storage audits of the latest epochs, newest first.

        Each has epoch, version, status (`open`, `closed`), opened_height, deadline, seed, slash_bp, agrees, shards
        (number, shown, due and answered: addresses) and outcomes (holder, asked, failed, lost).
        """
        ...

    async def offer_storage(self, request: Mapping[str, Any]) -> Json:
        """capacity, operator, network -> transaction id, once it is in a block."""
        ...

    async def propose(self, request: Mapping[str, Any]) -> Json:
        """text, title, language, licence, stake -> proposal id and segment count, once it is in a block."""
        ...

    async def vote(self, request: Mapping[str, Any]) -> Json:
        """proposal, accept, harmful, scores (five basis points a segment, or none), predicted_accept_bp (or none)."""
        ...

    async def transfer(self, request: Mapping[str, Any]) -> Json:
        """to, amount -> transaction id, once it is in a block."""
        ...

    async def report_evidence(self, request: Mapping[str, Any]) -> Json:
        """Evidence (a file of it, in hex) -> transaction ids, once they are in blocks."""
        ...

    async def unjail(self) -> Json:
        """Transaction id, once this node's validator is out of jail."""
        ...

    async def buy_licence(self, request: Mapping[str, Any]) -> Json:
        """price_max (none: whatever the price is) -> version, price, height; the download of the weights starts."""
        ...

    async def download(self) -> Json:
        """State of the weights' download: version, state, chunks_done, chunks_total, chunks_verified, bytes_by_peer."""
        ...

    def chat(self, request: Mapping[str, Any]) -> AbstractAsyncContextManager[AsyncIterator[Json]]:
        """Messages (role, content), max_tokens, temperature, seed, model -> the answer, piece by piece.

        A piece is {"text"}, the last one {"finish_reason", "prompt_tokens", "completion_tokens"}.
        """
        ...

    def metrics(self) -> bytes:
        """Prometheus text format."""
        ...
