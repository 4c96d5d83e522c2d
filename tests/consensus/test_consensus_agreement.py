from __future__ import annotations

from typing import Any

import pytest
from consensus_network import Network, Violation, first_violation
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshard.consensus import core
from deepshard.consensus.validators import ValidatorSet

ROUNDS_AFTER_FAULTS_MAX = 8


@pytest.mark.clause("9.3/1")
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(0, 300), powers=st.sampled_from([(1, 1, 1, 1), (5, 3, 4, 2, 6)]))
def test_honest_nodes_agree_and_decide_when_the_faults_stop(seed: int, steps: int, powers: tuple[int, ...]) -> None:
    network = Network(seed, powers)
    network.chaos(steps)
    network.calm(ROUNDS_AFTER_FAULTS_MAX)
    assert network.equivocations == 0


@pytest.mark.clause("9.3/7")
@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(50, 400), byzantine=st.integers(0, 3))
def test_an_equivocator_below_a_third_breaks_neither_agreement_nor_progress(
    seed: int, steps: int, byzantine: int
) -> None:
    network = Network(seed, byzantine=byzantine)
    network.chaos(steps)
    network.calm(ROUNDS_AFTER_FAULTS_MAX)


def test_without_faults_round_zero_decides() -> None:
    network = Network(0)
    network.calm(0)
    assert network.round() == 0
    assert {node.decided for node in network.nodes.values()} == {network.nodes[0].decided}


def test_the_scheduler_really_crashes_and_equivocates() -> None:
    networks = [Network(seed, byzantine=seed % 4) for seed in range(20)]
    for network in networks:
        network.chaos(300)
    assert sum(network.crashes for network in networks) > 10
    assert sum(network.equivocations for network in networks) > 10
    assert max(network.round() for network in networks) > 1


def _attacked(*, amnesia: bool = False) -> Any:
    def run(seed: int) -> None:
        network = Network(seed, byzantine=seed % 4, amnesia=amnesia)
        network.chaos(500)

    return run


def test_the_intact_core_survives_what_the_mutants_below_die_of() -> None:
    assert first_violation(range(50), _attacked()) is None


@pytest.mark.parametrize("bug", ["a quorum of one third", "forgets its lock", "forgets everything in a crash"])
def test_a_planted_bug_is_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if bug == "a quorum of one third":
        monkeypatch.setattr(ValidatorSet, "is_quorum", ValidatorSet.has_honest)
    if bug == "forgets its lock":
        monkeypatch.setattr(core, "_lock_allows", lambda *_: True)
    found = first_violation(range(400), _attacked(amnesia="everything" in bug))
    assert found is not None, f"no seed shows that the core {bug}"


def test_a_violation_is_no_silent_error() -> None:
    with pytest.raises(Violation):
        Network(0, byzantine=None)._check_evidence(b"somebody")
