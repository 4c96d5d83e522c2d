"""The inputs of a height out of the entries of its log."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deepshard.ballots import Proposal, Vote, VoteKind
from deepshard.consensus.events import (
    Input,
    LockProofReceived,
    ProposalReceived,
    StartHeight,
    TimeoutElapsed,
    ValueBuilt,
    VoteReceived,
)
from deepshard.consensus.types import LockProof, LockProofVote, SafetyState, Step
from deepshard.consensus.validators import ValidatorSet
from deepshard.disk.input_log import LoggedInput, LoggedKind, LoggedRestart, LoggedTimeout, LoggedValue
from deepshard.encoding import encode
from deepshard.errors import MalformedMessage
from deepshard.identity import SecretKey
from deepshard.primitives import content_digest
from deepshard.services.input_history import inputs_of

KEYS = [SecretKey(content_digest(f"validator {number}".encode())) for number in range(4)]
ME = KEYS[0].address
START = StartHeight(5, ValidatorSet.of((key.public, 1) for key in KEYS), ME)
BLOCK = content_digest(b"block")
SAFETY = SafetyState(5, 1, Step.PREVOTE, 0, BLOCK, 0, BLOCK)


def vote_by(key: SecretKey, kind: VoteKind = VoteKind.PREVOTE) -> VoteReceived:
    return VoteReceived(Vote(kind, 5, 0, -1, BLOCK, key.address, bytes(64)))


OWN, OTHER = vote_by(KEYS[0]), vote_by(KEYS[1])
OFFER = Proposal(5, 0, -1, BLOCK, KEYS[1].address, bytes(64))
PROOF = LockProof(5, 0, BLOCK, (LockProofVote(KEYS[2].address, -1, bytes(64)),))
TIMEOUT, VALUE = TimeoutElapsed(Step.PRECOMMIT, 5, 0), ValueBuilt(5, 1, BLOCK)


def entry_of(event: Input) -> LoggedInput:
    match event:
        case VoteReceived(vote):
            return LoggedInput(LoggedKind.VOTE, encode(vote))
        case ProposalReceived(proposal, valid):
            return LoggedInput(LoggedKind.VALID_PROPOSAL if valid else LoggedKind.INVALID_PROPOSAL, encode(proposal))
        case LockProofReceived(proof):
            return LoggedInput(LoggedKind.LOCK_PROOF, encode(proof))
        case TimeoutElapsed(step, _, round_):
            return LoggedInput(LoggedKind.TIMEOUT, encode(LoggedTimeout(step, round_)))
        case ValueBuilt(_, round_, block_id):
            return LoggedInput(LoggedKind.VALUE, encode(LoggedValue(round_, block_id)))
        case StartHeight(safety=safety):
            return LoggedInput(LoggedKind.RESTART, encode(LoggedRestart(1, safety)))


def test_every_kind_of_entry_comes_back_after_the_start() -> None:
    events: list[Input] = [
        ProposalReceived(OFFER, valid=True),
        ProposalReceived(OFFER, valid=False),
        OTHER,
        LockProofReceived(PROOF),
        TIMEOUT,
        VALUE,
    ]
    assert {entry_of(event).kind for event in events} | {LoggedKind.RESTART} == set(LoggedKind)
    assert list(inputs_of(map(entry_of, events), START)) == [START, *events]
    assert list(inputs_of([], START)) == []


def test_a_restart_repeats_ones_own_votes_and_then_the_messages() -> None:
    again = replace(START, safety=SAFETY)
    entries = [entry_of(event) for event in (OTHER, OWN, TIMEOUT, VALUE, again, LockProofReceived(PROOF))]
    assert list(inputs_of(entries, START)) == [
        *(START, OTHER, OWN, TIMEOUT, VALUE),
        *(again, OWN, OTHER, OWN),
        LockProofReceived(PROOF),
    ]


def test_a_follower_and_one_that_never_signed_repeat_no_votes() -> None:
    follower = replace(START, me=None)
    entries = [entry_of(event) for event in (OWN, replace(START, safety=SAFETY))]
    assert list(inputs_of(entries, follower)) == [follower, OWN, replace(follower, safety=SAFETY), OWN]
    entries = [entry_of(event) for event in (OTHER, START)]
    assert list(inputs_of(entries, START)) == [START, OTHER, START, OTHER]


def test_a_log_that_begins_with_a_restart_has_lost_what_came_before() -> None:
    again = replace(START, safety=SAFETY)
    assert list(inputs_of([entry_of(again), entry_of(OTHER)], START)) == [again, OTHER]


@pytest.mark.parametrize("kind", LoggedKind)
def test_what_is_no_entry_is_an_error(kind: LoggedKind) -> None:
    with pytest.raises(MalformedMessage):
        list(inputs_of([LoggedInput(kind, b"\xc1")], START))
