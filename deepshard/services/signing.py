"""Signing for consensus: nothing is signed that the guard on disk has not allowed and recorded."""

from __future__ import annotations

import msgspec
import structlog

from deepshard.ballots import PROPOSAL_TAG, VOTE_TAG, Proposal, Vote, VoteKind
from deepshard.consensus.events import CastVote, Propose
from deepshard.consensus.types import SafetyState, Step
from deepshard.disk.guard import DoubleSignRefused, Signed, SigningGuard
from deepshard.disk.input_log import InputLog
from deepshard.identity import SecretKey

_log = structlog.get_logger(__name__)


class Signer:
    """A validator's key behind its guard. A refusal is logged and answered with None: silence costs a round at most."""

    def __init__(self, key: SecretKey, chain_id: str, guard: SigningGuard, log: InputLog) -> None:
        self._key = key
        self._chain_id = chain_id
        self._guard = guard
        self._log = log

    def propose(self, offer: Propose, safety: SafetyState) -> Proposal | None:
        """Sign a proposal."""
        if not self._allowed(
            Signed(offer.height, offer.round, Step.PROPOSE, offer.block_id, offer.valid_round), safety
        ):
            return None
        unsigned = Proposal(offer.height, offer.round, offer.valid_round, offer.block_id, self._key.address, bytes(64))
        signature = self._key.sign(PROPOSAL_TAG, unsigned.sign_bytes(self._chain_id))
        return msgspec.structs.replace(unsigned, signature=signature)

    def vote(self, ballot: CastVote, safety: SafetyState) -> Vote | None:
        """Sign a vote."""
        step = Step(int(ballot.kind))
        asked = Signed(ballot.height, ballot.round, step, ballot.block_id, ballot.valid_round)
        return self._signed(asked) if self._allowed(asked, safety) else None

    def proposed(self, height: int, round_: int) -> bytes | None:
        """Id of the block this node has already proposed in a round, before a restart."""
        signed = self._guard.signed(height)
        return next((entry.block_id for entry in signed if (entry.round, entry.step) == (round_, Step.PROPOSE)), None)

    def repeat_votes(self, height: int) -> list[Vote]:
        """Every vote signed at a height before, signed again: Ed25519 gives the same bytes."""
        return [self._signed(entry) for entry in self._guard.signed(height) if entry.step is not Step.PROPOSE]

    def _allowed(self, asked: Signed, safety: SafetyState) -> bool:
        self._log.flush()
        try:
            self._guard.allow_and_record(asked, safety, logged=self._log.count)
        except DoubleSignRefused as error:
            _log.error("consensus.double_sign_refused", error=str(error))
            return False
        return True

    def _signed(self, entry: Signed) -> Vote:
        kind = VoteKind(int(entry.step))
        unsigned = Vote(
            kind, entry.height, entry.round, entry.valid_round, entry.block_id, self._key.address, bytes(64)
        )
        signature = self._key.sign(VOTE_TAG, unsigned.sign_bytes(self._chain_id))
        return msgspec.structs.replace(unsigned, signature=signature)
