"""`traces.json`: what a consensus core does, input by input (chapter 9, `consensus-trace.md`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from deepshard.ballots import NO_ROUND, Proposal, Vote, VoteKind
from deepshard.conformance.vectors.document import Json, accept, digest_of, document
from deepshard.conformance.vectors.generate.network import CHAIN, KEYS, members
from deepshard.consensus import core
from deepshard.consensus.events import (
    BuildValue,
    CastVote,
    Effect,
    Input,
    LockProofReceived,
    ProposalReceived,
    Propose,
    StartHeight,
    TimeoutElapsed,
    ValueBuilt,
    VoteReceived,
)
from deepshard.consensus.replay import record, trace_to_json
from deepshard.consensus.types import LockProof, LockProofVote, SafetyState, Step
from deepshard.consensus.validators import proposer
from deepshard.limits import FUTURE_ROUNDS_MAX
from deepshard.primitives import ZERO_DIGEST as NIL

_SET: Final = members(1, 1, 1, 1)
_HEIGHT: Final = 1
"""Here validators 2, 0, 3 and 1 propose in rounds 0 to 3."""
_ME: Final = 1
_OTHERS: Final = (0, 2, 3)
_A, _B, _C = digest_of("block a"), digest_of("block b"), digest_of("block c")
_PREVOTE, _PRECOMMIT = VoteKind.PREVOTE, VoteKind.PRECOMMIT
_UNSIGNED: Final = bytes(64)
_NORMAL, _LOCKED, _PROVEN = ("9.3/3", "9.3/6"), ("9.3/2", "9.3/3"), ("9.3/2", "9.3/11", "9.3/12")


def make() -> Json:
    """The file."""
    about = "Traces of a consensus core: inputs, what has to come of them, and the state after each (chapter 9)."
    return document("traces", about, [*_whole_heights(), *_locks(), *_rounds(), *_faults(), *_restarts()])


# -- words for inputs --------------------------------------------------------------------------------------------------


def _start(me: int | None = _ME, *, height: int = _HEIGHT, safety: SafetyState | None = None) -> StartHeight:
    return StartHeight(height, _SET, None if me is None else KEYS[me].address, safety)


def _offer(round_: int, block_id: bytes, valid_round: int = NO_ROUND, *, valid: bool = True) -> ProposalReceived:
    by = proposer(_SET, _HEIGHT, round_).address
    return ProposalReceived(Proposal(_HEIGHT, round_, valid_round, block_id, by, _UNSIGNED), valid)


def _vote(voter: int, kind: VoteKind, round_: int, block_id: bytes, valid_round: int = NO_ROUND) -> VoteReceived:
    return VoteReceived(Vote(kind, _HEIGHT, round_, valid_round, block_id, KEYS[voter].address, _UNSIGNED))


def _votes(
    kind: VoteKind, round_: int, block_id: bytes, voters: Iterable[int] = _OTHERS, valid_round: int = NO_ROUND
) -> list[Input]:
    return [_vote(voter, kind, round_, block_id, valid_round) for voter in voters]


def _proof(round_: int, block_id: bytes, voters: Iterable[int] = _OTHERS) -> LockProofReceived:
    votes = tuple(LockProofVote(KEYS[voter].address, NO_ROUND, _UNSIGNED) for voter in voters)
    return LockProofReceived(LockProof(_HEIGHT, round_, block_id, votes))


def _over(step: Step, round_: int) -> TimeoutElapsed:
    return TimeoutElapsed(step, _HEIGHT, round_)


def _hosted(inputs: Iterable[Input]) -> Iterator[Input]:
    """The inputs, and after each what a host answers to its effects: our own messages; block c where one is wanted."""
    state: core.State | None = None
    for given in inputs:
        waiting = deque([given])
        while waiting:
            event = waiting.popleft()
            taken = core.start_height(event) if isinstance(event, StartHeight) else None
            if taken is None:
                assert state is not None
                taken = core.apply(state, event)
            state = taken.state
            yield event
            waiting.extend(answer for effect in taken.effects if (answer := _answer(effect, state.me)) is not None)


def _answer(effect: Effect, me: bytes | None) -> Input | None:
    match effect:
        case BuildValue(height=height, round=round_):
            return ValueBuilt(height, round_, _C)
        case Propose(height=height, round=round_, valid_round=valid_round, block_id=block_id):
            assert me is not None
            return ProposalReceived(Proposal(height, round_, valid_round, block_id, me, _UNSIGNED), valid=True)
        case CastVote(kind=kind, height=height, round=round_, block_id=block_id, valid_round=valid_round):
            assert me is not None
            return VoteReceived(Vote(kind, height, round_, valid_round, block_id, me, _UNSIGNED))
        case _:
            return None


def _case(name: str, clauses: Iterable[str], inputs: Iterable[Input]) -> Json:
    trace = record(CHAIN, _hosted(inputs), "deepshard.conformance.vectors")
    return accept(name, tuple(clauses), trace=trace_to_json(trace))


# -- cases -------------------------------------------------------------------------------------------------------------


def _whole_heights() -> Iterator[Json]:
    decided = [_offer(0, _A), *_votes(_PREVOTE, 0, _A), *_votes(_PRECOMMIT, 0, _A)]
    yield _case("a round in which all goes well", _NORMAL, [_start(), *decided])
    own = [*_votes(_PREVOTE, 0, _C, (0, 1, 3)), *_votes(_PRECOMMIT, 0, _C, (0, 1, 3))]
    yield _case("the same as its proposer", ("9.2/5", "9.4/1", *_NORMAL), [_start(2), *own])
    yield _case("the same as a follower", ("9.1/3", *_NORMAL), [_start(None), *decided])
    yield _case("every input twice", ("9.3/7", *_NORMAL), [_start(), *(one for one in decided for _ in range(2))])
    yield _case("the other way round", _NORMAL, [_start(), *reversed(decided)])
    later = StartHeight(2, members(1, 1, 1, 4), KEYS[_ME].address)
    yield _case("on to the next height, with other powers", _NORMAL, [_start(), *decided, later])
    yield _case(
        "what is of another height, of nobody or out of turn changes nothing",
        ("9.2/6", "9.2/9"),
        [
            _start(height=2),
            *decided,
            VoteReceived(Vote(_PREVOTE, 2, 0, NO_ROUND, _A, KEYS[8].address, _UNSIGNED)),
            VoteReceived(Vote(_PRECOMMIT, 2, 1, 0, _A, KEYS[0].address, _UNSIGNED)),
            ProposalReceived(Proposal(2, 0, NO_ROUND, _A, KEYS[_ME].address, _UNSIGNED), valid=True),
        ],
    )


def _locked_on_a() -> list[Input]:
    """Locked on block a in round 0, as nobody else, then on to round 1."""
    nil = _votes(_PRECOMMIT, 0, NIL, (0, 2))
    return [_start(), _offer(0, _A), *_votes(_PREVOTE, 0, _A), *nil, _over(Step.PRECOMMIT, 0)]


def _locks() -> Iterator[Json]:
    again = [_offer(1, _A, 0), *_votes(_PREVOTE, 1, _A, valid_round=0), *_votes(_PRECOMMIT, 1, _A)]
    yield _case("locked, and proposed again: decided in the next round", _PROVEN, [*_locked_on_a(), *again])
    fresh = [_offer(1, _A), *_votes(_PREVOTE, 1, _A), *_votes(_PRECOMMIT, 1, _A)]
    yield _case("locked, and proposed afresh: the prevote names the lock", _PROVEN, [*_locked_on_a(), *fresh])
    yield _case("locked: another block gets nil", _LOCKED, [*_locked_on_a(), _offer(1, _B), *_votes(_PREVOTE, 1, NIL)])
    moved = [_offer(1, _B), *_votes(_PREVOTE, 1, _B), *_votes(_PRECOMMIT, 1, _B)]
    yield _case("locked: a later proof-of-lock moves the lock", _LOCKED, [*_locked_on_a(), *moved])
    unseen: list[Input] = [*_votes(_PREVOTE, 2, NIL, (0, 2)), _offer(2, _B, 1)]
    yield _case(
        "locked: a proof-of-lock of a later round unlocks",
        _PROVEN,
        [*_locked_on_a(), *unseen, *_votes(_PREVOTE, 1, _B)],
    )
    yield _case("the same with the proof in one piece", _PROVEN, [*_locked_on_a(), *unseen, _proof(1, _B)])
    short: list[Input] = [_vote(0, _PREVOTE, 1, NIL), _vote(2, _PREVOTE, 1, NIL), _offer(1, _B, 0)]
    yield _case(
        "a re-proposal waits for its proof-of-lock",
        _PROVEN,
        [_start(), *short, *_votes(_PREVOTE, 0, _B, (0, 2)), _over(Step.PROPOSE, 1)],
    )
    yield _case(
        "prevotes that name a proof-of-lock count once it is known",
        ("9.1/2", "9.3/11"),
        [_start(), *_votes(_PREVOTE, 1, _B, valid_round=0), _offer(1, _B), _proof(0, _B)],
    )
    yield _case(
        "a late proof-of-lock makes a block valid, not locked, and it is proposed again",
        ("9.2/5", "9.3/3"),
        [
            _start(),
            _offer(0, _A),
            *_votes(_PREVOTE, 0, _A, (0,)),
            *_votes(_PREVOTE, 0, NIL, (2,)),
            _over(Step.PREVOTE, 0),
            _vote(3, _PREVOTE, 0, _A),
            *_votes(_PREVOTE, 3, NIL, (0, 2)),
        ],
    )


def _silent(rounds: int) -> list[Input]:
    """Rounds from 0 on in which nobody proposes."""
    inputs: list[Input] = []
    for round_ in range(rounds):
        inputs += [_over(Step.PROPOSE, round_), *_votes(_PREVOTE, round_, NIL, (0, 2))]
        inputs += [*_votes(_PRECOMMIT, round_, NIL, (0, 2)), _over(Step.PRECOMMIT, round_)]
    return inputs


def _rounds() -> Iterator[Json]:
    yield _case("two rounds without a proposal", ("9.3/1",), [_start(), *_silent(2)])
    torn: list[Input] = [_offer(0, _A), _vote(0, _PREVOTE, 0, NIL), _vote(2, _PREVOTE, 0, _B), _over(Step.PREVOTE, 0)]
    yield _case("prevotes for three things: the timeout", ("9.3/1", "9.3/7"), [_start(), *torn])
    yield _case("an invalid block", ("9.3/5",), [_start(), _offer(0, _A, valid=False), *_votes(_PRECOMMIT, 0, _A)])
    yield _case(
        "an invalid re-proposal",
        ("9.3/5",),
        [_start(), *_votes(_PREVOTE, 1, NIL, (0, 2)), _offer(1, _B, 0, valid=False)],
    )
    ahead: list[Input] = [
        _vote(0, _PRECOMMIT, 5, NIL),
        _vote(2, _PREVOTE, 4, _A),
        _over(Step.PROPOSE, 0),
        _over(Step.PROPOSE, 4),
    ]
    yield _case("a third of the power ahead: on to its round", ("9.3/1", "9.3/8"), [_start(), *ahead])
    far = FUTURE_ROUNDS_MAX + 30
    yield _case(
        "far behind: votes aren't kept, but where they are from counts",
        ("9.3/8",),
        [_start(), *_votes(_PRECOMMIT, far, NIL), *_votes(_PRECOMMIT, far, NIL)],
    )
    behind = [*_votes(_PREVOTE, 2, NIL, (0, 2)), _offer(0, _A), *_votes(_PRECOMMIT, 0, _A)]
    yield _case("decided in a round that was left", ("9.3/6",), [_start(), *behind])
    proposing = [*_votes(_PREVOTE, 3, _C), *_votes(_PRECOMMIT, 3, _C)]
    yield _case("our turn in round 3", ("9.4/1", *_NORMAL), [_start(), *_silent(3), *proposing])


def _faults() -> Iterator[Json]:
    twice: list[Input] = [
        _vote(0, _PREVOTE, 0, _A),
        _vote(0, _PREVOTE, 0, _B),
        _vote(0, _PREVOTE, 0, NIL),
        _offer(0, _A),
    ]
    yield _case(
        "an equivocator's votes count for both, and are evidence",
        ("9.3/7", "9.5/1"),
        [_start(), *twice, *_votes(_PREVOTE, 0, _A, (2,))],
    )
    yield _case(
        "one block for two reasons is evidence, too",
        ("9.3/7", "9.5/1"),
        [_start(), _vote(0, _PREVOTE, 1, _A), _vote(0, _PREVOTE, 1, _A, 0)],
    )
    offers = [_offer(0, _A), _offer(0, _B), _offer(0, _C), *_votes(_PRECOMMIT, 0, _C), _offer(0, _C)]
    yield _case("a proposer that offers three blocks", ("9.3/7", "9.5/1"), [_start(), *offers])
    yield _case(
        "one block offered for two reasons is evidence, too", ("9.5/1",), [_start(), _offer(1, _A), _offer(1, _A, 0)]
    )
    own_round = [
        _offer(0, _A),
        *_votes(_PREVOTE, 0, _A, valid_round=0),
        *_votes(_PREVOTE, 0, NIL, (0, 2), valid_round=-1),
    ]
    yield _case("votes that rest on their own round are none", ("9.2/9",), [_start(), *own_round])
    forgetful = [_vote(0, _PRECOMMIT, 0, _A), _vote(0, _PREVOTE, 1, _B)]
    yield _case("a prevote against a precommit is evidence", ("9.5/1",), [_start(), *forgetful])
    justified = [_vote(0, _PRECOMMIT, 0, _A), _vote(0, _PREVOTE, 2, _B, 1), _vote(2, _PREVOTE, 0, _A)]
    yield _case("with a proof-of-lock of a later round it is none", ("9.5/1",), [_start(), *justified])
    noise = [_vote(0, _PREVOTE, 0, digest_of(f"noise {number}")) for number in range(3)]
    yield _case(
        "votes that an equivocator had used up come with the proof-of-lock",
        ("9.3/7", "9.3/11"),
        [_start(), _offer(0, _A), *noise, *_votes(_PREVOTE, 0, _A, (0, 2)), _proof(0, _A, (0, 1, 2))],
    )


def _restarts() -> Iterator[Json]:
    safety = SafetyState(_HEIGHT, 0, Step.PRECOMMIT, 0, _A, 0, _A)
    again = [_start(safety=safety), _over(Step.PRECOMMIT, 0), _offer(1, _B), *_votes(_PREVOTE, 1, NIL)]
    yield _case("restarted in a step, with a lock", ("9.7/1", "9.3/2"), again)
    crashed = [_start(), _offer(0, _A), *_votes(_PREVOTE, 0, _A), *again]
    yield _case("the same with what came before", ("9.7/1", "9.3/2"), crashed)
    proposing = SafetyState(_HEIGHT, 3, Step.PROPOSE, 1, _B, 2, _A)
    yield _case("restarted where it is our turn", ("9.7/1", "9.2/5"), [_start(safety=proposing)])
    old = SafetyState(_HEIGHT, 3, Step.PRECOMMIT, 3, _A, 3, _A)
    yield _case("what was of another height is nothing to resume", ("9.7/1",), [_start(height=2, safety=old)])
