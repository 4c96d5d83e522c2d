"""Judges units of gossip: valid, to be ignored, for later, or to be rejected (chapter 7.2).

Cheap checks come first; a signature is verified only for what is about the height being decided, or new to the mempool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import structlog

from deepshard.ballots import NO_ROUND, Proposal, Vote, VoteKind
from deepshard.consensus import core
from deepshard.consensus.certificates import verify_lock_proof, verify_proposal, verify_vote
from deepshard.consensus.events import LockProofReceived, ProposalReceived, VoteReceived
from deepshard.consensus.types import Block, Header, LockProof
from deepshard.disk.chain import ChainStore
from deepshard.encoding import decode, encode
from deepshard.errors import InvalidBlock, RemoteError
from deepshard.gossip import Topic, Unit, Verdict
from deepshard.limits import BLOCK_BYTES_MAX, CLOCK_DRIFT_MS_MAX, LOCK_PROOF_BYTES_MAX
from deepshard.services.executor import ChainExecutor
from deepshard.services.rebroadcast import HeightLockProofs, HeightProposals, HeightVotes, is_far
from deepshard.services.transaction_gossip import TransactionGossip
from deepshard.wire.messages import BlockProposal, ProofOfLock, Votes

_log = structlog.get_logger(__name__)
SIGNED_BYTES_MAX = 512
RECALLED_PROPOSALS, RECALLED_VOTES = 2, 256


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, who signed the unit if that is known, and what the consensus core gets of it."""

    verdict: Verdict
    author: bytes | None = None
    event: ProposalReceived | VoteReceived | LockProofReceived | None = None


