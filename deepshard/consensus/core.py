"""Tendermint, algorithm 1 of arXiv 1807.04938, weighted by stake, as a pure function.

`apply(state, input)` takes one input into the state and then fires rules from the table `RULES` until none applies.
Each rule is one `upon` clause of the paper and names its lines. Inputs may come in any order and more than once.

Where this differs from the paper, and why it is safe:

- The proposer, too, gets a propose timeout: building a block can fail (lines 57-60 then prevote nil).
- An invalid re-proposal is answered by nil at once instead of at the timeout.
- Lines 36 and 49 ask that we hold the block and found it valid, in whichever round it was proposed: more than two
  thirds of the votes already show that it was proposed in this one.
- A prevote names the round of the proof-of-lock that it rests on, and counts for its block only where that proof is
  known (`evidence`). Whoever prevotes the block it is locked on names the round of its lock.
- Line 55 counts the highest round each validator was heard in, so a node that fell far behind catches up in one
  step although it keeps votes of `FUTURE_ROUNDS_MAX` rounds ahead only.
- A node resumed in a voting step asks for that step's timeout at once: the votes that had caused it are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from deepshard.ballots import NO_ROUND, Proposal, Vote, VoteKind, names_its_proof
from deepshard.consensus import lock_proofs as proofs
from deepshard.consensus.events import (
    BuildValue,
    CastVote,
    Decide,
    Effect,
    Equivocation,
    Input,
    LockForgotten,
    LockProofReceived,
    ProposalEquivocation,
    ProposalReceived,
    Propose,
    ScheduleTimeout,
    StartHeight,
    TimeoutElapsed,
    ValueBuilt,
    VoteReceived,
)
from deepshard.consensus.tally import EMPTY_TALLY, Tally
from deepshard.consensus.types import LockProof, SafetyState, Step
from deepshard.consensus.validators import ValidatorSet, proposer
from deepshard.evidence import is_amnesia
from deepshard.limits import FUTURE_ROUNDS_MAX, LOCK_PROOFS_PER_ROUND_MAX
from deepshard.primitives import ZERO_DIGEST

PROPOSALS_PER_ROUND_MAX = 2
"""Different proposals kept of one round's proposer; more only where more than a third voted for the block."""


@dataclass(frozen=True, slots=True)
class State:
    """Everything one validator (or follower) knows of one height.

    Attributes:
        proposals: by round, each with the host's word on its validity.
        valid_blocks: ids of blocks the host holds and found valid.
        heard: the highest round each validator voted or proposed in.
        timeouts: voting steps of this round whose timeout was asked for ("for the first time" in lines 34 and 47).
        proposed: whether we proposed in this round.
        decision: the decided block id, or None.
    """

    height: int
    validators: ValidatorSet
    me: bytes | None
    round: int = 0
    step: Step = Step.PROPOSE
    locked_round: int = -1
    locked_id: bytes = ZERO_DIGEST
    valid_round: int = -1
    valid_id: bytes = ZERO_DIGEST
    proposals: Mapping[int, tuple[ProposalReceived, ...]] = field(default_factory=dict)
    valid_blocks: frozenset[bytes] = frozenset()
    tallies: Mapping[tuple[int, VoteKind], Tally] = field(default_factory=dict)
    heard: Mapping[bytes, int] = field(default_factory=dict)
    timeouts: frozenset[Step] = frozenset()
    proposed: bool = False
    decision: bytes | None = None

    def tally(self, round_: int, kind: VoteKind) -> Tally:
        """Votes of one kind in one round."""
        return self.tallies.get((round_, kind), EMPTY_TALLY)

    def is_validator(self) -> bool:
        """Whether we vote at this height."""
        return self.me is not None and self.me in self.validators.by_address

    def safety(self) -> SafetyState:
        """What has to be on disk before a vote leaves the process."""
        return SafetyState(
            self.height,
            self.round,
            self.step,
            self.locked_round,
            self.locked_id,
            self.valid_round,
            self.valid_id,
        )


@dataclass(frozen=True, slots=True)
class Transition:
    """The state after an input, and what the host has to do, in order."""

    state: State
    effects: tuple[Effect, ...] = ()


