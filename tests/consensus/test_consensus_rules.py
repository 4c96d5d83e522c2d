"""The traces of the vectors are sharp: without any one rule of the core, or with a part of it blunted, some differ."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepshard.ballots import VoteKind
from deepshard.consensus import core
from deepshard.consensus import lock_proofs as proofs
from deepshard.consensus import tally as tallies
from deepshard.consensus.events import CastVote, ScheduleTimeout
from deepshard.consensus.replay import Trace, replay, trace_from_json
from deepshard.consensus.tally import Tally
from deepshard.consensus.types import Step
from deepshard.consensus.validators import ValidatorSet
from deepshard.primitives import ZERO_DIGEST

Rule = Callable[[core.State], core.Transition | None]
VECTORS = Path(__file__).parents[2] / "protocol-spec/vectors/traces.json"
TRACES: dict[str, Trace] = {
    case["name"]: trace_from_json(case["trace"]) for case in json.loads(VECTORS.read_text(encoding="utf-8"))["cases"]
}


def differing() -> list[str]:
    return [name for name, trace in TRACES.items() if next(replay(trace), None) is not None]


def test_the_core_as_it_is_agrees_with_all() -> None:
    assert len(TRACES) > 25
    assert differing() == []


def test_every_rule_fires(monkeypatch: pytest.MonkeyPatch) -> None:
    fired: Counter[str] = Counter()

    def counted(rule: Rule) -> Rule:
        def run(state: core.State) -> core.Transition | None:
            transition = rule(state)
            fired[rule.__name__] += transition is not None
            return transition

        return run

    rules = core.RULES
    monkeypatch.setattr(core, "RULES", tuple(map(counted, rules)))
    assert differing() == []
    assert [rule.__name__ for rule in rules if not fired[rule.__name__]] == []


@pytest.mark.parametrize("rule", core.RULES, ids=lambda rule: rule.__name__)
def test_a_core_without_a_rule_differs(rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "RULES", tuple(other for other in core.RULES if other is not rule))
    assert differing() != []


def _no_evidence(*_: Any) -> tuple[()]:
    return ()


def _without_reasons(tally: Tally, block_id: bytes, _: object) -> list[Any]:
    return [votes[0] for votes in tally.votes.values() if any(vote.block_id == block_id for vote in votes)]


def _silent_about_proofs(state: core.State, received: Any) -> core.Transition:
    valid = received.valid and core._lock_allows(state, received.proposal.block_id, received.proposal.valid_round)
    return core._vote(state, VoteKind.PREVOTE, received.proposal.block_id if valid else ZERO_DIGEST)


def _forgets_everything(start: Any) -> core.Transition:
    return core._start_round(core.State(start.height, start.validators, start.me), 0)


def _counts_only_first(self: Tally, vote: Any, validators: ValidatorSet, *, proven: bool = False) -> Any:
    if vote.validator in self.votes:
        return self, None
    return _add(self, vote, validators, proven=proven)


_add = Tally.add
MUTANTS: dict[str, tuple[Any, str, Any]] = {
    "a quorum is a third": (ValidatorSet, "is_quorum", ValidatorSet.has_honest),
    "a third is a quorum": (ValidatorSet, "has_honest", ValidatorSet.is_quorum),
    "every lock allows everything": (core, "_lock_allows", lambda *_: True),
    "a lock allows nothing but its block": (core, "_lock_allows", lambda s, b, _: s.locked_id in {b, ZERO_DIGEST}),
    "a lock forgets its block": (core, "_lock_allows", lambda s, _, v: s.locked_round <= v),
    "votes may name any proof": (core, "names_its_proof", lambda _: True),
    "proofs need not be known": (proofs, "_justified", _without_reasons),
    "prevotes name no proof": (core, "_prevote", _silent_about_proofs),
    "amnesia is no evidence": (core, "_forgotten_locks", _no_evidence),
    "nobody is heard": (core, "_hear", lambda state, *_: state),
    "everybody may propose": (core, "_is_proposer", lambda state: state.is_validator()),
    "nobody proposes": (core, "_is_proposer", lambda _: False),
    "restarts forget": (core, "start_height", _forgets_everything),
    "equivocators count once": (Tally, "add", _counts_only_first),
    "equivocators may fill the memory": (tallies, "VOTES_PER_VALIDATOR_MAX", 99),
    "a proof brings nothing that was refused": (core, "_take_lock_proof", lambda state, _: core.Transition(state)),
    "every proposal is kept": (core, "PROPOSALS_PER_ROUND_MAX", 99),
    "no proposal is kept beyond two": (core, "_has_support", lambda *_: False),
    "votes of any round are kept": (core, "FUTURE_ROUNDS_MAX", 10**6),
    "offers are the same by block": (core, "_same_offer", lambda a, b: a.block_id == b.block_id),
    "no timeout is ever over": (core, "_take_timeout", lambda state, _: core.Transition(state)),
    "a follower votes": (core.State, "is_validator", lambda _: True),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_blunted_core_differs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    holder, attribute, replacement = MUTANTS[name]
    monkeypatch.setattr(holder, attribute, replacement)
    assert differing() != []


def test_traces_hold_every_kind_of_effect_for_every_step() -> None:
    seen = {
        (type(effect).__name__, getattr(effect, "kind", None), getattr(effect, "step", None))
        for trace in TRACES.values()
        for step in trace.steps
        for effect in step.effects or ()
    }
    assert {kind for name, kind, _ in seen if name == CastVote.__name__} == set(VoteKind)
    assert {step for name, _, step in seen if name == ScheduleTimeout.__name__} == set(Step)
