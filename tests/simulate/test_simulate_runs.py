"""The simulator: 60 seeds of its run set, sealed and repeatable, and able to find bugs that are planted."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
import trio
from typer.testing import CliRunner

from deepshard.errors import UsageError
from deepshard.testing.simulate import Plan, Result, draw, run_plan, simulate
from deepshard.testing.simulate.__main__ import app
from deepshard.testing.simulate.log import EventLog
from deepshard.testing.simulate.runset import SETS, differing_line, replay_command, run_set, shrunk
from deepshard.testing.simulate.seal import SealBroken, sealed


def test_sixty_seeds_keep_every_promise_and_exercise_every_fault() -> None:
    tally = run_set(SETS["ci"], "set")
    assert tally.failures == []
    assert tally.seeds == 60
    assert tally.never() == []


@pytest.mark.parametrize("scenario", ["mixed", "crashes", "beyond"])
def test_a_seed_gives_the_same_log_in_every_process(scenario: str) -> None:
    assert differing_line(3, scenario, None) is None


def test_a_seed_gives_the_same_log_after_other_runs() -> None:
    first = simulate(5, "mixed", traced=True)
    simulate(6, "byzantine")
    assert simulate(5, "mixed", traced=True).log == first.log
    assert simulate(7, "mixed", traced=True).log != first.log


@pytest.mark.parametrize(("canary", "begin"), [("one-third", 0), ("forgotten-lock", 75), ("unwritten-guard", 80)])
def test_a_planted_bug_is_caught_within_200_seeds(canary: str, begin: int) -> None:
    """Each begins where a seed that catches it is near: of the first 200, 15, 2 and 8 do."""
    tally = run_set(range(begin, begin + 200), "set", canary=canary, told=lambda so_far: bool(so_far.failures))
    assert tally.failures


def test_a_failing_run_is_shrunk_to_what_it_needs() -> None:
    tally = run_set(range(200), "set", canary="one-third", told=lambda so_far: bool(so_far.failures))
    seed, scenario, _ = tally.failures[0]
    plan = draw(seed, scenario)
    kept = shrunk(plan, "one-third")
    assert len(kept) < len(plan.faults)
    assert run_plan(plan.only(kept), canary="one-third").violation is not None
    for number in kept:
        fewer = plan.only([one for one in kept if one != number])
        assert run_plan(fewer, canary="one-third").violation is None
    assert replay_command(plan, kept, "one-third").endswith(
        f"--seed {seed} --scenario {scenario} --keep {','.join(map(str, kept)) or 'none'} --canary one-third"
    )


def test_no_faults_no_delays() -> None:
    result = simulate(1, "plain")
    assert result.violation is None
    assert result.blocks == 300
    assert result.seen["core.decide.later-round"] == 0
    assert sum(result.received["n0"].values()) > 300


def _read(what: str) -> object:
    match what:
        case "time":
            return time.time()
        case "monotonic":
            return time.monotonic()
        case "random":
            return random.random()
        case _:
            return random.SystemRandom().random()


@pytest.mark.parametrize("what", ["time", "monotonic", "random", "system random"])
def test_real_time_and_chance_are_refused(what: str) -> None:
    with sealed(1, EventLog(traced=False), lambda _, __: None), pytest.raises(SealBroken, match="simulated run"):
        _read(what)
    assert _read(what) is not None


def test_threads_are_refused() -> None:
    async def main() -> None:
        await trio.to_thread.run_sync(int)

    with sealed(1, EventLog(traced=False), lambda _, __: None), pytest.raises(SealBroken):
        trio.run(main)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--seed", "1", "--seeds", "1:2"],
        ["--seeds", "9:3"],
        ["--seeds", "a:b"],
        ["--set", "huge"],
        ["--seed", "1", "--scenario", "none"],
        ["--seed", "1", "--nodes", "3"],
        ["--seed", "1", "--keep", "x"],
        ["--seed", "1", "--keep", "99"],
        ["--seed", "1", "--canary", "parrot"],
        ["--seeds", "0:2", "--canary", "parrot"],
        ["--seeds", "0:2", "--keep", "1"],
        ["--seed", "1", "--log", "/nowhere/at/all"],
    ],
)
def test_a_mistake_is_told_in_one_line(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("deepshard.testing.simulate: ")
    assert result.stderr.count("\n") == 1


def test_one_seed_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    result = CliRunner().invoke(app, ["--seed", "3", "--scenario", "mixed", "--nodes", "4", "--log", str(path)])
    assert result.exit_code == 0
    assert "every promise was kept" in result.stdout
    assert '"event":"decided"' in path.read_text()


def test_a_violation_is_printed_with_what_runs_it_again() -> None:
    tally = run_set(range(200), "set", canary="one-third", told=lambda so_far: bool(so_far.failures))
    seed, scenario, violation = tally.failures[0]
    arguments = ["--seed", str(seed), "--scenario", scenario, "--canary", "one-third"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert f"VIOLATION: {violation}" in result.stdout
    assert "shrunk from" in result.stdout


def test_plans_come_from_their_seed() -> None:
    plan: Plan = draw(3, "mixed")
    assert plan == draw(3, "mixed")
    assert plan != draw(4, "mixed")
    assert 3 * sum(plan.stakes[number] for number in plan.byzantine) < sum(plan.stakes)
    beyond = draw(3, "beyond")
    assert 3 * sum(beyond.stakes[number] for number in beyond.byzantine) >= sum(beyond.stakes)
    with pytest.raises(UsageError, match="there is no fault 77"):
        plan.only([77])


def test_a_result_tells_what_came() -> None:
    result: Result = simulate(2, "network")
    assert result.violation is None
    assert result.blocks >= result.plan.blocks
    assert len(result.finality_s) >= result.blocks
    assert min(result.finality_s) > 0
    assert sum(result.received_bytes["n1"].values()) > sum(result.received["n1"].values())
