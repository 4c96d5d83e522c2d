"""Auditors with real stores, exchanges and wallets, on a chain that the test decides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from keeper_network import CHAIN_ID, Keepers, Node, model
from msgspec.structs import replace
from trio.testing import MockClock

from deepshard.ledger.audits import audit_counts
from deepshard.ledger.execution import check_transaction
from deepshard.ledger.records import Audit
from deepshard.ledger.transactions import ShowAudit, decode_transaction
from deepshard.primitives import UNITS_PER_TOKEN, ZERO_DIGEST
from deepshard.services.auditor import Auditor, showing_height
from deepshard.services.view import ChainView
from deepshard.services.wallet import Wallet
from deepshard.testing.builders import SMALL_PARAMS

EPOCH, WINDOW = 24, 9
PARAMS = replace(
    SMALL_PARAMS, epoch_blocks=EPOCH, jail_blocks=EPOCH, audits_per_epoch=4, audit_blocks=WINDOW, audit_slash_bp=10
)
STAKE = 1000 * UNITS_PER_TOKEN
SLASH = STAKE * 10 // 10_000


class Access:
    """A node's way to the chain: what it submits waits for the test's next block."""

    def __init__(self, keepers: Keepers, view: ChainView) -> None:
        self._keepers, self._view = keepers, view

    async def account_nonce(self, address: bytes) -> int:
        await trio.lowlevel.checkpoint()
        return self._view.state.account(address).nonce

    async def submit(self, transaction: bytes) -> None:
        check_transaction(self._view.state, CHAIN_ID, transaction)
        if transaction not in self._keepers.waiting:
            self._keepers.waiting.append(transaction)
        await trio.lowlevel.checkpoint()

    async def changed(self) -> None:
        await self._view.changed()


class Auditors:
    """Keepers of which each has a wallet and an auditor, with a scope that ends the auditor."""

    def __init__(self, keepers: Keepers, nursery: trio.Nursery, *, mends: bool) -> None:
        self.keepers = keepers
        self.scopes: dict[bytes, trio.CancelScope] = {}
        self.damaged: list[bytes] = []
        for node in keepers.nodes:
            wallet = Wallet(node.key, CHAIN_ID, Access(keepers, node.view), inclusion_timeout_s=1000.0)
            auditor = Auditor(
                view=node.view,
                wallet=wallet,
                registry=node.registry,
                store=node.store,
                repair=node.exchange.repair if mends else self.damaged.append,
                disk_threads=0,
            )
            scope = self.scopes[node.address] = trio.CancelScope()
            nursery.start_soon(self._run, scope, wallet.run, auditor.run)

    @staticmethod
    async def _run(scope: trio.CancelScope, *services: Callable[[], Awaitable[None]]) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                for service in services:
                    nursery.start_soon(service)

    def silence(self, nodes: list[Node]) -> None:
        """End their auditors, and take back what they have sent and is in no block."""
        keys = {node.key.public for node in nodes}
        for node in nodes:
            self.scopes[node.address].cancel()
        waiting = self.keepers.waiting
        self.keepers.waiting = [data for data in waiting if decode_transaction(data)[1].sender not in keys]

    def audit(self) -> Audit:
        return self.keepers.state.audits()[-1]

    async def until_open(self, *, loser: Node | None = None) -> Audit:
        """Go on to the draw; just before it, `loser` loses all its chunks."""
        await self.keepers.blocks(EPOCH + EPOCH // 2 - 1)
        if loser is not None:
            for entry in model(0)[0].shards:
                loser.store.delete(entry.chunk)
        await self.keepers.blocks(1)
        assert not self.audit().closed
        return self.audit()

    async def until_closed(self) -> Audit:
        await self.keepers.blocks(WINDOW)
        assert self.audit().closed
        return self.audit()

    def lost(self) -> dict[bytes, int]:
        """What each node has lost of its bond."""
        bonds = {node.address: self.keepers.state.validator(node.address) for node in self.keepers.nodes}
        return {address: STAKE - (bond.stake if bond else 0) for address, bond in bonds.items()}

    def holders(self, shard: int) -> list[Node]:
        placed = self.keepers.placed()[shard]
        return [node for node in self.keepers.nodes if node.address in placed]


@asynccontextmanager
async def running(root: Path, *, mends: bool = False) -> AsyncIterator[Auditors]:
    async with trio.open_nursery() as nursery:
        yield Auditors(Keepers(root, nursery, 6, params=PARAMS), nursery, mends=mends)
        nursery.cancel_scope.cancel()


@pytest.mark.clause("11.12/10")
async def test_a_node_that_lost_its_chunks_is_slashed_and_the_others_are_not(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as auditors:
        loser = auditors.keepers.nodes[0]
        await auditors.until_open(loser=loser)
        audit = await auditors.until_closed()
        assert all(drawn.shown and len(drawn.due) == 3 for drawn in audit.shards)
        assert auditors.lost() == {node.address: SLASH * (node is loser) for node in auditors.keepers.nodes}
        asked = {holder: len(shards) for holder, shards, _ in audit_counts(audit)}
        failed = {one.holder: one.failed for one in audit.outcomes if one.failed}
        assert failed == {loser.address: asked[loser.address]}
        assert len(auditors.damaged) == asked[loser.address]  # each told once, not at every block


@pytest.mark.clause("11.12/10")
async def test_a_shard_whose_holders_are_all_silent_is_shown_by_others(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as auditors:
        audit = await auditors.until_open()
        shard = audit.shards[1].shard
        silent = auditors.holders(shard)
        auditors.silence(silent)
        shows = 0
        while not auditors.audit().closed:
            kinds = [type(decode_transaction(data)[1].action) for data in auditors.keepers.waiting]
            early = auditors.keepers.state.chain().height < audit.deadline - WINDOW // 3
            assert not (early and ShowAudit in kinds)
            shows += kinds.count(ShowAudit)
            await auditors.keepers.blocks(1)
        assert shows > 0
        shown = next(drawn for drawn in auditors.audit().shards if drawn.shard == shard)
        assert (shown.shown, shown.answered) == (True, ())
        addresses = {node.address for node in silent}
        assert set(shown.due) == addresses
        assert {address for address, lost in auditors.lost().items() if lost} == addresses


async def test_a_node_that_mends_in_time_passes(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path, mends=True) as auditors:
        loser = auditors.keepers.nodes[0]
        mine = auditors.keepers.assigned(loser)
        await auditors.until_open(loser=loser)
        audit = await auditors.until_closed()
        assert any(drawn.shard in mine for drawn in audit.shards)
        assert set(auditors.lost().values()) == {0}
        assert loser.fetched_bytes > 0


def test_turns_are_one_after_the_other_and_end_before_the_deadline() -> None:
    audit = Audit(3, 0, ZERO_DIGEST, 100, 130, (), (), closed=False)
    addresses = [bytes([number]) * 20 for number in range(30)]
    heights = sorted(showing_height(audit, 5, addresses, address) for address in addresses)
    assert heights[:8] == list(range(120, 128))
    assert set(heights[8:]) == {128}
    assert [showing_height(audit, 5, addresses, each) for each in addresses] != [
        showing_height(audit, 6, addresses, each) for each in addresses
    ]
    short = replace(audit, deadline=102)
    assert {showing_height(short, 5, addresses, each) for each in addresses} == {102}