def start_height(start: StartHeight) -> Transition:
    """Begin a height, or resume it where `start.safety` is of this height (line 10, and 54 of the height before)."""
    state = State(start.height, start.validators, start.me)
    safety = start.safety
    if safety is None or safety.height != start.height:
        return _start_round(state, 0)
    state = replace(
        state,
        round=safety.round,
        step=safety.step,
        locked_round=safety.locked_round,
        locked_id=safety.locked_id,
        valid_round=safety.valid_round,
        valid_id=safety.valid_id,
        valid_blocks=frozenset({safety.locked_id, safety.valid_id} - {ZERO_DIGEST}),
    )
    if safety.step is Step.PROPOSE:
        return _start_round(state, safety.round)
    return _schedule(state, safety.step)


def apply(state: State, event: Input) -> Transition:
    """Take one input: the next state and the effects it causes.

    Inputs of other heights, from non-members, of rounds too far ahead, repeated, or after the decision change nothing;
    only `StartHeight` leaves a decided height.
    """
    match event:
        case StartHeight():
            return start_height(event)
        case _ if state.decision is not None:
            return Transition(state)
        case ProposalReceived(proposal=proposal):
            taken = _take_proposal(state, event) if proposal.height == state.height else Transition(state)
        case VoteReceived(vote=vote):
            taken = _take_vote(state, vote) if vote.height == state.height else Transition(state)
        case LockProofReceived(proof=proof):
            taken = _take_lock_proof(state, proof) if proof.height == state.height else Transition(state)
        case TimeoutElapsed():
            taken = _take_timeout(state, event)
        case ValueBuilt():
            taken = _take_value(state, event)
    return _fire_rules(taken)


def _fire_rules(taken: Transition) -> Transition:
    state, effects = taken.state, list(taken.effects)
    while state.decision is None:
        fired = next((fired for rule in RULES if (fired := rule(state)) is not None), None)
        if fired is None:
            break
        state = fired.state
        effects.extend(fired.effects)
    return Transition(state, tuple(effects))


def _hear(state: State, address: bytes, round_: int) -> State:
    if round_ <= state.heard.get(address, -1):
        return state
    return replace(state, heard={**state.heard, address: round_})


def _take_proposal(state: State, received: ProposalReceived) -> Transition:
    proposal = received.proposal
    round_ = proposal.round
    in_turn = proposal.proposer == proposer(state.validators, state.height, round_).address
    if not in_turn or not -1 <= proposal.valid_round < round_ or proposal.block_id == ZERO_DIGEST:
        return Transition(state)
    state = _hear(state, proposal.proposer, round_)
    kept = state.proposals.get(round_, ())
    if round_ > state.round + FUTURE_ROUNDS_MAX or any(_same_offer(proposal, other.proposal) for other in kept):
        return Transition(state)
    effects = (ProposalEquivocation(kept[0].proposal, proposal),) if len(kept) == 1 else ()
    if len(kept) >= PROPOSALS_PER_ROUND_MAX and not _has_support(state, round_, proposal.block_id):
        return Transition(state)
    state = replace(state, proposals={**state.proposals, round_: (*kept, received)})
    if received.valid:
        state = replace(state, valid_blocks=state.valid_blocks | {proposal.block_id})
    return Transition(state, effects)


def _same_offer(a: Proposal, b: Proposal) -> bool:
    return (a.block_id, a.valid_round) == (b.block_id, b.valid_round)


def _has_support(state: State, round_: int, block_id: bytes) -> bool:
    powers = (state.tally(round_, kind).power_by_id.get(block_id, 0) for kind in VoteKind)
    return any(state.validators.has_honest(power) for power in powers)


def _take_vote(state: State, vote: Vote, *, proven: bool = False) -> Transition:
    """Count a vote; `proven` ones, which a quorum has cast together, are kept whatever else their voter said."""
    if vote.validator not in state.validators.by_address or not names_its_proof(vote):
        return Transition(state)
    state = _hear(state, vote.validator, vote.round)
    if vote.round > state.round + FUTURE_ROUNDS_MAX:
        return Transition(state)
    tally = state.tally(vote.round, vote.kind)
    counted, conflict = tally.add(vote, state.validators, proven=proven)
    if counted is tally:
        return Transition(state)
    effects: tuple[Effect, ...] = () if conflict is None else (Equivocation(conflict, vote),)
    effects += _forgotten_locks(state, vote)
    return Transition(replace(state, tallies={**state.tallies, (vote.round, vote.kind): counted}), effects)


