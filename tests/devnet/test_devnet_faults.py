"""Faults as a person writes them, and what is said of those that can't be."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from deepshard.devnet.faults import Fault, parse_fault, parse_faults
from deepshard.devnet.injecting import Injector
from deepshard.devnet.narration import PlainNarrator
from deepshard.devnet.plans import plan_for
from deepshard.devnet.processes import Processes
from deepshard.devnet.report import Report
from deepshard.devnet.stage import Settings, Stage
from deepshard.errors import UsageError


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kill:validator-2@training", Fault("kill", "validator-2", "training", 5)),
        ("stop:validator-3@voting", Fault("stop", "validator-3", "voting", 20)),
        ("partition:validator-4@scoring", Fault("partition", "validator-4", "scoring", 20)),
        ("stop:validator-2@joining:600", Fault("stop", "validator-2", "joining", 600)),
    ],
)
def test_a_fault_is_read(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault
    assert parse_fault(str(fault)) == fault


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "give KIND:VALIDATOR@PHASE[:SECONDS], as in kill:validator-2@training or stop:validator-3@voting:30"),
        ("kill", "give KIND:VALIDATOR@PHASE[:SECONDS]"),
        ("kill:validator-2", "give KIND:VALIDATOR@PHASE[:SECONDS]"),
        ("kill:validator-2@voting:5:5", "give KIND:VALIDATOR@PHASE[:SECONDS]"),
        ("burn:validator-2@voting", "unknown kind 'burn': give kill, stop or partition"),
        ("kill:validator-1@voting", "told from validator-1: give validator-2, validator-3 or validator-4"),
        ("kill:trainer-1@voting", "no validator 'trainer-1' here: give validator-2, validator-3 or validator-4"),
        ("kill:validator-2@lunch", "unknown phase 'lunch': give voting, joining, training or scoring"),
        ("kill:validator-2@voting:4", "give whole seconds from 5 to 600"),
        ("kill:validator-2@voting:601", "give whole seconds from 5 to 600"),
        ("kill:validator-2@voting:-9", "give whole seconds from 5 to 600"),
        ("kill:validator-2@voting:1e1", "give whole seconds from 5 to 600"),
    ],
)
def test_a_fault_that_cannot_be_is_named(text: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_fault(text)
    assert str(caught.value).startswith(f"--fault {text!r}: ")
    assert complaint in str(caught.value)


def test_a_phase_has_one_fault() -> None:
    three = ["stop:validator-2@voting", "kill:validator-2@joining", "kill:validator-3@training"]
    assert [str(each) for each in parse_faults(three)] == [
        "stop:validator-2@voting:20",
        "kill:validator-2@joining:5",
        "kill:validator-3@training:5",
    ]
    with pytest.raises(UsageError, match="kill:validator-2@joining:5 is in that phase already"):
        parse_faults([*three, "stop:validator-4@joining"])


@pytest.mark.parametrize(
    ("path", "arguments", "message"),
    [
        (None, ["--fault", "stop:validator-9@voting"], "devnet: --fault 'stop:validator-9@voting': no validator"),
        ("/nowhere", ["--fault", "partition:validator-2@voting"], "devnet: a partition needs the program `ip`"),
    ],
)
def test_a_fault_that_cannot_be_done_is_one_line_and_exit_code_2(
    tmp_path: Path, path: str | None, arguments: list[str], message: str
) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "deepshard.devnet", "--model", "tiny", "--dir", str(tmp_path / "net"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ) if path is None else {**os.environ, "PATH": path},
    )
    assert result.returncode == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "net").exists()


@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare (util-linux) is not here")
def test_a_machine_that_allows_no_namespace_says_so(tmp_path: Path) -> None:
    """A user namespace that may hold no network namespaces stands for such a machine."""
    limit = "echo 0 > /proc/sys/user/max_net_namespaces && exec "
    command = [sys.executable, "-m", "deepshard.devnet", "--model", "tiny", "--dir", str(tmp_path / "net")]
    inside = ["unshare", "--user", "--map-root-user", "sh", "-c"]
    probe = subprocess.run([*inside, f"{limit} true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"no user namespace can be limited here: {probe.stderr.strip()}")
    asked = " ".join([*command, "--fault", "partition:validator-2@voting"])
    result = subprocess.run([*inside, limit + asked], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("devnet: this machine allows no partition (")
    assert "unshare: No space left on device" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "net").exists()


async def test_a_fault_whose_phase_never_comes_is_given_up_and_told(tmp_path: Path) -> None:
    stage = Stage(
        settings=Settings(model="tiny", directory=tmp_path, cache=tmp_path),
        plan=plan_for("tiny"),
        narrator=PlainNarrator(io.StringIO()),
        processes=Processes(),
        report=Report(),
    )
    injector = Injector(stage)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(injector.run, Fault("kill", "validator-2", "joining", 5))
            await trio.testing.wait_all_tasks_blocked()
            stage.phase("voting", "they vote")
            await trio.testing.wait_all_tasks_blocked()
            injector.epoch_is_over()
    assert [(each.kind, each.node, each.phase, each.began_in) for each in stage.report.faults] == [
        ("kill", "validator-2", "joining", "")
    ]
