"""Traces of simulated nodes: complete, the same each time, and evidence of a planted bug."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from deepshard.consensus.events import ProposalReceived, StartHeight, TimeoutElapsed, VoteReceived
from deepshard.consensus.replay import Difference, Trace, decode_trace, encode_trace, replay
from deepshard.errors import UsageError
from deepshard.testing.simulate import draw, run_plan
from deepshard.testing.simulate.__main__ import app


def traced(seed: int, scenario: str, node: str, canary: str | None = None) -> Trace:
    trace = run_plan(draw(seed, scenario), recorded=node, canary=canary).trace
    assert trace is not None
    return trace


@pytest.mark.parametrize(
    ("seed", "scenario"), [(1, "mixed"), (2, "byzantine"), (3, "crashes"), (4, "network"), (5, "beyond"), (6, "mixed")]
)
def test_what_a_node_went_through_replays_without_a_difference(seed: int, scenario: str) -> None:
    plan = draw(seed, scenario)
    honest = [number for number in range(len(plan.stakes)) if number not in plan.byzantine]
    for number in honest[:2]:
        trace = traced(seed, scenario, f"n{number}")
        assert list(replay(trace)) == []
        assert {type(step.input) for step in trace.steps} >= {StartHeight, ProposalReceived, VoteReceived}
        assert decode_trace(encode_trace(trace)) == trace


def test_a_restarted_node_resumes_in_its_trace() -> None:
    plan = draw(3, "crashes")
    crashed = next(number for fault in plan.faults if fault.kind == "crash" for number in fault.nodes)
    trace = traced(3, "crashes", f"n{crashed}")
    starts = [step.input for step in trace.steps if isinstance(step.input, StartHeight)]
    assert [start.height for start in starts] == sorted(start.height for start in starts)
    assert any(start.safety is not None for start in starts)
    assert any(isinstance(step.input, TimeoutElapsed) for step in trace.steps)
    assert list(replay(trace)) == []


def test_a_seed_gives_the_same_trace_and_the_run_goes_on_as_without() -> None:
    plan = draw(2, "byzantine")
    results = [run_plan(plan, traced=True, recorded=recorded) for recorded in ("n1", "n1", None)]
    assert results[0].log == results[1].log == results[2].log
    assert results[2].trace is None
    first, second = (encode_trace(result.trace) for result in results[:2] if result.trace is not None)
    assert first == second


def test_a_planted_bug_shows_in_the_trace_of_a_node_that_has_it() -> None:
    def first_difference(seed: int) -> Difference | None:
        return next(replay(traced(seed, "byzantine", "n0", canary="one-third")), None)

    found = next(difference for seed in range(20) if (difference := first_difference(seed)) is not None)
    assert found.expected != found.got


def test_only_a_node_of_the_plan_can_be_recorded() -> None:
    with pytest.raises(UsageError, match="no node 'n99': there are n0, n1"):
        run_plan(draw(1, "mixed"), recorded="n99")


def test_a_trace_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    arguments = ["--seed", "3", "--scenario", "mixed", "--trace", "n1", str(path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    trace = decode_trace(path.read_bytes())
    assert trace == traced(3, "mixed", "n1")
    assert "seed 3, scenario mixed, node n1" in trace.source


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seed", "1", "--trace", "n99", "file"],
        ["--seed", "1", "--trace", "n0", "/nowhere/at/all"],
        ["--seeds", "0:2", "--trace", "n0", "file"],
    ],
)
def test_a_mistake_is_told_in_one_line(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("deepshard.testing.simulate: ")
    assert result.stderr.count("\n") == 1
