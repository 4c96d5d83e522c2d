"""Prevotes that name their proof-of-lock: counted where it is known, carried in one piece, and evidence when false."""

from __future__ import annotations

from dataclasses import replace

import pytest
from consensus_network import HEIGHT, block, proposal_in, secret_keys, validator_set, vote_by

from deepshard.ballots import VoteKind
from deepshard.consensus import core
from deepshard.consensus.events import (
    CastVote,
    Decide,
    Equivocation,
    LockForgotten,
    LockProofReceived,
    StartHeight,
    VoteReceived,
)
from deepshard.consensus.forensics import culprits, evidence_in
from deepshard.consensus.types import LockProof, LockProofVote, Step
from deepshard.evidence import Amnesia, DuplicateVote
from deepshard.primitives import ZERO_DIGEST as NIL

SET = validator_set(1, 1, 1, 1)
A, B = block("a"), block("b")
PREVOTE, PRECOMMIT = VoteKind.PREVOTE, VoteKind.PRECOMMIT
KEYS = {key.address: key.public for key in secret_keys(4)}


def at_round(round_: int) -> core.State:
    """A follower in a round, past its proposal."""
    state = core.start_height(StartHeight(HEIGHT, SET, None)).state
    return replace(state, round=round_, step=Step.PREVOTE, valid_blocks=frozenset({A, B}))


def feed(state: core.State, *events: VoteReceived | LockProofReceived) -> tuple[core.State, list[object]]:
    effects: list[object] = []
    for event in events:
        transition = core.apply(state, event)
        state = transition.state
        effects += transition.effects
    return state, effects


def prevotes(round_: int, block_id: bytes, rests_on: int, voters: tuple[int, ...] = (0, 1, 2)) -> list[VoteReceived]:
    return [vote_by(SET, index, PREVOTE, round_, block_id, rests_on) for index in voters]


@pytest.mark.clause("9.3/11")
def test_prevotes_count_once_the_proof_they_rest_on_is_known() -> None:
    state, _ = feed(at_round(2), *prevotes(2, A, 1))
    assert not core.has_lock_proof(state, 2, A)
    assert state.valid_round == -1
    state, _ = feed(state, *prevotes(1, A, -1, (1, 2, 3)))
    assert core.has_lock_proof(state, 2, A)
    assert (state.valid_round, state.valid_id) == (2, A)


@pytest.mark.clause("9.3/11")
def test_two_thirds_of_justified_votes_are_needed_whatever_the_rest_claims() -> None:
    state, _ = feed(at_round(2), *prevotes(2, A, -1, (0, 1)), *prevotes(2, A, 1, (2, 3)))
    assert not core.has_lock_proof(state, 2, A)


@pytest.mark.clause("9.2/9")
@pytest.mark.parametrize(
    ("kind", "block_id", "rests_on"),
    [(PREVOTE, NIL, 0), (PRECOMMIT, A, 0), (PREVOTE, A, 2), (PREVOTE, A, 3)],
)
def test_votes_that_name_a_proof_they_cannot_rest_on_are_not_taken(
    kind: VoteKind, block_id: bytes, rests_on: int
) -> None:
    state = at_round(2)
    assert core.apply(state, vote_by(SET, 0, kind, 2, block_id, rests_on)) == core.Transition(state)


def test_one_block_with_two_reasons_is_two_votes_but_one_power() -> None:
    state, effects = feed(at_round(2), *prevotes(2, A, -1, (0,)), *prevotes(2, A, 1, (0,)))
    assert state.tally(2, PREVOTE).power_by_id == {A: 1}
    assert [type(effect) for effect in effects] == [Equivocation]


def test_a_proof_of_lock_brings_votes_that_were_refused() -> None:
    noise = [vote_by(SET, 0, PREVOTE, 1, block(f"noise {i}")) for i in range(3)]
    state, _ = feed(at_round(2), *noise, *prevotes(1, A, -1, (0, 1)))
    assert not core.has_lock_proof(state, 1, A)  # validator 0 has used up its votes
    proof = LockProof(HEIGHT, 1, A, tuple(LockProofVote(SET.validators[i].address, -1, bytes(64)) for i in (0, 1, 2)))
    state, _ = feed(state, LockProofReceived(proof))
    assert core.has_lock_proof(state, 1, A)
    assert core.lock_proofs(state, 1, A) == (proof,)


