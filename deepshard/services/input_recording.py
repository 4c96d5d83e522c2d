"""Between the consensus core's inputs and their log on disk."""

from __future__ import annotations

from collections.abc import Iterator

import structlog

from deepshard.ballots import Proposal, Vote
from deepshard.consensus.events import (
    Input,
    LockProofReceived,
    ProposalReceived,
    StartHeight,
    TimeoutElapsed,
    ValueBuilt,
    VoteReceived,
)
from deepshard.consensus.types import LockProof
from deepshard.disk.chain import ChainStore
from deepshard.disk.input_log import LoggedInput, LoggedKind, LoggedRestart, LoggedTimeout, LoggedValue
from deepshard.encoding import decode, encode
from deepshard.errors import RemoteError
from deepshard.limits import LOCK_PROOF_BYTES_MAX
from deepshard.services.executor import ChainExecutor
from deepshard.services.input_history import HISTORY
from deepshard.services.judging import SIGNED_BYTES_MAX, Judge

_log = structlog.get_logger(__name__)


class InputRecorder:
    """Records what the core took in, and gives it back after a restart."""

    def __init__(self, store: ChainStore, executor: ChainExecutor, judge: Judge) -> None:
        self._store = store
        self._executor = executor
        self._judge = judge

    def took(self, event: Input) -> None:
        """The core has taken in an input: it is recorded, to be on disk before our next signature."""
        match event:
            case ProposalReceived(proposal=proposal, valid=valid):
                kind = LoggedKind.VALID_PROPOSAL if valid else LoggedKind.INVALID_PROPOSAL
                self._store.log.note(proposal.height, LoggedInput(kind, encode(proposal)))
            case VoteReceived(vote=vote):
                self._store.log.note(vote.height, LoggedInput(LoggedKind.VOTE, encode(vote)))
            case LockProofReceived(proof=proof):
                self._store.log.note(proof.height, LoggedInput(LoggedKind.LOCK_PROOF, encode(proof)))
            case TimeoutElapsed(step=step, height=height, round=round_):
                self._store.log.note(height, LoggedInput(LoggedKind.TIMEOUT, encode(LoggedTimeout(step, round_))))
            case ValueBuilt(height=height, round=round_, block_id=block_id):
                self._store.log.note(height, LoggedInput(LoggedKind.VALUE, encode(LoggedValue(round_, block_id))))
            case StartHeight():
                pass  # the host starts heights; `recall` records that it did so again

    def recall(self, height: int) -> Iterator[ProposalReceived | VoteReceived | LockProofReceived]:
        """What the core had taken in at this height before a restart; it is known to the judge, too, from now on.

        A log that has lost entries is reported and used as far as it goes: peers send the rest again.
        """
        recalled = self._store.log.resume(height, self._store.guard.logged(height))
        if recalled.fault is not None:
            _log.error("consensus.log_damaged", height=height, fault=recalled.fault)
        self._note_restart(height)
        for entry in recalled.entries:
            if entry.kind in HISTORY:
                continue
            try:
                event = self._event(entry)
            except RemoteError as error:
                _log.error("consensus.log_damaged", height=height, fault=str(error))
                continue
            if event is not None:
                yield event

    def _note_restart(self, height: int) -> None:
        safety = self._store.guard.safety()
        resumed = safety if safety is not None and safety.height == height else None
        count = self._store.log.count
        if count or resumed is not None:
            restart = LoggedRestart(count, resumed)
            self._store.log.note(height, LoggedInput(LoggedKind.RESTART, encode(restart)))

    def _event(self, entry: LoggedInput) -> ProposalReceived | VoteReceived | LockProofReceived | None:
        if entry.kind is LoggedKind.VOTE:
            vote = decode(entry.data, Vote, bytes_max=SIGNED_BYTES_MAX)
            self._judge.note_own_vote(vote, entry.data)
            return VoteReceived(vote)
        if entry.kind is LoggedKind.LOCK_PROOF:
            proof = decode(entry.data, LockProof, bytes_max=LOCK_PROOF_BYTES_MAX)
            self._judge.note_own_lock_proof(proof)
            return LockProofReceived(proof)
        proposal = decode(entry.data, Proposal, bytes_max=SIGNED_BYTES_MAX)
        if entry.kind is LoggedKind.INVALID_PROPOSAL:
            return ProposalReceived(proposal, valid=False)
        block = self._executor.encoded(proposal.block_id)
        if block is None:
            _log.error("consensus.block_missing", height=proposal.height, block_id=proposal.block_id.hex())
            return None
        self._judge.note_own_proposal(proposal, entry.data, block)
        return ProposalReceived(proposal, valid=True)
