"""What a validator finds of proposals and votes: their height, and a fresh block's time and proposer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from deepshard.ballots import PROPOSAL_TAG, Proposal, Vote, VoteKind
from deepshard.consensus.events import ProposalReceived
from deepshard.consensus.types import Block
from deepshard.consensus.validators import proposer
from deepshard.disk.chain import ChainStore
from deepshard.encoding import decode, encode
from deepshard.gossip import Topic, Verdict
from deepshard.gossip.units import entry_unit, whole_unit
from deepshard.identity import SecretKey
from deepshard.ledger.genesis import genesis_state
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import Genesis, GenesisValidator
from deepshard.limits import BLOCK_BYTES_MAX, CLOCK_DRIFT_MS_MAX
from deepshard.primitives import UNITS_PER_TOKEN
from deepshard.services.executor import ChainExecutor
from deepshard.services.judging import Judge, Judgement
from deepshard.services.transaction_gossip import TransactionGossip
from deepshard.services.view import ChainView
from deepshard.testing.builders import SMALL_PARAMS
from deepshard.testing.memory_network import MemoryNetwork
from deepshard.wire.messages import BlockProposal, Votes

KEYS = {key.address: key for key in (SecretKey(bytes([number]) * 32) for number in range(1, 5))}
ONIONS = {address: OnionChain(key.seed, 600) for address, key in KEYS.items()}
NOW_MS = 1_700_000_100_000
GENESIS = Genesis(
    chain_id="judge-test",
    time_ms=1_700_000_000_000,
    params=SMALL_PARAMS,
    validators=tuple(
        GenesisValidator(key.public, 1000 * UNITS_PER_TOKEN, ONIONS[address].tip) for address, key in KEYS.items()
    ),
    accounts=(),
    manifest=bytes(32),
    weights_root=bytes(32),
    heldout=(),
    general=(),
    canaries=(),
)


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[ChainStore, ChainStore]]:
    opened = []
    for name in ("theirs", "ours"):  # each has its signing guard beside it
        (tmp_path / name).mkdir()
        opened.append(ChainStore(tmp_path / name / "chain.sqlite", genesis_hash=GENESIS.hash()))
    yield opened[0], opened[1]
    for store in opened:
        store.close()


def judged(stores: tuple[ChainStore, ChainStore], *, time_ms: int, round_: int, valid_round: int) -> Judgement:
    """What we find of a block that round 0's proposer built at `time_ms`, offered in `round_`."""
    theirs = ChainExecutor(GENESIS, stores[0], ChainView(genesis_state(GENESIS), None))
    author = proposer(theirs.validators, 1, 0).address
    onion = ONIONS[author]
    block_id = theirs.build([], proposer=author, onion_preimage=onion.preimage(onion.tip), now_ms=time_ms)
    block = theirs.encoded(block_id)
    assert block is not None
    assert decode(block, Block, bytes_max=BLOCK_BYTES_MAX).header.time_ms == time_ms
    offering = KEYS[proposer(theirs.validators, 1, round_).address]
    unsigned = Proposal(1, round_, valid_round, block_id, offering.address, bytes(64))
    proposal = replace(unsigned, signature=offering.sign(PROPOSAL_TAG, unsigned.sign_bytes(GENESIS.chain_id)))

    ours = ChainExecutor(GENESIS, stores[1], ChainView(genesis_state(GENESIS), None))
    transactions = TransactionGossip(MemoryNetwork().join("us"), ours.admit)
    judge = Judge(GENESIS.chain_id, ours, stores[1], transactions, lambda: NOW_MS)
    message = BlockProposal(encode(proposal), block)
    return judge.judge(whole_unit(Topic.CONSENSUS, BlockProposal.KIND, message), 0)


@pytest.fixture
def judge(stores: tuple[ChainStore, ChainStore]) -> Judge:
    ours = ChainExecutor(GENESIS, stores[1], ChainView(genesis_state(GENESIS), None))
    transactions = TransactionGossip(MemoryNetwork().join("us"), ours.admit)
    return Judge(GENESIS.chain_id, ours, stores[1], transactions, lambda: NOW_MS)


@pytest.mark.clause("6.4/8", "6.4/12")
@pytest.mark.parametrize(("height", "verdict"), [(0, Verdict.IGNORE), (2, Verdict.LATER), (2**62, Verdict.LATER)])
def test_other_heights_give_no_event_and_no_fault(judge: Judge, height: int, verdict: Verdict) -> None:
    # Neither signature holds: that these aren't looked at shows that nothing is done for another height.
    vote = Vote(VoteKind.PREVOTE, height, 0, -1, bytes(32), next(iter(KEYS)), bytes(64))
    proposal = Proposal(height, 0, -1, b"b" * 32, next(iter(KEYS)), bytes(64))
    for unit in (
        entry_unit(Topic.CONSENSUS, Votes.KIND, encode(vote)),
        whole_unit(Topic.CONSENSUS, BlockProposal.KIND, BlockProposal(encode(proposal), b"")),
    ):
        judgement = judge.judge(unit, 0)
        assert (judgement.verdict, judgement.event) == (verdict, None)


LATEST = NOW_MS + CLOCK_DRIFT_MS_MAX


@pytest.mark.clause("9.3/4")
@pytest.mark.parametrize(
    ("time_ms", "round_", "valid_round", "valid"),
    [
        (LATEST, 0, -1, True),
        (LATEST + 1, 0, -1, False),
        (LATEST + 1, 1, 0, True),
        (NOW_MS, 1, -1, False),
        (NOW_MS, 1, 0, True),
    ],
    ids=["at the limit", "too late", "too late, but voted for before", "of another", "of another, voted for before"],
)
def test_a_fresh_block_has_its_proposers_name_and_a_time_by_now(
    stores: tuple[ChainStore, ChainStore],
    time_ms: int,
    round_: int,
    valid_round: int,
    valid: bool,  # noqa: FBT001
) -> None:
    judgement = judged(stores, time_ms=time_ms, round_=round_, valid_round=valid_round)
    assert judgement.verdict is Verdict.VALID  # others have to see it to vote nil
    assert isinstance(judgement.event, ProposalReceived)
    assert judgement.event.valid is valid