def _forgotten_locks(state: State, vote: Vote) -> tuple[Effect, ...]:
    """The first earlier vote of this validator with which a new one makes an amnesia, if there is one."""
    if vote.block_id == ZERO_DIGEST:
        return ()
    other = VoteKind.PREVOTE if vote.kind is VoteKind.PRECOMMIT else VoteKind.PRECOMMIT
    for (_, kind), tally in state.tallies.items():
        for earlier in tally.votes.get(vote.validator, ()) if kind is other else ():
            pair = (vote, earlier) if other is VoteKind.PREVOTE else (earlier, vote)
            if is_amnesia(*pair):
                return (LockForgotten(*pair),)
    return ()


def _take_lock_proof(state: State, proof: LockProof) -> Transition:
    """Take all votes of a proof-of-lock, unless so many blocks have a quorum in that round that it leads nowhere."""
    tally = state.tally(proof.round, VoteKind.PREVOTE)
    quorums = sum(state.validators.is_quorum(power) for power in tally.power_by_id.values())
    power = sum(state.validators.power_of(address) for address in {one.validator for one in proof.votes})
    if quorums >= LOCK_PROOFS_PER_ROUND_MAX or not state.validators.is_quorum(power):
        return Transition(state)
    effects: list[Effect] = []
    for vote in proof.unpacked():
        taken = _take_vote(state, vote, proven=True)
        state = taken.state
        effects.extend(taken.effects)
    return Transition(state, tuple(effects))


def has_lock_proof(state: State, round_: int, block_id: bytes) -> bool:
    """Whether a proof-of-lock of this round for the block is known (`lock_proofs`)."""
    return proofs.has_lock_proof(state.tallies, state.validators, round_, block_id)


def lock_proofs(state: State, round_: int, block_id: bytes) -> tuple[LockProof, ...]:
    """The known proof-of-lock of a block in a round, after those that its votes rest on; nothing if it isn't known."""
    return proofs.lock_proofs(state.tallies, state.validators, state.height, round_, block_id)


def _take_timeout(state: State, timeout: TimeoutElapsed) -> Transition:
    if (timeout.height, timeout.round) != (state.height, state.round):
        return Transition(state)
    match timeout.step:
        case Step.PROPOSE if state.step is Step.PROPOSE:  # lines 57-60
            return _vote(state, VoteKind.PREVOTE, ZERO_DIGEST)
        case Step.PREVOTE if state.step is Step.PREVOTE:  # lines 61-64
            return _vote(state, VoteKind.PRECOMMIT, ZERO_DIGEST)
        case Step.PRECOMMIT:  # lines 65-67
            return _start_round(state, state.round + 1)
        case _:
            return Transition(state)


def _take_value(state: State, built: ValueBuilt) -> Transition:
    """Lines 18-19, once the host has built what `getValue()` stands for."""
    awaited = state.step is Step.PROPOSE and not state.proposed and _is_proposer(state)
    if not awaited or (built.height, built.round) != (state.height, state.round):
        return Transition(state)
    offer = Propose(state.height, state.round, -1, built.block_id)
    return Transition(replace(state, proposed=True), (offer,))


def _is_proposer(state: State) -> bool:
    return state.is_validator() and proposer(state.validators, state.height, state.round).address == state.me


def _start_round(state: State, round_: int) -> Transition:
    """Lines 11-21."""
    state = replace(state, round=round_, step=Step.PROPOSE, timeouts=frozenset(), proposed=False)
    wake = ScheduleTimeout(Step.PROPOSE, state.height, round_)
    if not _is_proposer(state):
        return Transition(state, (wake,))
    if state.valid_round < 0:
        return Transition(state, (wake, BuildValue(state.height, round_)))
    offer = Propose(state.height, round_, state.valid_round, state.valid_id)
    return Transition(replace(state, proposed=True), (wake, offer))


def _vote(state: State, kind: VoteKind, block_id: bytes, valid_round: int = NO_ROUND) -> Transition:
    """Cast a vote and enter its step; a follower only enters it."""
    state = replace(state, step=Step(kind))
    if not state.is_validator():
        return Transition(state)
    return Transition(state, (CastVote(kind, state.height, state.round, block_id, valid_round),))


def _prevote(state: State, received: ProposalReceived) -> Transition:
    """Lines 23 and 29: prevote a valid block that the lock allows, else nil.

    The lock allows what is locked, and what has a proof-of-lock of the lock's round or a later one. The vote names the
    later of the two proofs that it may rest on: so it is never older than a precommit given before.
    """
    block_id, valid_round = received.proposal.block_id, received.proposal.valid_round
    if not received.valid or not _lock_allows(state, block_id, valid_round):
        return _vote(state, VoteKind.PREVOTE, ZERO_DIGEST)
    justified_by = max(valid_round, state.locked_round) if state.locked_id == block_id else valid_round
    return _vote(state, VoteKind.PREVOTE, block_id, justified_by)


