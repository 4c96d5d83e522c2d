"""The real thing on the tiny model: ten node processes, one epoch, and what its report says. A minute each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from machine_namespaces import why_no_namespaces  # noqa: F401  # a fixture

from deepshard.devnet.report import FaultReport, Report

pytestmark = pytest.mark.devnet
RUN_S = 600
ANSWERS_MAX = 120
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in {"KEEP", "MODEL"}}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One import of the model for all runs of this file."""
    return tmp_path_factory.mktemp("devnet-cache")


def command(directory: Path, cache: Path, *options: str) -> list[str]:
    fixed = ["--model", "tiny", "--plain", "--dir", str(directory), "--cache", str(cache)]
    return [sys.executable, "-m", "deepshard.devnet", *fixed, *options]


def run(directory: Path, cache: Path, *options: str) -> Report:
    result = subprocess.run(
        command(directory, cache, *options), capture_output=True, text=True, check=False, timeout=RUN_S, env=ENVIRONMENT
    )
    assert result.returncode == 0, result.stdout[-8_000:] + result.stderr[-4_000:]
    return read_report(directory)


def read_report(directory: Path) -> Report:
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


@dataclass(frozen=True)
class Kept:
    """A devnet that lived through its faults and was left running: its report, what it said, and a command's answer."""

    report: Report
    said: str
    status: dict[str, Any]
    exit_code: int

    def fault(self, kind: str) -> FaultReport:
        return next(each for each in self.report.faults if each.kind == kind)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, cache: Path, why_no_namespaces: str) -> Kept:
    """`make devnet KEEP=1` with every fault that this machine allows: each of another validator, in another phase.

    Voting can't end without the stopped one, nor scoring without the one that is cut off: not before they are back, or
    twenty blocks after the others, who are slow to make them. Joining and training take longer than the killed one.
    """
    faults = ["stop:validator-2@voting:20", "kill:validator-3@joining:5"]
    faults += [] if why_no_namespaces else ["partition:validator-4@scoring:20"]
    directory = tmp_path_factory.mktemp("kept") / "net"
    options = [part for fault in faults for part in ("--fault", fault)]
    lines: list[str] = []
    status: dict[str, Any] = {}
    with subprocess.Popen(
        command(directory, cache, "--keep", *options), stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if "the network runs until Ctrl-C" in line:
                tell_status = next(each for each in lines if "deepshard status" in each)
                first = status = answer_of(tell_status)
                for _ in range(ANSWERS_MAX):  # a block is due within seconds, and each answer takes half of one
                    if status["height"] > first["height"]:
                        break
                    status = answer_of(tell_status)
                process.send_signal(signal.SIGINT)
    said = "".join(lines)
    assert process.returncode == 0, said[-8_000:]
    return Kept(read_report(directory), said, status, process.returncode)


def answer_of(line: str) -> dict[str, Any]:
    """Run a command that a person is told to try, as they would in another terminal."""
    words = line.split("]", 1)[1].split()
    words[words.index("deepshard")] = str(Path(sys.executable).with_name("deepshard"))
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def outcomes(report: Report) -> dict[str, str]:
    return {each.name: each.outcome for each in report.trainers}


def test_one_dishonest_trainer_is_slashed_and_the_model_learns(kept: Kept) -> None:
    report = kept.report
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
    assert len({each.name for each in report.processes}) == 10
    rewards = [each.amount for each in report.trainers if each.honest]
    assert min(rewards) > 0
    # Paid: the round's mint less the informants' part, and the slashed stake, and nothing else.
    changes = {name: each.after - each.before for name, each in report.balances.items()}
    assert changes["trainer-4"] < 0 < changes["informant"] + report.rejected[0].slashed
    assert changes["inference"] < 0


def test_a_network_with_faults_goes_on_after_its_epoch(kept: Kept) -> None:
    report = kept.report
    assert kept.exit_code == 0
    assert kept.status["height"] > report.agreement_height
    assert [peer["roles"] for peer in kept.status["peers"]].count(["validator"]) == 3
    assert report.round_outcome == "accepted"
    lost = {name: each.before - each.after for name, each in report.bonds.items()}
    assert lost == {name: report.audits[name].lost if name in report.audits else 0 for name in lost}
    assert sum(each.asked - each.failed for each in report.audits.values()) > 0
    assert lost["validator-1"] == 0  # the others had faults, and may have missed an audit
    assert report.equivocations == []
    # Validators with the model in memory and those that read it layer by layer reported the same numbers.
    assert set(report.scored_by.values()) == {
        "deepshard::perturbation_score (cpu, packed)",
        "deepshard::perturbation_score (cpu, packed, streamed)",
    }
    assert set(report.state_roots) == {f"validator-{number}" for number in (1, 2, 3, 4)}
    assert len(set(report.state_roots.values())) == 1


def survived(fault: FaultReport, report: Report) -> None:
    """It began in its phase and ended while the epoch went on; the others decided blocks, and then the node did too."""
    assert fault.began_in == fault.phase
    assert fault.ended_in in {"voting", "joining", "training", "revealing", "scoring"}
    assert 0 < fault.height_before < fault.height_after < fault.signed_height <= report.agreement_height
    assert report.storage[fault.node].held == report.storage[fault.node].assigned


def test_a_validator_that_stands_still_for_20_s_catches_up(kept: Kept) -> None:
    fault = kept.fault("stop")
    assert (fault.node, fault.ended_in, fault.facts) == ("validator-2", "voting", "stood still")
    survived(fault, kept.report)
    assert "validator-2 goes on after SIGCONT" in kept.said
    # Its vote counts: it is in the committee, and the others waited for it.
    assert [each.tally["voters"] for each in kept.report.accepted] == [4]


def test_a_killed_validator_stops_nobody_and_catches_up(kept: Kept) -> None:
    fault = kept.fault("kill")
    assert (fault.node, fault.facts) == ("validator-3", "was killed")
    survived(fault, kept.report)
    assert [each.exit_code for each in kept.report.processes if each.name == "validator-3"] == [-9, 0]


def test_a_validator_that_is_cut_off_for_20_s_catches_up(kept: Kept, why_no_namespaces: str) -> None:
    if why_no_namespaces:
        pytest.skip(why_no_namespaces)
    fault = kept.fault("partition")
    assert (fault.node, fault.ended_in) == ("validator-4", "scoring")
    survived(fault, kept.report)
    assert fault.facts.startswith("was cut off at height ")
    own_height = int(fault.facts.rsplit(" ", 1)[1])
    assert own_height <= fault.height_before + 1 < fault.height_after


def test_without_a_dishonest_trainer_nobody_is_slashed(tmp_path: Path, cache: Path) -> None:
    report = run(tmp_path / "net", cache, "--dishonest", "0")
    assert set(outcomes(report).values()) == {"accepted"}
    assert len(outcomes(report)) == 4
    assert len(report.processes) == 10
    assert {each.exit_code for each in report.processes} == {0}
    assert report.weights_root_before != report.weights_root_after == report.download.weights_root


def test_two_different_dishonest_trainers_are_never_accepted(tmp_path: Path, cache: Path) -> None:
    report = run(tmp_path / "net", cache, "--dishonest", "2")
    judged = outcomes(report)
    assert {judged["trainer-3"], judged["trainer-4"]} <= {"slashed", "returned"}
    assert "slashed" not in {judged["trainer-1"], judged["trainer-2"]}
    if report.round_outcome == "void":
        assert report.weights_root_before == report.weights_root_after
    else:
        assert judged["trainer-1"] == judged["trainer-2"] == "accepted"
