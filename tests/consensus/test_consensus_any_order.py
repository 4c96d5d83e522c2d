"""Inputs of a height in any order and number: the same decision, and nobody is made to contradict itself."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
from consensus_network import HEIGHT, NO_SIGNATURE, Network, block, proposal_in, validator_set, vote_by
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshard.ballots import NO_ROUND, Proposal, Vote, VoteKind
from deepshard.consensus import core
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
from deepshard.consensus.tally import Tally
from deepshard.consensus.types import LockProof, LockProofVote
from deepshard.consensus.validators import ValidatorSet, proposer
from deepshard.evidence import is_amnesia
from deepshard.primitives import ZERO_DIGEST

POWERS = (4, 3, 2, 3, 3, 1)
BYZANTINE, LATE = 2, 5
PASSES_MAX = 4


@dataclass(frozen=True)
class Height:
    """All that was sent at a height that validator `LATE` missed, and what the others decided."""

    validators: ValidatorSet
    sent: tuple[Input, ...]
    decided: bytes


@cache
def contested() -> Height:
    """Validator 0 locks a, then the others lock b, round after round, each on the word of the round before.

    The equivocator votes for both, on all reasons there are. Rounds in which the late one or validator 0 would propose
    go by with nil.
    """
    validators = validator_set(*POWERS)
    a, b, nil = block("a"), block("b"), ZERO_DIGEST
    prevote, precommit = VoteKind.PREVOTE, VoteKind.PRECOMMIT
    others = [index for index in range(len(POWERS)) if index not in {BYZANTINE, LATE}]
    sent: list[Input] = []

    def cast(voters: list[int], kind: VoteKind, round_: int, block_id: bytes, rests_on: int = NO_ROUND) -> None:
        sent.extend(vote_by(validators, index, kind, round_, block_id, rests_on) for index in voters)

    turns = [validators.validators.index(proposer(validators, HEIGHT, round_)) for round_ in range(16)]
    rounds = [round_ for round_, turn in enumerate(turns) if turn not in {0, LATE}][:5]
    for round_ in range(rounds[-1] + 1):
        place = rounds.index(round_) if round_ in rounds else None
        rests_on = rounds[place - 1] if place is not None and place > 1 else NO_ROUND
        for block_id in (a, b):
            for reason in {NO_ROUND, rests_on, round_ - 1}:
                cast([BYZANTINE], prevote, round_, block_id, reason)
            cast([BYZANTINE], precommit, round_, block_id)
        if place is None:
            cast(others, prevote, round_, nil)
            cast(others, precommit, round_, nil)
            continue
        block_id = a if place == 0 else b
        dissenter = 4 if place == 0 else 0
        sent.append(proposal_in(validators, round_, block_id, rests_on))
        backers = [index for index in others if index != dissenter]
        cast(backers, prevote, round_, block_id, rests_on)
        cast([dissenter], prevote, round_, nil)
        entries = tuple(
            LockProofVote(validators.validators[index].address, rests_on, NO_SIGNATURE)
            for index in sorted([*backers, BYZANTINE])
        )
        sent.append(LockProofReceived(LockProof(HEIGHT, round_, block_id, entries)))
        last = round_ == rounds[-1]
        lockers = [0] if place == 0 else backers if last else backers[place % 3 :]
        cast(lockers, precommit, round_, block_id)
        cast([index for index in others if index not in lockers], precommit, round_, nil)
    return Height(validators, tuple(sent), b)


@cache
def height(seed: int) -> Height:
    """A contested one for negative seeds, a random one for the others."""
    if seed < 0:
        return contested()
    network = Network(seed, POWERS, byzantine=BYZANTINE, absent=LATE)
    network.chaos(300 + 10 * seed)
    network.calm(8)
    (decided,) = {node.decided for node in network.nodes.values()}
    assert decided is not None
    return Height(network.validators, tuple(network.sent), decided)


@dataclass
class Host:
    """Feeds a core what it is given; its own messages and timeouts come back at any time, some of them twice."""

    validators: ValidatorSet
    me: bytes | None
    random: random.Random
    votes: dict[tuple[int, VoteKind], Vote] = field(default_factory=dict)
    offers: dict[int, Propose] = field(default_factory=dict)
    accused: set[bytes] = field(default_factory=set)
    waiting: list[Input] = field(default_factory=list)
    """What comes next is at the end."""
    decided: bytes | None = None

    def run(self, inputs: list[Input]) -> None:
        start = core.start_height(StartHeight(HEIGHT, self.validators, self.me))
        state, effects = start.state, start.effects
        self.waiting = inputs[::-1]
        while True:
            for effect in effects:
                self._perform(effect)
            if self.decided is not None or not self.waiting:
                return
            transition = core.apply(state, self.waiting.pop())
            state, effects = transition.state, transition.effects

    def _later(self, event: Input) -> None:
        for _ in range(self.random.choice([1, 1, 1, 2])):
            soon = self.random.randint(0, min(len(self.waiting), self.random.choice([1, 20, 200])))
            self.waiting.insert(len(self.waiting) - soon, event)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case BuildValue(_, round_):
                self._later(ValueBuilt(HEIGHT, round_, block(f"late {round_}")))
            case Propose():
                assert self.me is not None
                assert effect.round not in self.offers, "two proposals in one round"
                self.offers[effect.round] = effect
                offer = Proposal(HEIGHT, effect.round, effect.valid_round, effect.block_id, self.me, NO_SIGNATURE)
                self._later(ProposalReceived(offer, valid=True))
            case CastVote():
                self._vote(effect)
            case ScheduleTimeout(step, _, round_):
                if self.random.random() < 0.6:
                    self._later(TimeoutElapsed(step, HEIGHT, round_))
            case Decide(block_id=block_id, certificate=certificate):
                power = sum(self.validators.power_of(one.validator) for one in certificate.signatures)
                assert self.validators.is_quorum(power)
                self.decided = block_id
            case Equivocation(vote, _) | LockForgotten(_, vote):
                self.accused.add(vote.validator)
            case ProposalEquivocation(proposal, _):
                self.accused.add(proposal.proposer)

    def _vote(self, cast: CastVote) -> None:
        assert self.me is not None, "a follower votes"
        vote = Vote(cast.kind, HEIGHT, cast.round, cast.valid_round, cast.block_id, self.me, NO_SIGNATURE)
        place = (cast.round, cast.kind)
        assert all(place > earlier for earlier in self.votes), f"a second vote, or one that goes back: {place}"
        for earlier in self.votes.values():
            assert not is_amnesia(earlier, vote), f"a vote against its own lock: {earlier} and {vote}"
        self.votes[place] = vote
        self._later(VoteReceived(vote))


def fed(known: Height, host: Host) -> list[Input]:
    """First, most of the time, all but what decides, some of it several times and some not at all; then all of it.

    The disorder goes from a few places to any: the less there is, the more rounds a node lives through.
    """
    chance = host.random
    withheld, disorder = chance.random() < 0.8, chance.choice([2, 10, 40, 10 * len(known.sent)])
    first = [
        (place + chance.uniform(0, disorder), event)
        for place, event in enumerate(known.sent)
        if not (withheld and isinstance(event, VoteReceived) and _decides(event.vote, known.decided))
        for _ in range(chance.choice([0, 1, 1, 2, 3]))
    ]
    first.sort(key=lambda pair: pair[0])
    then = list(known.sent) * PASSES_MAX
    chance.shuffle(then)
    return [event for _, event in first] + then


def _decides(vote: Vote, decided: bytes) -> bool:
    return vote.kind is VoteKind.PRECOMMIT and vote.block_id == decided


@pytest.mark.clause("9.3/1", "9.3/2")
@settings(max_examples=120, deadline=None)
@given(seed=st.integers(-60, 60), order=st.integers(0, 2**32), follower=st.booleans())
def test_any_order_and_number_of_inputs_leads_to_the_one_decision(seed: int, order: int, follower: bool) -> None:  # noqa: FBT001
    known = height(seed)
    me = None if follower else known.validators.validators[LATE].address
    host = Host(known.validators, me, random.Random(order))
    host.run(fed(known, host))
    assert host.decided == known.decided
    assert host.accused <= {known.validators.validators[BYZANTINE].address}


def _breaks(order: int) -> bool:
    known = contested()
    host = Host(known.validators, known.validators.validators[LATE].address, random.Random(order))
    try:
        host.run(fed(known, host))
    except AssertionError:
        return True
    return host.decided != known.decided


def _first_only(self: Tally, vote: Vote, validators: ValidatorSet, *, proven: bool = False) -> Any:
    return (self, None) if vote.validator in self.votes else _add(self, vote, validators, proven=proven)


_add = Tally.add


@pytest.mark.parametrize(
    ("holder", "name", "planted"),
    [
        (ValidatorSet, "is_quorum", ValidatorSet.has_honest),
        (core, "_lock_allows", lambda *_: True),
        (Tally, "add", _first_only),
    ],
)
def test_a_planted_bug_breaks_it(holder: Any, name: str, planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(map(_breaks, range(100)))
    monkeypatch.setattr(holder, name, planted)
    assert any(map(_breaks, range(300)))


def test_the_heights_hold_all_that_makes_order_matter() -> None:
    found: Counter[str] = Counter()
    for seed in range(61):
        for event in height(seed).sent:
            found[type(event).__name__] += 1
            match event:
                case VoteReceived(vote) if vote.valid_round != NO_ROUND:
                    found["votes that name a proof"] += 1
                case ProposalReceived(proposal) if proposal.valid_round != NO_ROUND:
                    found["re-proposals"] += 1
                case _:
                    pass
    assert min(found.values()) >= 10, found
    assert len(found) == 5, found