def _lock_allows(state: State, block_id: bytes, valid_round: int) -> bool:
    return state.locked_round <= valid_round or state.locked_id == block_id


def _schedule(state: State, step: Step) -> Transition:
    wake = ScheduleTimeout(step, state.height, state.round)
    return Transition(replace(state, timeouts=state.timeouts | {step}), (wake,))


def _decide(state: State) -> Transition | None:
    """Lines 49-54: a quorum of precommits for a block we hold, in any round."""
    for (round_, kind), tally in state.tallies.items():
        if kind is not VoteKind.PRECOMMIT:
            continue
        block_id = next(tally.quorums_among(state.valid_blocks, state.validators), None)
        if block_id is not None:
            certificate = tally.certificate(state.height, round_, block_id)
            decided = Decide(state.height, round_, block_id, certificate)
            return Transition(replace(state, decision=block_id), (decided,))
    return None


def _skip_round(state: State) -> Transition | None:
    """Lines 55-56: more than a third is in a later round; go to the latest that so many have reached."""
    ahead = sorted(((round_, address) for address, round_ in state.heard.items() if round_ > state.round), reverse=True)
    power = 0
    for round_, address in ahead:
        power += state.validators.power_of(address)
        if state.validators.has_honest(power):
            return _start_round(state, round_)
    return None


def _prevote_fresh(state: State) -> Transition | None:
    """Lines 22-27: a fresh proposal of this round."""
    if state.step is not Step.PROPOSE:
        return None
    for received in state.proposals.get(state.round, ()):
        if received.proposal.valid_round == -1:
            return _prevote(state, received)
    return None


def _prevote_reproposal(state: State) -> Transition | None:
    """Lines 28-33: a proposal of this round with a proof-of-lock from an earlier one."""
    if state.step is not Step.PROPOSE:
        return None
    for received in state.proposals.get(state.round, ()):
        proposal = received.proposal
        if proposal.valid_round == -1:
            continue
        if not received.valid or has_lock_proof(state, proposal.valid_round, proposal.block_id):
            return _prevote(state, received)
    return None


def _lock_and_precommit(state: State) -> Transition | None:
    """Lines 36-43: a quorum of prevotes for a block we hold; it becomes valid, and locked if we are still voting."""
    if state.step is Step.PROPOSE or state.valid_round == state.round:
        return None
    candidates = state.tally(state.round, VoteKind.PREVOTE).quorums_among(state.valid_blocks, state.validators)
    block_id = next((one for one in candidates if has_lock_proof(state, state.round, one)), None)
    if block_id is None:
        return None
    state = replace(state, valid_round=state.round, valid_id=block_id)
    if state.step is not Step.PREVOTE:
        return Transition(state)
    return _vote(replace(state, locked_round=state.round, locked_id=block_id), VoteKind.PRECOMMIT, block_id)


def _precommit_nil(state: State) -> Transition | None:
    """Lines 44-46: a quorum of prevotes for nil."""
    if state.step is not Step.PREVOTE:
        return None
    if not state.tally(state.round, VoteKind.PREVOTE).has_quorum_for(ZERO_DIGEST, state.validators):
        return None
    return _vote(state, VoteKind.PRECOMMIT, ZERO_DIGEST)


def _await_prevotes(state: State) -> Transition | None:
    """Lines 34-35: a quorum of prevotes, for whatever."""
    if state.step is not Step.PREVOTE or Step.PREVOTE in state.timeouts:
        return None
    if not state.validators.is_quorum(state.tally(state.round, VoteKind.PREVOTE).power):
        return None
    return _schedule(state, Step.PREVOTE)


def _await_precommits(state: State) -> Transition | None:
    """Lines 47-48: a quorum of precommits, for whatever, in any step."""
    if Step.PRECOMMIT in state.timeouts:
        return None
    if not state.validators.is_quorum(state.tally(state.round, VoteKind.PRECOMMIT).power):
        return None
    return _schedule(state, Step.PRECOMMIT)


RULES: tuple[Callable[[State], Transition | None], ...] = (
    _decide,
    _skip_round,
    _prevote_fresh,
    _prevote_reproposal,
    _lock_and_precommit,
    _precommit_nil,
    _await_prevotes,
    _await_precommits,
)
