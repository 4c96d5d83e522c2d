"""Watches the consensus core from outside: which of its branches a run went through, and where each node stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from unittest.mock import patch

from deepshard.ballots import VoteKind
from deepshard.consensus import core
from deepshard.consensus.events import (
    CastVote,
    Decide,
    Input,
    LockProofReceived,
    Propose,
    StartHeight,
    TimeoutElapsed,
)
from deepshard.consensus.replay import Recorder
from deepshard.consensus.types import Step
from deepshard.primitives import ZERO_DIGEST
from deepshard.testing.simulate.log import NODE, EventLog

BRANCHES = (
    "core.propose",
    "core.re-propose",
    "core.prevote",
    "core.prevote.nil",
    "core.prevote.re-proposal",
    "core.prevote.against-lock-by-proof",
    "core.precommit",
    "core.precommit.nil",
    "core.lock",
    "core.lock.changed",
    "core.lock-proof",
    "core.valid-without-lock",
    "core.round.next",
    "core.round.skip",
    "core.decide",
    "core.decide.later-round",
    "core.decide.round-left-behind",
    "core.timeout.propose",
    "core.timeout.prevote",
    "core.timeout.precommit",
    "core.resume",
    "core.resume.locked",
)


@contextmanager
def observed(log: EventLog, states: dict[str, core.State], recorders: Mapping[str, Recorder]) -> Iterator[None]:
    """Count branches in `log.seen`, keep each node's newest core state in `states`, record traces by node."""
    apply, start_height = core.apply, core.start_height

    def watched_apply(state: core.State, event: Input) -> core.Transition:
        transition = apply(state, event)
        if (recorder := recorders.get(NODE.get())) is not None:
            recorder.took(event, transition)
        if transition.state is not state:
            states[NODE.get()] = transition.state
            log.peak_round = max(log.peak_round, transition.state.round)
            _count(log, state, event, transition)
        return transition

    def watched_start(start: StartHeight) -> core.Transition:
        transition = start_height(start)
        if (recorder := recorders.get(NODE.get())) is not None:
            recorder.took(start, transition)
        states[NODE.get()] = transition.state
        if start.safety is not None and start.safety.height == start.height:
            log.seen["core.resume"] += 1
            if start.safety.locked_round >= 0:
                log.seen["core.resume.locked"] += 1
        return transition

    with patch.object(core, "apply", watched_apply), patch.object(core, "start_height", watched_start):
        yield


def _count(log: EventLog, before: core.State, event: Input, transition: core.Transition) -> None:
    after, seen = transition.state, log.seen
    if isinstance(event, TimeoutElapsed):
        seen[f"core.timeout.{event.step.name.lower()}"] += 1
    if isinstance(event, LockProofReceived):
        seen["core.lock-proof"] += 1
    if after.round > before.round:
        by_timeout = (
            isinstance(event, TimeoutElapsed) and event.step is Step.PRECOMMIT and after.round == before.round + 1
        )
        seen["core.round.next" if by_timeout else "core.round.skip"] += 1
    if after.locked_round > before.locked_round:
        seen["core.lock"] += 1
        if before.locked_round >= 0 and before.locked_id != after.locked_id:
            seen["core.lock.changed"] += 1
    elif after.valid_round > before.valid_round:
        seen["core.valid-without-lock"] += 1
    for effect in transition.effects:
        match effect:
            case Propose(valid_round=valid_round):
                seen["core.propose" if valid_round < 0 else "core.re-propose"] += 1
            case CastVote(kind=VoteKind.PREVOTE, round=round_, block_id=block_id):
                _count_prevote(log, after, round_, block_id)
            case CastVote(block_id=block_id):
                seen["core.precommit.nil" if block_id == ZERO_DIGEST else "core.precommit"] += 1
            case Decide(round=round_):
                seen["core.decide"] += 1
                seen["core.decide.later-round"] += round_ > 0
                seen["core.decide.round-left-behind"] += round_ < before.round
            case _:
                pass


def _count_prevote(log: EventLog, state: core.State, round_: int, block_id: bytes) -> None:
    if block_id == ZERO_DIGEST:
        log.seen["core.prevote.nil"] += 1
        return
    log.seen["core.prevote"] += 1
    if any(offer.proposal.valid_round >= 0 for offer in state.proposals.get(round_, ())):
        log.seen["core.prevote.re-proposal"] += 1
        if state.locked_round >= 0 and state.locked_id != block_id:
            log.seen["core.prevote.against-lock-by-proof"] += 1
