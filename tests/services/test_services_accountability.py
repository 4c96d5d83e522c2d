"""From the votes that nodes see to a conviction on chain: evidence is kept over restarts and reported once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from deepshard.ballots import PROPOSAL_TAG, VOTE_TAG, Proposal, Vote, VoteKind
from deepshard.chunk_tree import NO_CHUNKS
from deepshard.consensus.events import Equivocation, LockForgotten, ProposalEquivocation
from deepshard.consensus.validators import ValidatorSet
from deepshard.disk.journal import Journal
from deepshard.encoding import decode, encode
from deepshard.errors import BadSignature, LocalError
from deepshard.evidence import Evidence, InvalidEvidence, Offence, duplicate_vote, verify_evidence
from deepshard.gossip import Verdict
from deepshard.identity import SecretKey
from deepshard.ledger.accountability import evidence_id
from deepshard.ledger.execution import BlockContext, check_transaction, execute_block, validator_set_at
from deepshard.ledger.genesis import genesis_state
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import Genesis, GenesisAccount, GenesisValidator
from deepshard.ledger.records import Receipt
from deepshard.ledger.state import State
from deepshard.ledger.transactions import ReportEvidence, sign_transaction
from deepshard.net.types import Received
from deepshard.primitives import UNITS_PER_TOKEN as TOKEN
from deepshard.primitives import ZERO_DIGEST, content_digest
from deepshard.services.accountability import (
    HELD,
    REPORT_SPACING_BLOCKS,
    Contradiction,
    EvidenceLocker,
    is_settled,
    report_order,
)
from deepshard.services.transaction_gossip import TransactionGossip
from deepshard.services.view import ChainView
from deepshard.testing.builders import SMALL_PARAMS
from deepshard.testing.chain_cluster import ChainCluster, FullNode, until
from deepshard.testing.memory_network import MemoryNetwork
from deepshard.wire.messages import Votes

VALIDATORS = sorted(
    (SecretKey(content_digest(f"validator {i}".encode())) for i in range(4)), key=lambda key: key.address
)
TRAITOR = VALIDATORS[3]
ONIONS = {key.address: OnionChain(key.seed, 2000) for key in VALIDATORS}
PARAMS = replace(SMALL_PARAMS, unbonding_blocks=60, jail_blocks=30, block_interval_ms=1000, trusting_period_ms=35_000)
GENESIS = Genesis(
    chain_id="accountable",
    time_ms=1_700_000_000_000,
    params=PARAMS,
    validators=tuple(GenesisValidator(key.public, 1000 * TOKEN, ONIONS[key.address].tip) for key in VALIDATORS),
    accounts=tuple(GenesisAccount(key.address, 10 * TOKEN) for key in VALIDATORS),
    manifest=content_digest(b"manifest"),
    weights_root=content_digest(b"weights"),
    chunks_root=NO_CHUNKS,
    shard_count=0,
    heldout=(content_digest(b"h"),),
    general=(content_digest(b"g"),),
    canaries=(content_digest(b"c"),),
)
A, B = content_digest(b"a"), content_digest(b"b")
SET = ValidatorSet.of((public, stake) for _, public, stake in validator_set_at(genesis_state(GENESIS)))


def vote(kind: VoteKind, height: int, round_: int, block: bytes, *, key: SecretKey = TRAITOR) -> Vote:
    unsigned = Vote(kind, height, round_, -1, block, key.address, bytes(64))
    return replace(unsigned, signature=key.sign(VOTE_TAG, unsigned.sign_bytes(GENESIS.chain_id)))


def proposal(block: bytes) -> Proposal:
    unsigned = Proposal(1, 0, -1, block, TRAITOR.address, bytes(64))
    return replace(unsigned, signature=TRAITOR.sign(PROPOSAL_TAG, unsigned.sign_bytes(GENESIS.chain_id)))


def twice(height: int, *, key: SecretKey = TRAITOR, round_: int = 0) -> Equivocation:
    return Equivocation(*(vote(VoteKind.PREVOTE, height, round_, block, key=key) for block in (A, B)))


@dataclass
class Disk:
    """A journal that is closed before it is opened again, as by a restart."""

    path: Path
    journal: Journal | None = None

    def locker(self) -> EvidenceLocker:
        self.close()
        self.journal = Journal(self.path)
        return EvidenceLocker(ChainView(genesis_state(GENESIS), None), self.journal)

    def close(self) -> None:
        if self.journal is not None:
            self.journal.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "journal.sqlite")
    yield disk
    disk.close()


def in_memory() -> EvidenceLocker:
    return EvidenceLocker(ChainView(genesis_state(GENESIS), None))


FOUND: dict[str, Contradiction] = {
    "duplicate-vote": twice(1),
    "duplicate-proposal": ProposalEquivocation(proposal(B), proposal(A)),
    "amnesia": LockForgotten(vote(VoteKind.PRECOMMIT, 1, 0, A), vote(VoteKind.PREVOTE, 1, 1, B)),
}


@pytest.mark.parametrize("kind", FOUND)
def test_what_consensus_finds_is_kept_over_a_restart(disk: Disk, kind: str) -> None:
    kept = disk.locker()
    kept.note(FOUND[kind], SET)
    (held,) = kept
    assert verify_evidence(held.evidence, GENESIS.chain_id).kind == kind
    assert [one.evidence for one in disk.locker()] == [held.evidence]


def test_one_piece_is_kept_for_each_validator_and_epoch(disk: Disk) -> None:
    kept = disk.locker()
    for round_ in range(50):
        kept.note(twice(1, round_=round_), SET)
    for found in FOUND.values():
        kept.note(found, SET)
    kept.note(twice(1, key=VALIDATORS[0]), SET)
    kept.note(twice(6), SET)  # of the next epoch
    offences = [(one.offence.validator, one.offence.height, one.offence.round) for one in disk.locker()]
    assert offences == [(TRAITOR.address, 1, 0), (VALIDATORS[0].address, 1, 0), (TRAITOR.address, 6, 0)]


def test_evidence_against_nobody_of_the_set_is_not_kept() -> None:
    kept = in_memory()
    kept.note(twice(1), ValidatorSet.of((key.public, 1) for key in VALIDATORS[:3]))
    assert list(kept) == []


def test_a_journal_of_something_else_is_refused(disk: Disk) -> None:
    disk.journal = Journal(disk.path)
    disk.journal.put(HELD, encode(("junk",)))
    with pytest.raises(LocalError, match="evidence can't be read"):
        disk.locker()


@pytest.mark.parametrize(
    ("validator", "height", "settled"),
    [(TRAITOR.address, 1, False), (TRAITOR.address, 2, False), (TRAITOR.address, 0, True), (bytes(20), 1, True)],
)
def test_what_can_change_nothing_is_settled(validator: bytes, height: int, settled: bool) -> None:  # noqa: FBT001  # expected
    assert is_settled(genesis_state(GENESIS), Offence("amnesia", validator, height, 0)) is settled


def test_the_order_of_reporters_differs_from_crime_to_crime_and_leaves_out_the_accused() -> None:
    kept = in_memory()
    for key in VALIDATORS:
        for height in (1, 6, 11, 16):
            kept.note(twice(height, key=key), SET)
    orders = {tuple(report_order(genesis_state(GENESIS), one.evidence)) for one in kept}
    assert len(orders) > 8
    for one in kept:
        order = report_order(genesis_state(GENESIS), one.evidence)
        assert set(order) == {key.address for key in VALIDATORS} - {one.offence.validator}


@pytest.mark.clause("6.4/7")
def test_a_report_that_proves_nothing_costs_whoever_relays_it_and_one_too_late_costs_nothing() -> None:
    good = duplicate_vote(TRAITOR.public, *(vote(VoteKind.PREVOTE, 1, 0, block) for block in (A, B)))
    swapped = replace(good, vote_a=good.vote_b, vote_b=good.vote_a)
    forged = replace(good, vote_a=replace(good.vote_a, signature=bytes(64)))
    state = genesis_state(GENESIS)

    def gossip(now: State) -> TransactionGossip:
        network = MemoryNetwork().join("n", roles=("validator",))
        return TransactionGossip(network, lambda data: check_transaction(now, GENESIS.chain_id, data))

    def report(key: SecretKey, evidence: Evidence) -> bytes:
        return sign_transaction(key, GENESIS.chain_id, 0, ReportEvidence(evidence))

    for evidence, error in ((swapped, InvalidEvidence), (forged, BadSignature)):
        with pytest.raises(error):
            gossip(state).take(report(VALIDATORS[0], evidence))
    assert gossip(state).take(report(VALIDATORS[0], good)) is Verdict.VALID
    proposer = VALIDATORS[1]
    context = BlockContext(
        GENESIS.chain_id, 1, proposer.address, ONIONS[proposer.address].preimage(ONIONS[proposer.address].tip)
    )
    convicted = execute_block(state, context, [report(VALIDATORS[0], good)]).state
    assert gossip(convicted).take(report(VALIDATORS[2], good)) is Verdict.LATER


# -- whole nodes -----------------------------------------------------------------------------------------------------


async def network(folder: Path, nursery: trio.Nursery, keys: list[SecretKey]) -> tuple[ChainCluster, list[FullNode]]:
    running = ChainCluster(GENESIS, ONIONS, folder, nursery)
    nodes = [running.start(f"v{VALIDATORS.index(key)}", key) for key in keys]
    running.connect(*nodes)
    await until(lambda: all(node.view.height >= 1 for node in nodes), nodes[0].view)
    return running, nodes


async def tell(nodes: list[FullNode], make: Callable[[int], list[Vote]]) -> int:
    """Let nodes hear votes of the height that the first of them decides, as from a peer; the height."""
    height = nodes[0].view.height + 1
    peer = nodes[0].port.peers()[0]
    for node in nodes:
        await node.chain.mailbox.put(Received(peer, Votes(tuple(encode(one) for one in make(height))), b""))
    return height


def slashes(node: FullNode) -> list[Receipt]:
    rows = node.store.receipts(after=0, account=TRAITOR.address, subject=None, limit=100)
    receipts = [decode(row.data, Receipt, bytes_max=1 << 16) for row in rows]
    return [receipt for receipt in receipts if receipt.kind == "evidence-slash"]


def two_prevotes(height: int) -> list[Vote]:
    return [vote(VoteKind.PREVOTE, height, 0, block) for block in (A, ZERO_DIGEST)]


@pytest.mark.clause("9.5/7", "11.11/2", "11.11/5")
async def test_a_double_vote_that_all_see_is_reported_and_punished_once(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with trio.open_nursery() as nursery:
        _, nodes = await network(tmp_path, nursery, VALIDATORS[:3])
        height = await tell(nodes, two_prevotes)
        await until(lambda: all(node.view.state.conviction(TRAITOR.address) for node in nodes), nodes[0].view)
        await until(lambda: all(node.view.height >= height + 12 for node in nodes), nodes[0].view)
        for node in nodes:
            conviction = node.view.state.conviction(TRAITOR.address)
            assert conviction is not None
            assert (conviction.count, conviction.offence_height) == (1, height)
            assert [receipt.amount for receipt in slashes(node)] == [-50 * TOKEN]
            assert list(node.locker) == []
            members = {address for address, _, _ in node.view.state.active_validators()}
            assert members == {key.address for key in VALIDATORS[:3]}
        nursery.cancel_scope.cancel()


@pytest.mark.clause("11.11/5")
async def test_the_only_witness_reports_when_its_turn_comes_also_after_a_restart(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    async with trio.open_nursery() as nursery:
        running, nodes = await network(tmp_path, nursery, VALIDATORS[:3])
        await tell(nodes[:1], two_prevotes)
        await until(lambda: list(nodes[0].locker) != [], nodes[0].view)
        (held,) = nodes[0].locker
        await running.stop("v0")
        again = running.start("v0", VALIDATORS[0])
        running.connect(again, *nodes[1:])
        assert [one.evidence for one in again.locker] == [held.evidence]
        await until(lambda: nodes[1].view.state.conviction(TRAITOR.address) is not None, nodes[1].view)
        conviction = nodes[1].view.state.conviction(TRAITOR.address)
        assert conviction is not None
        assert conviction.evidence == evidence_id(held.evidence)
        assert conviction.height <= held.offence.height + 2 * REPORT_SPACING_BLOCKS + 4
        await until(lambda: list(again.locker) == [], again.view)
        nursery.cancel_scope.cancel()
