"""What a validator finds of proposals and votes: their height, and a fresh block's time and proposer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from deepshard.ballots import PROPOSAL_TAG, VOTE_TAG, Proposal, Vote, VoteKind
from deepshard.chunk_tree import NO_CHUNKS
from deepshard.consensus import core
from deepshard.consensus.certificates import InvalidLockProof
from deepshard.consensus.events import LockProofReceived, ProposalReceived, StartHeight
from deepshard.consensus.types import Block, LockProof, LockProofVote
from deepshard.consensus.validators import proposer
from deepshard.disk.chain import ChainStore
from deepshard.encoding import decode, encode
from deepshard.gossip import Topic, Verdict
from deepshard.gossip.units import entry_unit, whole_unit
from deepshard.identity import SecretKey
from deepshard.ledger.genesis import genesis_state
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import Genesis, GenesisValidator
from deepshard.limits import BLOCK_BYTES_MAX, CLOCK_DRIFT_MS_MAX, FUTURE_ROUNDS_MAX
from deepshard.primitives import UNITS_PER_TOKEN
from deepshard.services.executor import ChainExecutor, validators_of
from deepshard.services.judging import Judge, Judgement
from deepshard.services.transaction_gossip import TransactionGossip
from deepshard.services.view import ChainView
from deepshard.testing.builders import SMALL_PARAMS
from deepshard.testing.memory_network import MemoryNetwork
from deepshard.wire.messages import BlockProposal, ProofOfLock, Votes

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
    chunks_root=NO_CHUNKS,
    shard_count=0,
    heldout=(),
    general=(),
    canaries=(),
)

STATE = core.start_height(StartHeight(1, validators_of(genesis_state(GENESIS)), None)).state


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
    return judge.judge(whole_unit(Topic.CONSENSUS, BlockProposal.KIND, message), STATE)


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
        judgement = judge.judge(unit, STATE)
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


BLOCK_ID = b"b" * 32


def lock_proof(round_: int, *voters: int, rests_on: int = -1, height: int = 1, block_id: bytes = BLOCK_ID) -> LockProof:
    votes = []
    for key in sorted((list(KEYS.values())[voter] for voter in voters), key=lambda key: key.address):
        unsigned = Vote(VoteKind.PREVOTE, height, round_, rests_on, block_id, key.address, bytes(64))
        signature = key.sign(VOTE_TAG, unsigned.sign_bytes(GENESIS.chain_id))
        votes.append(LockProofVote(key.address, rests_on, signature))
    return LockProof(height, round_, block_id, tuple(votes))


def judgement_of(judge: Judge, proof: LockProof, state: core.State = STATE) -> Judgement:
    return judge.judge(whole_unit(Topic.CONSENSUS, ProofOfLock.KIND, ProofOfLock(encode(proof))), state)


@pytest.mark.clause("6.4/30", "9.3/14")
def test_a_proof_of_lock_is_taken_once_for_each_round_and_block(judge: Judge) -> None:
    proof = lock_proof(0, 0, 1, 2)
    assert judgement_of(judge, proof) == Judgement(Verdict.VALID, event=LockProofReceived(proof))
    assert judgement_of(judge, lock_proof(0, 1, 2, 3)) == Judgement(Verdict.IGNORE)
    assert judgement_of(judge, lock_proof(1, 1, 2, 3)).verdict is Verdict.VALID


@pytest.mark.clause("6.4/30")
@pytest.mark.parametrize(
    ("height", "round_", "verdict"),
    [(0, 0, Verdict.IGNORE), (2, 0, Verdict.LATER), (1, FUTURE_ROUNDS_MAX + 1, Verdict.LATER)],
)
def test_proofs_of_lock_of_another_time_are_not_looked_at(
    judge: Judge, height: int, round_: int, verdict: Verdict
) -> None:
    forged = lock_proof(round_, 0, 1, 2, height=height)
    forged = replace(forged, votes=tuple(replace(one, signature=bytes(64)) for one in forged.votes))
    assert judgement_of(judge, forged) == Judgement(verdict)


@pytest.mark.clause("9.3/11")
def test_a_proof_of_lock_waits_for_the_one_that_it_rests_on(judge: Judge) -> None:
    later, earlier = lock_proof(2, 0, 1, 2, rests_on=0), lock_proof(0, 0, 1, 3)
    assert judgement_of(judge, later) == Judgement(Verdict.LATER)
    known = core.apply(STATE, LockProofReceived(earlier)).state
    assert judgement_of(judge, later, known).event == LockProofReceived(later)


def test_more_blocks_with_a_proof_in_one_round_than_there_can_be_wait(judge: Judge) -> None:
    blocks = [bytes([number]) * 32 for number in range(1, 6)]
    verdicts = [judgement_of(judge, lock_proof(0, 0, 1, 2, block_id=block_id)).verdict for block_id in blocks]
    assert verdicts == [Verdict.VALID] * 4 + [Verdict.LATER]


@pytest.mark.clause("6.4/30")
def test_a_forged_proof_of_lock_is_refused_and_the_true_one_still_taken(judge: Judge) -> None:
    proof = lock_proof(0, 0, 1, 2)
    forged = replace(proof, votes=(*proof.votes[:2], replace(proof.votes[2], signature=bytes(64))))
    with pytest.raises(InvalidLockProof, match="proof-of-lock of height 1, round 0"):
        judgement_of(judge, forged)
    with pytest.raises(InvalidLockProof, match="more than 2/3 is needed"):
        judgement_of(judge, lock_proof(0, 0, 1))
    assert judgement_of(judge, proof).verdict is Verdict.VALID


def test_votes_that_are_counted_already_are_not_verified_again(judge: Judge) -> None:
    proof = lock_proof(0, 0, 1, 2)
    unverifiable = replace(proof, votes=tuple(replace(one, signature=bytes(64)) for one in proof.votes))
    known = core.apply(STATE, LockProofReceived(unverifiable)).state
    assert judgement_of(judge, unverifiable, known).verdict is Verdict.VALID


@pytest.mark.clause("9.3/13")
def test_what_is_recalled_holds_the_proofs_of_the_lock_and_the_valid_value(judge: Judge) -> None:
    first, second = lock_proof(0, 0, 1, 2), lock_proof(2, 0, 1, 2, rests_on=0)
    state = STATE
    for proof in (first, second):
        state = core.apply(state, LockProofReceived(proof)).state
    assert list(judge.recall(state)) == []
    locked = dataclasses.replace(state, round=3, locked_round=0, locked_id=BLOCK_ID, valid_round=2, valid_id=BLOCK_ID)
    assert list(judge.recall(locked)) == [ProofOfLock(encode(first)), ProofOfLock(encode(second))]
