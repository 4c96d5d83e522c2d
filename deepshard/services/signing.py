"""Signing for consensus: nothing is signed that the guard on disk has not allowed and recorded."""

from __future__ import annotations

import msgspec
import structlog

from deepshard.consensus.events import CastVote, Propose
from deepshard.consensus.types import (
    PROPOSAL_TAG,
    VOTE_TAG,
    Proposal,
    SafetyState,
    Step,
    Vote,
    VoteKind,
    vote_sign_bytes,
)
from deepshard.disk.guard import DoubleSignRefused, SigningGuard
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
        if not self._allowed(Step.PROPOSE, offer.height, offer.round, offer.block_id, safety):
            return None
        unsigned = Proposal(offer.height, offer.round, offer.valid_round, offer.block_id, self._key.address, bytes(64))
        signature = self._key.sign(PROPOSAL_TAG, unsigned.sign_bytes(self._chain_id))
        return msgspec.structs.replace(unsigned, signature=signature)

    def vote(self, ballot: CastVote, safety: SafetyState) -> Vote | None:
        """Sign a vote."""
        if not self._allowed(VoteKind(ballot.kind), ballot.height, ballot.round, ballot.block_id, safety):
            return None
        return self._signed(VoteKind(ballot.kind), ballot.height, ballot.round, ballot.block_id)

    def proposed(self, height: int, round_: int) -> bytes | None:
        """Id of the block this node has already proposed in a round, before a restart."""
        signed = self._guard.signed(height)
        return next((entry.block_id for entry in signed if (entry.round, entry.step) == (round_, Step.PROPOSE)), None)

    def repeat_votes(self, height: int) -> list[Vote]:
        """Every vote signed at a height before, signed again: Ed25519 gives the same bytes."""
        return [
            self._signed(VoteKind(int(entry.step)), entry.height, entry.round, entry.block_id)
            for entry in self._guard.signed(height)
            if entry.step is not Step.PROPOSE
        ]

    def _allowed(self, kind: VoteKind | Step, height: int, round_: int, block_id: bytes, safety: SafetyState) -> bool:
        self._log.flush()
        try:
            self._guard.allow_and_record(kind, height, round_, block_id, safety, logged=self._log.count)
        except DoubleSignRefused as error:
            _log.error("consensus.double_sign_refused", error=str(error))
            return False
        return True

    def _signed(self, kind: VoteKind, height: int, round_: int, block_id: bytes) -> Vote:
        payload = vote_sign_bytes(self._chain_id, kind, height, round_, block_id)
        return Vote(kind, height, round_, block_id, self._key.address, self._key.sign(VOTE_TAG, payload))
