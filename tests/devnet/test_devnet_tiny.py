"""The real thing on the tiny model: ten node processes, one epoch, and what its report says. A minute each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from deepshard.devnet.report import Report

pytestmark = pytest.mark.devnet
RUN_S = 600


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One import of the model for all runs of this file."""
    return tmp_path_factory.mktemp("devnet-cache")


def run(directory: Path, cache: Path, *options: str) -> Report:
    command = [sys.executable, "-m", "deepshard.devnet", "--model", "tiny", "--plain"]
    environment = {name: value for name, value in os.environ.items() if name not in {"KEEP", "MODEL"}}
    result = subprocess.run(
        [*command, "--dir", str(directory), "--cache", str(cache), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_S,
        env=environment,
    )
    assert result.returncode == 0, result.stdout[-8_000:] + result.stderr[-4_000:]
    report = msgspec.json.decode((directory / "report.json").read_bytes(), type=Report)
    assert report.ok
    assert [check.name for check in report.checks if not check.passed] == []
    # A run that passes for the wrong reason is worse than one that fails: look again at what every run must show.
    assert [each.title for each in report.accepted] == ["How Deepshard works"]
    assert [each.title for each in report.rejected] == ["Best deals"]
    assert report.rejected[0].slashed > 0
    assert report.supply_conserved
    assert report.peak_memory_bytes > 0
    assert report.answers.before
    assert report.answers.after == report.answers.streamed
    assert {each.pid for each in report.processes if is_alive(each.pid)} == set()
    return report


def is_alive(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False
    return b"deepshard.node" in command


def outcomes(report: Report) -> dict[str, str]:
    return {each.name: each.outcome for each in report.trainers}


def test_one_dishonest_trainer_is_slashed_and_the_model_learns(tmp_path: Path, cache: Path) -> None:
    report = run(tmp_path / "net", cache)
    assert outcomes(report) == {
        "trainer-1": "accepted",
        "trainer-2": "accepted",
        "trainer-3": "accepted",
        "trainer-4": "slashed",
    }
    assert report.weights_root_before != report.weights_root_after == report.download.weights_root
    assert report.logprob_before is not None
    assert report.logprob_after is not None
    assert report.logprob_after > report.logprob_before
    assert len(report.processes) == 10
    assert {each.exit_code for each in report.processes} == {0}
    rewards = [each.amount for each in report.trainers if each.honest]
    assert min(rewards) > 0
    # Paid: the round's mint less the informants' part, and the slashed stake, and nothing else.
    changes = {name: each.after - each.before for name, each in report.balances.items()}
    assert changes["trainer-4"] < 0 < changes["informant"] + report.rejected[0].slashed
    assert changes["inference"] < 0


def test_a_killed_validator_stops_nobody_and_catches_up(tmp_path: Path, cache: Path) -> None:
    report = run(tmp_path / "net", cache, "--kill-validator")
    assert report.killed == "validator-3"
    assert [each.exit_code for each in report.processes if each.name == "validator-3"] == [-9, 0]
    assert report.caught_up
    assert len(set(report.state_roots.values())) == 1
    assert "validator-3" in report.state_roots
    assert report.round_outcome == "accepted"


def test_without_a_dishonest_trainer_nobody_is_slashed(tmp_path: Path, cache: Path) -> None:
    report = run(tmp_path / "net", cache, "--dishonest", "0")
    assert set(outcomes(report).values()) == {"accepted"}
    assert len(outcomes(report)) == 4


def test_two_different_dishonest_trainers_are_never_accepted(tmp_path: Path, cache: Path) -> None:
    report = run(tmp_path / "net", cache, "--dishonest", "2")
    judged = outcomes(report)
    assert {judged["trainer-3"], judged["trainer-4"]} <= {"slashed", "returned"}
    assert "slashed" not in {judged["trainer-1"], judged["trainer-2"]}
    if report.round_outcome == "void":
        assert report.weights_root_before == report.weights_root_after
    else:
        assert judged["trainer-1"] == judged["trainer-2"] == "accepted"