def test_less_than_a_quorum_is_no_proof_of_lock() -> None:
    state = at_round(2)
    entries = tuple(LockProofVote(SET.validators[i].address, -1, bytes(64)) for i in (0, 1))
    assert core.apply(state, LockProofReceived(LockProof(HEIGHT, 1, A, entries))) == core.Transition(state)
    assert core.apply(state, LockProofReceived(LockProof(HEIGHT, 1, A, entries * 2))) == core.Transition(state)


def test_a_proof_comes_after_those_it_rests_on() -> None:
    state, _ = feed(at_round(3), *prevotes(2, A, 1), *prevotes(1, A, -1, (1, 2, 3)))
    assert [(proof.round, {vote.valid_round for vote in proof.votes}) for proof in core.lock_proofs(state, 2, A)] == [
        (1, {-1}),
        (2, {1}),
    ]
    assert core.lock_proofs(state, 2, B) == ()
    other, _ = feed(at_round(3), *(LockProofReceived(proof) for proof in core.lock_proofs(state, 2, A)))
    assert core.has_lock_proof(other, 2, A)


@pytest.mark.clause("9.5/1")
@pytest.mark.parametrize("precommit_first", [True, False])
@pytest.mark.parametrize(("rests_on", "guilty"), [(-1, True), (0, True), (1, False)])
def test_a_prevote_against_ones_precommit_needs_a_proof_of_that_round(
    rests_on: int,
    guilty: bool,  # noqa: FBT001
    precommit_first: bool,  # noqa: FBT001
) -> None:
    pair = [vote_by(SET, 0, PRECOMMIT, 1, A), vote_by(SET, 0, PREVOTE, 2, B, rests_on)]
    _, effects = feed(at_round(2), *(pair if precommit_first else pair[::-1]))
    assert effects == ([LockForgotten(pair[0].vote, pair[1].vote)] if guilty else [])


@pytest.mark.clause("9.3/12")
def test_to_prevote_what_one_is_locked_on_names_the_lock() -> None:
    state = replace(at_round(3), me=SET.validators[3].address, step=Step.PROPOSE, locked_round=1, locked_id=A)
    for valid_round in (-1, 0):
        known, _ = feed(state, *prevotes(0, A, -1))
        effects = core.apply(known, proposal_in(SET, 3, A, valid_round)).effects
        assert effects[0] == CastVote(PREVOTE, HEIGHT, 3, A, 1)


def test_a_fork_convicts_more_than_a_third_of_the_power() -> None:
    """Validators 0 and 1 are faulty. 2 decides A in round 0 and knows nothing else; 3 decides B in a later round."""
    first, _ = feed(at_round(0), *prevotes(0, A, -1), *(vote_by(SET, i, PRECOMMIT, 0, A) for i in (0, 1, 2)))
    assert first.decision == A
    # What 3 sees: the prevotes of the faulty for B in round 1, on the word of nothing, and its own.
    later, effects = feed(
        at_round(1), *prevotes(1, B, -1, (0, 1, 3)), *(vote_by(SET, i, PRECOMMIT, 1, B) for i in (0, 1, 3))
    )
    assert later.decision == B
    assert [type(effect) for effect in effects if isinstance(effect, Decide)] == [Decide]
    seen = [
        vote
        for state in (first, later)
        for tally in state.tallies.values()
        for votes in tally.votes.values()
        for vote in votes
    ]
    found = evidence_in(seen, KEYS)
    assert {type(one) for one in found} == {Amnesia}
    assert culprits(found) == {SET.validators[0].address, SET.validators[1].address}


def test_a_false_claim_of_a_proof_leads_nowhere() -> None:
    """As above, but the faulty claim a proof of round 0 for B, which would clear them: then their votes don't count."""
    later, _ = feed(at_round(1), *prevotes(1, B, 0, (0, 1)), *prevotes(1, B, -1, (3,)))
    assert not core.has_lock_proof(later, 1, B)
    assert later.valid_round == -1
    # To show that proof they must vote twice in round 0.
    shown, _ = feed(later, *prevotes(0, B, -1, (0, 1, 3)))
    assert core.has_lock_proof(shown, 1, B)
    seen = [vote.vote for vote in (*prevotes(0, A, -1), *prevotes(0, B, -1, (0, 1, 3)))]
    found = evidence_in(seen, KEYS)
    assert {type(one) for one in found} == {DuplicateVote}
    assert culprits(found) == {SET.validators[0].address, SET.validators[1].address}
