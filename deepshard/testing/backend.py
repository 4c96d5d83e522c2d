"""A node of prepared answers behind the real HTTP API, for tests of clients."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import trio

from deepshard.api.backend import Json
from deepshard.primitives import UNITS_PER_TOKEN, format_address

ALICE = format_address(bytes(range(20)))
PROPOSAL = "ab" * 32


class ScriptedBackend:
    """Implements `deepshard.api.backend.Backend`.

    Attributes:
        calls: what was asked, in order, as (method, arguments).
        failure: raised by every method while set.
        pieces: what `chat` yields; an exception among them is raised there.
        chat_open: how many chats are in progress.
        gate: if set, `chat` waits for it after the first piece.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.failure: Exception | None = None
        self.pieces: list[Json | Exception] = [
            {"text": "The moon "},
            {"text": "turns."},
            {"finish_reason": "stop", "prompt_tokens": 5, "completion_tokens": 4},
        ]
        self.chat_open = 0
        self.gate: trio.Event | None = None

    def _called(self, name: str, arguments: Any = None) -> None:  # noqa: ANN401  # whatever the method takes
        self.calls.append((name, arguments))
        if self.failure is not None:
            raise self.failure

    async def status(self) -> Json:
        """A small network of one peer."""
        self._called("status")
        return {
            "chain_id": "test",
            "address": ALICE,
            "roles": ["validator", "inference"],
            "height": 12,
            "version": 3,
            "licence_price": 2 * UNITS_PER_TOKEN,
            "supply": {"genesis": 1000 * UNITS_PER_TOKEN, "conserved": True},
            "peers": [{"address": ALICE, "remote": "127.0.0.1:9", "outbound": True, "bytes_in": 1, "bytes_out": 2}],
            "model": {"version": 3, "manifest": "cd" * 32, "weights_root": "ef" * 32},
        }

    async def account(self, address: str) -> Json:
        """An account with a balance of 12.5 tokens."""
        self._called("account", address)
        return {"address": address, "balance": 12_500_000_000, "locked": 0, "unbonding": 0, "bonded": 7, "nonce": 2}

    async def proposals(self) -> list[Json]:
        """One accepted proposal."""
        self._called("proposals")
        tally = {"rule": "dynamic-threshold", "accept_bp": 8000, "threshold_bp": 5500, "voters": 4, "segments": []}
        return [
            {
                "id": PROPOSAL,
                "proposer": ALICE,
                "title": "Moons [red]\x1b[31m",
                "stake": 50 * UNITS_PER_TOKEN,
                "status": "accepted",
                "segments": [{"digest": "00" * 32, "size": 10}],
                "tally": tally,
            }
        ]

    async def rounds(self) -> list[Json]:
        """One closed round with one trainer."""
        self._called("rounds")
        trainer = {"address": ALICE, "stake": 10**10, "outcome": "accepted", "reason": "medoid", "paid": -1_500_000_000}
        return [{"number": 1, "status": "closed", "reason": "medoid", "base_version": 2, "trainers": [trainer]}]

    async def receipts(self, *, after: int, account: str | None, subject: str | None) -> list[Json]:
        """No receipts."""
        self._called("receipts", (after, account, subject))
        return []

    async def explain(self, subject: str) -> Json:
        """A proposal that has a tally."""
        self._called("explain", subject)
        return {"subject": subject, "stake": 50 * UNITS_PER_TOKEN, "tally": {"accept_bp": 8000}}

    async def block(self, height: int) -> Json:
        """A block with one signer."""
        self._called("block", height)
        return {"height": height, "proposer": ALICE, "round": 0, "signers": [ALICE]}

    async def evidence(self) -> Json:
        """One piece that is held, and one conviction."""
        self._called("evidence")
        held = {"kind": "amnesia", "validator": ALICE, "height": 12, "round": 1, "evidence": "44" * 32}
        conviction = {"validator": ALICE, "kind": "duplicate-vote", "evidence": "55" * 32, "offence_height": 7}
        conviction |= {"height": 9, "covered_height": 49, "jailed_until": 109, "slash_bp": 500, "count": 1}
        conviction |= {"slashed": 50 * UNITS_PER_TOKEN, "text": "It signed twice."}
        return {"held": [held], "convictions": [conviction]}

    async def report_evidence(self, request: Mapping[str, Any]) -> Json:
        """Take the report."""
        self._called("report_evidence", dict(request))
        return {"transactions": ["66" * 32]}

    async def unjail(self) -> Json:
        """Let the validator out."""
        self._called("unjail")
        return {"transaction": "77" * 32}

    async def licences(self) -> list[Json]:
        """One licence."""
        self._called("licences")
        return [{"first_version": 3, "last_version": 5, "price": 10**9, "height": 9}]

    async def shards(self) -> Json:
        """Two shards, one of which has a holder that is away."""
        self._called("shards")
        bob = format_address(bytes(20))
        shard = {"name": "w[0:2] and 1 more", "decoded_bytes": 2_097_152, "chunk_bytes": 1_500_000, "domains": 2}
        holder = {"stake": 5, "weight": 5, "capacity": None, "operator": "", "network": "", "seen_network": None}
        return {
            "version": 3,
            "manifest": "cd" * 32,
            "replication": 2,
            "shards": [
                {"number": 0, **shard, "holders": [ALICE], "copies": 1, "failures_to_lose": 1, "safety": "safe"},
                {"number": 1, **shard, "holders": [bob, ALICE], "copies": 1, "failures_to_lose": 1}
                | {"safety": "endangered"},
            ],
            "holders": [
                {"address": ALICE, **holder, "operator": "alice\x1b[31m", "present": True, "shards": 2}
                | {"chunk_bytes": 3_000_000, "capacity": 10**12, "seen_network": "192.0.2.0/24"},
                {"address": bob, **holder, "present": False, "shards": 1, "chunk_bytes": 1_500_000},
            ],
            "unsaid": [{"network": "192.0.2.0/24", "holders": [ALICE, bob]}],
        }

    async def audits(self) -> list[Json]:
        """One that is open, and one in which somebody failed."""
        self._called("audits")
        bob = format_address(bytes(20))
        audit = {"version": 3, "seed": "88" * 32, "slash_bp": 10, "agrees": True}
        asked = {"number": 4, "shown": True, "due": [ALICE, bob], "answered": [ALICE]}
        unknown = {"number": 9, "shown": False, "due": [], "answered": []}
        outcomes = [
            {"holder": ALICE, "asked": 1, "failed": 0, "lost": 0},
            {"holder": bob, "asked": 1, "failed": 1, "lost": UNITS_PER_TOKEN},
        ]
        return [
            {"epoch": 8, "status": "open", "opened_height": 425, "deadline": 445, **audit}
            | {"shards": [asked, unknown], "outcomes": []},
            {"epoch": 7, "status": "closed", "opened_height": 375, "deadline": 395, **audit}
            | {"shards": [asked, unknown], "outcomes": outcomes},
        ]

    async def offer_storage(self, request: Mapping[str, Any]) -> Json:
        """Take the offer."""
        self._called("offer_storage", dict(request))
        return {"transaction": "33" * 32}

    async def propose(self, request: Mapping[str, Any]) -> Json:
        """Accept the proposal."""
        self._called("propose", dict(request))
        return {"proposal": PROPOSAL, "segments": 1, "transaction": "11" * 32}

    async def vote(self, request: Mapping[str, Any]) -> Json:
        """Record the vote."""
        self._called("vote", dict(request))
        return {"proposal": request["proposal"], "recorded": True}

    async def transfer(self, request: Mapping[str, Any]) -> Json:
        """Pay."""
        self._called("transfer", dict(request))
        return {"transaction": "22" * 32}

    async def buy_licence(self, request: Mapping[str, Any]) -> Json:
        """Sell."""
        self._called("buy_licence", dict(request))
        return {"version": 3, "price": 2 * UNITS_PER_TOKEN, "height": 10}

    async def download(self) -> Json:
        """A finished download."""
        self._called("download")
        return {"version": 3, "state": "done", "chunks_done": 4, "chunks_total": 4, "bytes_by_peer": {ALICE: 99}}

    @asynccontextmanager
    async def chat(self, request: Mapping[str, Any]) -> AsyncIterator[AsyncIterator[Json]]:
        """Yield the pieces, inside a nursery as a real backend has one."""
        self._called("chat", dict(request))
        self.chat_open += 1
        try:
            async with trio.open_nursery(), aclosing(self._stream()) as pieces:  # a client may leave in the middle
                yield pieces
        finally:
            self.chat_open -= 1

    async def _stream(self) -> AsyncGenerator[Json, None]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece
            if self.gate is not None:
                await self.gate.wait()

    def metrics(self) -> bytes:
        """One gauge."""
        self._called("metrics")
        return b"deepshard_height 12.0\n"
