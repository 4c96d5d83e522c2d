"""The algorithm line by line (arXiv 1807.04938, algorithm 1), four validators of equal power."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from consensus_network import HEIGHT, NO_SIGNATURE, block, proposal_in, secret_keys, validator_set, vote_by

from deepshard.ballots import Vote, VoteKind
from deepshard.consensus import core
from deepshard.consensus.events import (
    BuildValue,
    CastVote,
    Decide,
    Effect,
    Equivocation,
    Input,
    ProposalEquivocation,
    ProposalReceived,
    Propose,
    ScheduleTimeout,
    StartHeight,
    TimeoutElapsed,
    ValueBuilt,
    VoteReceived,
)
from deepshard.consensus.types import SafetyState, Step
from deepshard.consensus.validators import proposer
from deepshard.limits import FUTURE_ROUNDS_MAX
from deepshard.primitives import ZERO_DIGEST

SET = validator_set(1, 1, 1, 1)
A, B = block("a"), block("b")
NIL = ZERO_DIGEST
PREVOTE, PRECOMMIT = VoteKind.PREVOTE, VoteKind.PRECOMMIT
TURNS = [SET.validators.index(proposer(SET, HEIGHT, round_)) for round_ in range(12)]
ME = next(index for index in range(4) if index not in TURNS[:2])
"""Place of the validator under test: no proposer in rounds 0 and 1."""
OTHERS = [index for index in range(4) if index != ME]


def run(state: core.State, *events: Input) -> tuple[core.State, list[Effect]]:
    effects: list[Effect] = []
    for event in events:
        transition = core.apply(state, event)
        state = transition.state
        effects.extend(transition.effects)
    return state, effects


def fresh(me: int | None = ME, safety: SafetyState | None = None) -> core.State:
    address = None if me is None else SET.validators[me].address
    return core.start_height(StartHeight(HEIGHT, SET, address, safety)).state


def votes(kind: VoteKind, round_: int, block_id: bytes, count: int = 3) -> list[Input]:
    return [vote_by(SET, index, kind, round_, block_id) for index in OTHERS[:count]]


def offer(round_: int, block_id: bytes, valid_round: int = -1, *, valid: bool = True) -> ProposalReceived:
    return proposal_in(SET, round_, block_id, valid_round, valid=valid)


def locked(on: bytes = A, *, at: int = 0) -> core.State:
    """A state that locked `on` in round `at` and then timed out into the next round."""
    state, effects = run(fresh(), offer(at, on), *votes(PREVOTE, at, on))
    assert CastVote(PRECOMMIT, HEIGHT, at, on) in effects
    state, _ = run(state, TimeoutElapsed(Step.PRECOMMIT, HEIGHT, at))
    assert (state.round, state.step, state.locked_round, state.locked_id) == (at + 1, Step.PROPOSE, at, on)
    return state


def test_a_proposer_builds_then_proposes_once() -> None:  # lines 14-19
    started = core.start_height(StartHeight(HEIGHT, SET, SET.validators[TURNS[0]].address))
    assert started.effects == (ScheduleTimeout(Step.PROPOSE, HEIGHT, 0), BuildValue(HEIGHT, 0))
    state, effects = run(started.state, ValueBuilt(HEIGHT, 1, B), ValueBuilt(HEIGHT, 0, A), ValueBuilt(HEIGHT, 0, B))
    assert effects == [Propose(HEIGHT, 0, -1, A)]
    assert state.step is Step.PROPOSE


def test_a_proposer_offers_its_valid_value_again() -> None:  # lines 15-16
    turn = next(round_ for round_ in range(1, 12) if TURNS[round_] not in TURNS[:1])
    state = fresh(TURNS[turn])
    others = [index for index in range(4) if index != TURNS[turn]]
    state, _ = run(state, offer(0, A), *(vote_by(SET, index, PREVOTE, 0, A) for index in others))
    _, effects = run(state, *(vote_by(SET, index, PREVOTE, turn, NIL) for index in others[:2]))
    assert effects == [ScheduleTimeout(Step.PROPOSE, HEIGHT, turn), Propose(HEIGHT, turn, 0, A)]


def test_others_only_wait_for_a_proposal() -> None:  # line 21
    started = core.start_height(StartHeight(HEIGHT, SET, SET.validators[ME].address))
    assert started.effects == (ScheduleTimeout(Step.PROPOSE, HEIGHT, 0),)
    assert run(started.state, ValueBuilt(HEIGHT, 0, A)) == (started.state, [])


@pytest.mark.clause("9.3/5")
@pytest.mark.parametrize(("valid", "voted"), [(True, A), (False, NIL)])
def test_a_fresh_proposal_is_prevoted_if_valid(valid: bool, voted: bytes) -> None:  # lines 22-27  # noqa: FBT001
    state, effects = run(fresh(), offer(0, A, valid=valid), offer(0, A, valid=valid))
    assert effects == [CastVote(PREVOTE, HEIGHT, 0, voted)]
    assert state.step is Step.PREVOTE


@pytest.mark.clause("9.3/2")
@pytest.mark.parametrize(("proposed", "voted", "rests_on"), [(A, A, 0), (B, NIL, -1)])
def test_a_lock_answers_other_fresh_proposals_with_nil(proposed: bytes, voted: bytes, rests_on: int) -> None:  # line 23
    _, effects = run(locked(A), offer(1, proposed))
    assert effects == [CastVote(PREVOTE, HEIGHT, 1, voted, rests_on)]


@pytest.mark.clause("9.3/2")
def test_a_reproposal_waits_for_its_proof_of_lock() -> None:  # line 28
    state, _ = run(fresh(), *votes(PREVOTE, 1, NIL, 2))
    assert state.round == 1
    state, effects = run(state, offer(1, B, 0), *votes(PREVOTE, 0, B, 2))
    assert effects == []
    _, effects = run(state, vote_by(SET, OTHERS[2], PREVOTE, 0, B))
    assert effects == [CastVote(PREVOTE, HEIGHT, 1, B, 0)]


@pytest.mark.clause("9.3/5")
def test_an_invalid_reproposal_gets_nil() -> None:
    state, _ = run(fresh(), *votes(PREVOTE, 1, NIL, 2))
    _, effects = run(state, offer(1, B, 0, valid=False))
    assert effects == [CastVote(PREVOTE, HEIGHT, 1, NIL)]


@pytest.mark.clause("9.3/2")
@pytest.mark.parametrize(("lock_round", "voted", "rests_on"), [(0, B, 1), (1, B, 1), (2, NIL, -1)])
def test_a_proof_of_lock_of_no_earlier_round_unlocks(lock_round: int, voted: bytes, rests_on: int) -> None:  # line 29
    state = replace(fresh(), round=3, locked_round=lock_round, locked_id=A, valid_round=lock_round, valid_id=A)
    _, effects = run(state, offer(3, B, 1), *votes(PREVOTE, 1, B))
    assert [effect for effect in effects if isinstance(effect, CastVote)] == [
        CastVote(PREVOTE, HEIGHT, 3, voted, rests_on)
    ]


def test_any_quorum_of_prevotes_starts_the_timeout_once() -> None:  # lines 34-35
    state, _ = run(fresh(), offer(0, A))
    two = [vote_by(SET, OTHERS[0], PREVOTE, 0, A), vote_by(SET, OTHERS[1], PREVOTE, 0, NIL)]
    state, effects = run(state, *two)
    assert effects == []
    state, effects = run(state, vote_by(SET, ME, PREVOTE, 0, A))
    assert effects == [ScheduleTimeout(Step.PREVOTE, HEIGHT, 0)]
    assert run(state, *two, vote_by(SET, OTHERS[2], PREVOTE, 0, B))[1] == []


@pytest.mark.clause("9.3/3")
def test_a_quorum_of_prevotes_locks_and_precommits() -> None:  # lines 36-43
    state, effects = run(fresh(), offer(0, A), *votes(PREVOTE, 0, A))
    assert effects[:2] == [CastVote(PREVOTE, HEIGHT, 0, A), CastVote(PRECOMMIT, HEIGHT, 0, A)]
    assert (state.locked_round, state.locked_id, state.valid_round, state.valid_id) == (0, A, 0, A)


@pytest.mark.clause("9.3/3")
def test_prevotes_alone_lock_nothing_without_the_block() -> None:  # line 36
    state, _ = run(fresh(), TimeoutElapsed(Step.PROPOSE, HEIGHT, 0), *votes(PREVOTE, 0, A))
    assert (state.step, state.locked_round, state.valid_round) == (Step.PREVOTE, -1, -1)
    state, effects = run(state, offer(0, A))
    assert effects == [CastVote(PRECOMMIT, HEIGHT, 0, A)]
    assert state.locked_id == A


def test_nothing_is_locked_or_valid_before_we_prevoted() -> None:  # line 36
    state, _ = run(fresh(), *votes(PREVOTE, 1, NIL, 2))
    state, _ = run(state, offer(1, B, 0), *votes(PREVOTE, 1, B))
    assert (state.round, state.step, state.locked_round, state.valid_round) == (1, Step.PROPOSE, -1, -1)
    state, effects = run(state, TimeoutElapsed(Step.PROPOSE, HEIGHT, 1))
    assert effects == [
        CastVote(PREVOTE, HEIGHT, 1, NIL),
        CastVote(PRECOMMIT, HEIGHT, 1, B),
    ]
    assert (state.locked_round, state.valid_round) == (1, 1)


def test_a_late_quorum_of_prevotes_updates_the_valid_value_only() -> None:  # lines 36, 42-43
    state, _ = run(fresh(), offer(0, A), *votes(PREVOTE, 0, A, 2), TimeoutElapsed(Step.PREVOTE, HEIGHT, 0))
    assert state.step is Step.PRECOMMIT
    state, effects = run(state, vote_by(SET, OTHERS[2], PREVOTE, 0, A))
    assert not [effect for effect in effects if isinstance(effect, CastVote)]
    assert (state.locked_round, state.valid_round, state.valid_id) == (-1, 0, A)


def test_a_higher_proof_of_lock_moves_the_lock() -> None:  # lines 36-41
    state, effects = run(locked(A), offer(1, B), *votes(PREVOTE, 1, B))
    assert effects[:2] == [CastVote(PREVOTE, HEIGHT, 1, NIL), CastVote(PRECOMMIT, HEIGHT, 1, B)]
    assert (state.locked_round, state.locked_id) == (1, B)


def test_a_quorum_for_nil_precommits_nil_and_keeps_the_lock() -> None:  # lines 44-46
    state, effects = run(locked(A), offer(1, B), *votes(PREVOTE, 1, NIL))
    assert effects[-1] == CastVote(PRECOMMIT, HEIGHT, 1, NIL)
    assert (state.locked_round, state.locked_id) == (0, A)


@pytest.mark.parametrize("step", list(Step))
def test_any_quorum_of_precommits_starts_the_timeout_in_every_step(step: Step) -> None:  # lines 47-48
    mixed = [vote_by(SET, index, PRECOMMIT, 0, block_id) for index, block_id in zip(OTHERS, (A, B, NIL), strict=True)]
    state = replace(fresh(), step=step)
    assert run(state, *mixed[:2])[1] == []
    assert run(state, *mixed, *mixed)[1] == [ScheduleTimeout(Step.PRECOMMIT, HEIGHT, 0)]


@pytest.mark.clause("9.3/6")
def test_a_quorum_of_precommits_decides_with_a_certificate() -> None:  # lines 49-54
    state, effects = run(fresh(), offer(0, A), *votes(PRECOMMIT, 0, A))
    decided = effects[-1]
    assert isinstance(decided, Decide)
    assert (decided.height, decided.round, decided.block_id, state.decision) == (HEIGHT, 0, A, A)
    assert [entry.validator for entry in decided.certificate.signatures] == [SET.validators[i].address for i in OTHERS]
    assert run(state, *votes(PREVOTE, 0, A), TimeoutElapsed(Step.PROPOSE, HEIGHT, 0)) == (state, [])


@pytest.mark.clause("9.3/6")
@pytest.mark.parametrize(("decided", "current"), [(0, 2), (3, 0)])
def test_a_decision_may_come_from_any_round(decided: int, current: int) -> None:  # line 49
    state = replace(fresh(), round=current)
    state, effects = run(state, *votes(PRECOMMIT, decided, A, 1), offer(decided, A), *votes(PRECOMMIT, decided, A))
    assert isinstance(effects[-1], Decide)
    assert effects[-1].round == decided


@pytest.mark.clause("9.3/6")
def test_precommits_decide_nothing_without_a_valid_block() -> None:  # line 50
    state, effects = run(fresh(), offer(0, A, valid=False), *votes(PRECOMMIT, 0, A))
    assert state.decision is None
    assert not [effect for effect in effects if isinstance(effect, Decide)]


def test_more_than_a_third_ahead_pulls_us_along() -> None:  # lines 55-56
    state, effects = run(fresh(), vote_by(SET, OTHERS[0], PRECOMMIT, 5, NIL))
    assert (state.round, effects) == (0, [])
    state, effects = run(state, vote_by(SET, OTHERS[1], PREVOTE, 4, A))
    assert state.round == 4
    assert ScheduleTimeout(Step.PROPOSE, HEIGHT, 4) in effects


def test_a_proposal_too_far_ahead_is_not_kept() -> None:
    state, _ = run(fresh(), offer(FUTURE_ROUNDS_MAX, A), offer(FUTURE_ROUNDS_MAX + 1, B))
    assert set(state.proposals) == {FUTURE_ROUNDS_MAX}


def test_every_round_has_its_own_timeouts_and_its_own_proposal() -> None:
    state = fresh(TURNS[0])
    turn = next(round_ for round_ in range(1, 12) if TURNS[round_] == TURNS[0])
    mixed = [[vote_by(SET, i, PRECOMMIT, at, x) for i, x in enumerate((A, B, NIL))] for at in (0, turn)]
    state, effects = run(state, ValueBuilt(HEIGHT, 0, A), *mixed[0])
    assert effects == [Propose(HEIGHT, 0, -1, A), ScheduleTimeout(Step.PRECOMMIT, HEIGHT, 0)]
    state, effects = run(state, *mixed[1], ValueBuilt(HEIGHT, turn, B))
    assert effects[-2:] == [ScheduleTimeout(Step.PRECOMMIT, HEIGHT, turn), Propose(HEIGHT, turn, -1, B)]


@pytest.mark.clause("9.3/8")
def test_we_catch_up_from_far_behind_but_keep_few_votes_ahead() -> None:
    far = FUTURE_ROUNDS_MAX + 50
    state, _ = run(fresh(), vote_by(SET, OTHERS[0], PREVOTE, far, A))
    assert state.tallies == {}
    state, _ = run(state, vote_by(SET, OTHERS[1], PREVOTE, far, A))
    assert state.round == far


@pytest.mark.parametrize(
    ("state", "step", "effects"),
    [
        (fresh(), Step.PROPOSE, [CastVote(PREVOTE, HEIGHT, 0, NIL)]),  # lines 57-60
        (replace(fresh(), step=Step.PREVOTE), Step.PREVOTE, [CastVote(PRECOMMIT, HEIGHT, 0, NIL)]),  # lines 61-64
        (replace(fresh(), step=Step.PREVOTE), Step.PRECOMMIT, [ScheduleTimeout(Step.PROPOSE, HEIGHT, 1)]),  # 65-67
        (replace(fresh(), step=Step.PREVOTE), Step.PROPOSE, []),
        (fresh(), Step.PREVOTE, []),
        (replace(fresh(), step=Step.PRECOMMIT), Step.PREVOTE, []),
    ],
)
def test_timeouts(state: core.State, step: Step, effects: list[Effect]) -> None:
    assert run(state, TimeoutElapsed(step, HEIGHT, 0))[1] == effects
    assert run(state, TimeoutElapsed(step, HEIGHT, 1), TimeoutElapsed(step, HEIGHT - 1, 0)) == (state, [])


def test_what_does_not_concern_this_height_changes_nothing() -> None:
    state = fresh()
    stranger = Vote(PREVOTE, HEIGHT, 0, -1, A, secret_keys(5)[0].address[::-1], NO_SIGNATURE)
    elsewhere = Vote(PREVOTE, HEIGHT + 1, 0, -1, A, SET.validators[0].address, NO_SIGNATURE)
    right = offer(0, A).proposal
    wrong = [
        msgspec.structs.replace(right, height=HEIGHT + 1),
        msgspec.structs.replace(right, proposer=SET.validators[ME].address),
        msgspec.structs.replace(right, valid_round=0),
        msgspec.structs.replace(right, block_id=ZERO_DIGEST),
    ]
    events: list[Input] = [
        VoteReceived(stranger),
        VoteReceived(elsewhere),
        *(ProposalReceived(entry, valid=True) for entry in wrong),
    ]
    assert run(state, *events) == (state, [])


@pytest.mark.clause("9.3/7")
def test_an_equivocator_counts_for_both_values_and_once_for_any() -> None:
    first, second = vote_by(SET, OTHERS[0], PREVOTE, 0, B), vote_by(SET, OTHERS[0], PREVOTE, 0, A)
    third = vote_by(SET, OTHERS[0], PREVOTE, 0, NIL)
    assert run(fresh(), first, second, third)[1] == [Equivocation(first.vote, second.vote)]
    state, effects = run(fresh(), first, second, first, second)
    assert effects == [Equivocation(first.vote, second.vote)]
    tally = state.tally(0, PREVOTE)
    assert (tally.power, tally.power_by_id) == (1, {A: 1, B: 1})


@pytest.mark.clause("9.3/7")
def test_an_equivocators_third_vote_needs_honest_support() -> None:
    spam = [vote_by(SET, OTHERS[0], PREVOTE, 0, block(name)) for name in ("x", "y", "a", "z")]
    state, _ = run(fresh(), *spam)
    assert len(state.tally(0, PREVOTE).power_by_id) == 2
    state, _ = run(state, vote_by(SET, OTHERS[1], PREVOTE, 0, A), vote_by(SET, OTHERS[2], PREVOTE, 0, A), *spam)
    assert state.tally(0, PREVOTE).power_by_id == {block("x"): 1, block("y"): 1, A: 3}


def test_a_proposer_that_contradicts_itself_is_reported_once_and_bounded() -> None:
    offers = [offer(0, block(name)) for name in ("a", "b", "c")]
    state, effects = run(fresh(), *offers, *offers)
    reported = [effect for effect in effects if isinstance(effect, ProposalEquivocation)]
    assert reported == [ProposalEquivocation(offers[0].proposal, offers[1].proposal)]
    assert len(state.proposals[0]) == 2
    state, effects = run(state, *votes(PRECOMMIT, 0, block("c")), offers[2])
    assert state.decision == block("c")


def test_a_follower_follows_but_never_speaks() -> None:
    state = fresh(None)
    state, effects = run(state, offer(0, A), *votes(PREVOTE, 0, A), *votes(PRECOMMIT, 0, A))
    assert state.decision == A
    assert {type(effect) for effect in effects} <= {Decide, ScheduleTimeout}


@pytest.mark.clause("9.7/1")
def test_a_restarted_validator_keeps_round_step_and_lock() -> None:
    before, _ = run(fresh(), offer(0, A), *votes(PREVOTE, 0, A))
    safety = before.safety()
    assert safety == SafetyState(HEIGHT, 0, Step.PRECOMMIT, 0, A, 0, A)
    restarted = core.start_height(StartHeight(HEIGHT, SET, SET.validators[ME].address, safety))
    assert restarted.effects == (ScheduleTimeout(Step.PRECOMMIT, HEIGHT, 0),)
    assert restarted.state.safety() == safety
    assert run(restarted.state, offer(0, B))[1] == []
    _, effects = run(restarted.state, TimeoutElapsed(Step.PRECOMMIT, HEIGHT, 0), offer(1, B))
    assert effects[-1] == CastVote(PREVOTE, HEIGHT, 1, NIL)


def test_safety_of_another_height_is_not_taken_over() -> None:
    old = SafetyState(HEIGHT - 1, 3, Step.PRECOMMIT, 3, A, 3, A)
    assert fresh(safety=old) == fresh()