class Judge:
    """Proposals and votes of the height being decided, and transactions for the mempool."""

    def __init__(
        self,
        chain_id: str,
        executor: ChainExecutor,
        store: ChainStore,
        transactions: TransactionGossip,
        now_ms: Callable[[], int],
    ) -> None:
        self._chain_id = chain_id
        self._executor = executor
        self._store = store
        self._transactions = transactions
        self._now_ms = now_ms
        self._votes = HeightVotes()
        self._proposals = HeightProposals()
        self._proofs = HeightLockProofs()

    def start_height(self) -> None:
        """Forget proposals and votes: another height is being decided."""
        self._votes.clear()
        self._proposals.clear()
        self._proofs.clear()

    def note_own_vote(self, vote: Vote, encoded: bytes) -> None:
        """Keep a vote of ours, to be sent again."""
        self._votes.add(vote, encoded, vote.round)

    def note_own_proposal(self, proposal: Proposal, encoded: bytes, block: bytes) -> None:
        """Keep a proposal of ours, to be sent again."""
        self._proposals.add(proposal, encoded, block)

    def note_own_lock_proof(self, proof: LockProof) -> None:
        """A proof-of-lock was sent or recalled."""
        self._proofs.add(proof.round, proof.block_id)

    def recall(self, state: core.State) -> Iterator[BlockProposal | Votes | ProofOfLock]:
        """What is known of the height being decided: all votes, our proofs-of-lock, and the newest proposals.

        Votes go first: they may take a peer that lags to the round of the proposals. Proofs-of-lock hold votes again
        that a peer may have refused, since their voters had said too many other things.
        """
        votes = self._votes.all()
        for start in range(0, len(votes), RECALLED_VOTES):
            yield Votes(votes[start : start + RECALLED_VOTES])
        proofs: dict[bytes, None] = {}
        for round_, block_id in ((state.locked_round, state.locked_id), (state.valid_round, state.valid_id)):
            proofs.update({encode(proof): None for proof in core.lock_proofs(state, round_, block_id)})
        for proof in proofs:
            yield ProofOfLock(proof)
        for proposal, block in self._proposals.newest(RECALLED_PROPOSALS, state.round):
            yield BlockProposal(proposal, block)

    def judge(self, unit: Unit, state: core.State) -> Judgement:
        """Judge a unit of a peer; `state` is that of our own consensus.

        Raises:
            RemoteError: it is to be rejected, and why.
        """
        match unit.content:
            case BlockProposal() as message:
                return self._proposal(message, state.round)
            case ProofOfLock(proof=encoded):
                return self._lock_proof(encoded, state)
            case bytes() as entry if unit.topic is Topic.CONSENSUS:
                return self._vote(entry, state.round)
            case bytes() as entry:
                return Judgement(self._transactions.take(entry))
            case content:
                raise AssertionError(f"no unit of ours holds a {type(content).__name__}")

    def store_pending(self, block_id: bytes) -> None:
        """Write a checked block of the height being decided to disk: a lock is only worth something with its block."""
        encoded = self._executor.encoded(block_id)
        assert encoded is not None
        self._store.save_pending_block(self._executor.height + 1, block_id, encoded)

    def _proposal(self, message: BlockProposal, round_: int) -> Judgement:
        if message.proposal in self._proposals:
            return Judgement(Verdict.IGNORE)
        proposal = decode(message.proposal, Proposal, bytes_max=SIGNED_BYTES_MAX)
        timing = self._timing(proposal.height)
        if timing is not Verdict.VALID:
            return Judgement(timing)
        if is_far(proposal.round, round_) or not self._proposals.admits(proposal):
            return Judgement(Verdict.LATER)
        verify_proposal(self._chain_id, self._executor.validators, proposal)
        executes = self._executes(proposal, message.block)
        self._proposals.add(proposal, message.proposal, message.block)
        if executes:
            self.store_pending(proposal.block_id)
        author = self._executor.validators.by_address[proposal.proposer].public_key
        return Judgement(Verdict.VALID, author, ProposalReceived(proposal, executes))

    def _executes(self, proposal: Proposal, encoded: bytes) -> bool:
        """Whether the block is what was proposed and executes; an invalid one gets nil, not silence."""
        block = decode(encoded, Block, bytes_max=BLOCK_BYTES_MAX)
        if block.header.block_id() != proposal.block_id:
            # The relayer, not the proposer, may have swapped the block: it is blamed and the proposal not consumed.
            raise InvalidBlock(f"block {block.header.block_id().hex()[:16]} came with a proposal of another")
        try:
            if proposal.valid_round < 0:
                self._check_fresh(block.header, proposal)
            self._executor.check(block)
        except RemoteError as error:
            _log.warning(
                "proposal.invalid",
                height=proposal.height,
                round=proposal.round,
                proposer=proposal.proposer.hex(),
                error=str(error),
            )
            return False
        return True

    def _check_fresh(self, header: Header, proposal: Proposal) -> None:
        """What isn't asked of a block that others have voted for before: the proposer's own name, and a time by now.

        A block's time is above its parent's, so one from the far future would be the last for a long time.
        """
        if header.proposer != proposal.proposer:
            raise InvalidBlock(f"fresh block of {header.proposer.hex()} is offered by {proposal.proposer.hex()}")
        latest = self._now_ms() + CLOCK_DRIFT_MS_MAX
        if header.time_ms > latest:
            raise InvalidBlock(f"fresh block has time {header.time_ms}, later than {latest} ms")

    def _vote(self, encoded: bytes, round_: int) -> Judgement:
        vote = decode(encoded, Vote, bytes_max=SIGNED_BYTES_MAX)
        timing = self._timing(vote.height)
        if timing is not Verdict.VALID:
            return Judgement(timing)
        if self._votes.has(vote, encoded):
            return Judgement(Verdict.IGNORE)
        if not self._votes.admits(vote, round_):
            return Judgement(Verdict.LATER)
        verify_vote(self._chain_id, self._executor.validators, vote)
        self._votes.add(vote, encoded, round_)
        author = self._executor.validators.by_address[vote.validator].public_key
        return Judgement(Verdict.VALID, author, VoteReceived(vote))

    def _lock_proof(self, encoded: bytes, state: core.State) -> Judgement:
        proof = decode(encoded, LockProof, bytes_max=LOCK_PROOF_BYTES_MAX)
        timing = self._timing(proof.height)
        if timing is not Verdict.VALID:
            return Judgement(timing)
        if self._proofs.has(proof.round, proof.block_id):
            return Judgement(Verdict.IGNORE)
        if is_far(proof.round, state.round) or not self._proofs.admits(proof.round):
            return Judgement(Verdict.LATER)
        named = {one.valid_round for one in proof.votes} - {NO_ROUND}
        if not all(core.has_lock_proof(state, round_, proof.block_id) for round_ in named):
            return Judgement(Verdict.LATER)
        tally = state.tally(proof.round, VoteKind.PREVOTE)
        verify_lock_proof(
            self._chain_id,
            self._executor.validators,
            proof,
            known=lambda vote: vote in tally.votes.get(vote.validator, ()),
        )
        self._proofs.add(proof.round, proof.block_id)
        return Judgement(Verdict.VALID, event=LockProofReceived(proof))

    def _timing(self, height: int) -> Verdict:
        """Valid for the height being decided, ignored when that is past, for later when it is to come."""
        deciding = self._executor.height + 1
        if height == deciding:
            return Verdict.VALID
        return Verdict.IGNORE if height < deciding else Verdict.LATER
