"""Consensus cores joined by an adversarial in-memory network, driven by one seeded generator.

In the chaos phase messages are reordered, duplicated and withheld, timeouts fire at will, nodes crash between recording
and sending a vote and come back with what was recorded, and one validator may equivocate. In the calm phase everything
ever sent reaches everyone, and a timeout fires only when nothing is left to deliver.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from deepshard.ballots import Proposal, Vote, VoteKind
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
from deepshard.consensus.replay import Recorder
from deepshard.consensus.types import LockProof, LockProofVote, SafetyState, Step
from deepshard.consensus.validators import ValidatorSet, proposer
from deepshard.evidence import is_amnesia
from deepshard.identity import SecretKey
from deepshard.primitives import ZERO_DIGEST, tagged_hash

HEIGHT = 7
NO_SIGNATURE = bytes(64)


class Violation(AssertionError):
    """The algorithm broke a promise."""


@cache
def secret_keys(count: int) -> tuple[SecretKey, ...]:
    """Fixed keys in the order of their addresses."""
    keys = (SecretKey(tagged_hash("test key", bytes([index]))) for index in range(count))
    return tuple(sorted(keys, key=lambda key: key.address))


@cache
def validator_set(*powers: int) -> ValidatorSet:
    """A set in which the validator at place i of the order has `powers[i]`."""
    return ValidatorSet.of((key.public, power) for key, power in zip(secret_keys(len(powers)), powers, strict=True))


def block(name: str) -> bytes:
    return tagged_hash("test block", name.encode())


def vote_by(
    validators: ValidatorSet, index: int, kind: VoteKind, round_: int, block_id: bytes, valid_round: int = -1
) -> VoteReceived:
    address = validators.validators[index].address
    return VoteReceived(Vote(kind, HEIGHT, round_, valid_round, block_id, address, NO_SIGNATURE))


def proposal_in(
    validators: ValidatorSet, round_: int, block_id: bytes, valid_round: int = -1, *, valid: bool = True
) -> ProposalReceived:
    address = proposer(validators, HEIGHT, round_).address
    return ProposalReceived(Proposal(HEIGHT, round_, valid_round, block_id, address, NO_SIGNATURE), valid)


@dataclass
class Node:
    """One honest host: its core, and what its disk holds."""

    index: int
    state: core.State
    signed: dict[tuple[Step, int], tuple[bytes, int]] = field(default_factory=dict)
    """Block id and valid round by step and round."""
    safety: SafetyState | None = None
    timeouts: list[TimeoutElapsed] = field(default_factory=list)
    decided: bytes | None = None
    builds: int = 0


class Network:
    """Validators with the given powers at one height.

    `byzantine` is the place of the equivocator, and `absent` of one that is down, if any.
    """

    def __init__(
        self,
        seed: int,
        powers: tuple[int, ...] = (1, 1, 1, 1),
        *,
        byzantine: int | None = None,
        absent: int | None = None,
        amnesia: bool = False,
    ) -> None:
        self.random = random.Random(seed)
        self.validators = validator_set(*powers)
        self.byzantine = byzantine
        self.amnesia = amnesia
        self.sent: list[Input] = []
        self.waiting: list[tuple[int, Input]] = []
        self.equivocations = self.forgotten = self.proofs = 0
        self.crashes = 0
        self.chaotic = True
        self.nodes: dict[int, Node] = {}
        self.recorders = {index: Recorder("test") for index in range(len(powers)) if index not in {byzantine, absent}}
        for index in self.recorders:
            self._boot(Node(index, core.start_height(self._start(index, None)).state))

    def _start(self, index: int, safety: SafetyState | None) -> StartHeight:
        return StartHeight(HEIGHT, self.validators, self.validators.validators[index].address, safety)

    def _boot(self, node: Node) -> None:
        self.nodes[node.index] = node
        node.timeouts.clear()
        self.waiting = [
            (index, event)
            for index, event in self.waiting
            if index != node.index or not isinstance(event, ValueBuilt)  # what a crashed node was building is lost
        ]
        start = self._start(node.index, None if self.amnesia else node.safety)
        started = core.start_height(start)
        self.recorders[node.index].took(start, started)
        node.state = started.state
        self._perform(node, started.effects)
        for (step, round_), (block_id, valid_round) in sorted(node.signed.items()):
            if step is not Step.PROPOSE:
                self._send(vote_by(self.validators, node.index, VoteKind(step), round_, block_id, valid_round))

    def _send(self, event: Input, to: list[int] | None = None) -> None:
        self.sent.append(event)
        self.waiting.extend((index, event) for index in (self.nodes if to is None else to))

    def feed(self, index: int, event: Input) -> None:
        node = self.nodes[index]
        transition = core.apply(node.state, event)
        self.recorders[index].took(event, transition)
        node.state = transition.state
        self._perform(node, transition.effects)

    def _perform(self, node: Node, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case BuildValue(height, round_):
                    node.builds += 1
                    fresh = block(f"{node.index} {round_} {node.builds}")
                    block_id, _ = node.signed.get((Step.PROPOSE, round_), (fresh, -1))
                    self.waiting.append((node.index, ValueBuilt(height, round_, block_id)))
                case Propose(_, round_, valid_round, block_id):
                    self._record(node, Step.PROPOSE, round_, block_id, valid_round)
                    for proof in core.lock_proofs(node.state, valid_round, block_id):
                        self._send(LockProofReceived(proof))
                    self._send(proposal_in(self.validators, round_, block_id, valid_round))
                case CastVote(kind, _, round_, block_id, valid_round):
                    self._record(node, Step(kind), round_, block_id, valid_round)
                    if self.chaotic and self.random.random() < 0.04:
                        self.crashes += 1
                        self._boot(node)
                        return
                    self._send(vote_by(self.validators, node.index, kind, round_, block_id, valid_round))
                case ScheduleTimeout(step, height, round_):
                    node.timeouts.append(TimeoutElapsed(step, height, round_))
                case Decide(block_id=block_id, certificate=certificate):
                    power = sum(self.validators.power_of(entry.validator) for entry in certificate.signatures)
                    assert self.validators.is_quorum(power)
                    node.decided = block_id
                    self._check_agreement()
                case Equivocation(vote_a, vote_b):
                    self._check_evidence(vote_a.validator)
                    assert (vote_a.block_id, vote_a.valid_round) != (vote_b.block_id, vote_b.valid_round)
                case ProposalEquivocation(proposal_a, _):
                    self._check_evidence(proposal_a.proposer)
                case LockForgotten(precommit, prevote):
                    self._check_evidence(prevote.validator)
                    assert is_amnesia(precommit, prevote)
                    self.forgotten += 1

    def _check_evidence(self, address: bytes) -> None:
        self.equivocations += 1
        if self.byzantine is None or address != self.validators.validators[self.byzantine].address:
            raise Violation(f"evidence against the honest {address.hex()}")

    def _record(self, node: Node, step: Step, round_: int, block_id: bytes, valid_round: int) -> None:
        signed = (block_id, valid_round)
        if not self.amnesia and node.signed.get((step, round_), signed) != signed:
            raise Violation(f"node {node.index} signs twice in step {step.name} of round {round_}")
        node.signed[step, round_] = signed
        node.safety = node.state.safety()

    def _check_agreement(self) -> None:
        decisions = {node.decided for node in self.nodes.values()} - {None}
        if len(decisions) > 1:
            raise Violation(f"{len(decisions)} different decisions at one height")

    def round(self) -> int:
        """The latest round any honest node is in."""
        return max(node.state.round for node in self.nodes.values())

    def chaos(self, steps: int, *, impatience: float = 0.07) -> None:
        """Let the scheduler do its worst for a number of steps; timeouts are over with a chance of `impatience`."""
        for _ in range(steps):
            chance = self.random.random()
            if self.byzantine is not None and chance < 0.15:
                self._attack(self.byzantine)
            elif chance < 0.15 + impatience:
                node = self.random.choice(list(self.nodes.values()))
                if node.timeouts:
                    self.feed(node.index, self.random.choice(node.timeouts))
            elif chance < 0.16 + impatience:
                self.crashes += 1
                self._boot(self.random.choice(list(self.nodes.values())))
            elif self.waiting:
                place = self.random.randrange(len(self.waiting))
                fate = self.random.random()
                index, event = self.waiting[place] if fate < 0.1 else self.waiting.pop(place)
                if fate < 0.8:
                    self.feed(index, event)

    def _attack(self, attacker: int) -> None:
        round_ = max(0, self.round() + self.random.choice([-1, 0, 0, 0, 1]))
        ids = [event.proposal.block_id for event in self.sent if isinstance(event, ProposalReceived)]
        targets = [index for index in self.nodes if self.random.random() < 0.6]
        if proposer(self.validators, HEIGHT, round_).address == self.validators.validators[attacker].address:
            fresh = block(f"attack {round_} {self.random.choice([0, 0, 0, 1, 2])}")
            ids.append(fresh)
            valid_round = self.random.randint(-1, round_ - 1) if self.random.random() < 0.3 else -1
            self._send(proposal_in(self.validators, round_, fresh, valid_round), targets)
        if self.random.random() < 0.2:
            self._prove(attacker, targets)
        block_id = self.random.choice([ZERO_DIGEST, *ids, *ids[-2:] * len(ids)])
        for kind in VoteKind:
            rests_on = kind is VoteKind.PREVOTE and block_id != ZERO_DIGEST and self.random.random() < 0.5
            valid_round = self.random.randint(-1, round_ - 1) if rests_on else -1
            self._send(vote_by(self.validators, attacker, kind, round_, block_id, valid_round), targets)

    def _prove(self, attacker: int, targets: list[int]) -> None:
        """Put a proof-of-lock together from prevotes of others and one of the attacker's own."""
        prevotes = [
            event.vote for event in self.sent if isinstance(event, VoteReceived) and event.vote.block_id != ZERO_DIGEST
        ]
        prevotes = [vote for vote in prevotes if vote.kind is VoteKind.PREVOTE]
        if not prevotes:
            return
        chosen = self.random.choice(prevotes)
        address = self.validators.validators[attacker].address
        own = LockProofVote(address, self.random.randint(-1, chosen.round - 1), NO_SIGNATURE)
        votes = {address: own}
        for vote in prevotes:
            if (vote.round, vote.block_id) == (chosen.round, chosen.block_id):
                votes.setdefault(vote.validator, LockProofVote(vote.validator, vote.valid_round, vote.signature))
        if self.validators.is_quorum(sum(map(self.validators.power_of, votes))):
            self.proofs += 1
            entries = tuple(entry for _, entry in sorted(votes.items()))
            self._send(LockProofReceived(LockProof(HEIGHT, chosen.round, chosen.block_id, entries)), targets)

    def calm(self, rounds_max: int) -> None:
        """Stop all faults; everyone must decide within `rounds_max` rounds."""
        self.chaotic = False
        last_round = self.round() + rounds_max
        building = [(index, event) for index, event in self.waiting if isinstance(event, ValueBuilt)]
        self.waiting = building + self._everything_sent()
        repeated = len(self.sent)
        while any(node.decided is None for node in self.nodes.values()):
            if self.waiting:
                self.feed(*self.waiting.pop(0))
                continue
            if repeated < len(self.sent):
                repeated = len(self.sent)
                self.waiting = self._everything_sent()
                continue
            if self.round() > last_round:
                raise Violation(f"no decision within {rounds_max} rounds")
            self.waiting = [(index, timeout) for index, node in self.nodes.items() for timeout in node.timeouts]
            for node in self.nodes.values():
                node.timeouts = []
            if not self.waiting:
                raise Violation("everybody waits for nothing")

    def _everything_sent(self) -> list[tuple[int, Input]]:
        # Twice: a vote may be refused until others have spoken.
        return [(index, event) for event in self.sent * 2 for index in self.nodes]


def first_violation(seeds: range, run: Callable[[int], None]) -> int | None:
    """The first seed whose run breaks a promise."""
    for seed in seeds:
        try:
            run(seed)
        except Violation:
            return seed
    return None
