from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from deepshard.devnet import running
from deepshard.devnet.__main__ import check_model
from deepshard.devnet.epoch import laggard
from deepshard.devnet.narration import PlainNarrator
from deepshard.devnet.plans import plan_for
from deepshard.devnet.processes import Processes, open_processes
from deepshard.devnet.report import Report
from deepshard.devnet.roster import make_roster
from deepshard.devnet.running import own_directory, run_devnet
from deepshard.devnet.stage import Settings, Stage, StepFailed
from deepshard.errors import UsageError


def test_a_directory_belongs_to_one_run_and_is_emptied_for_the_next(tmp_path: Path) -> None:
    directory = tmp_path / "net"
    with own_directory(directory):
        (directory / "validator-1").mkdir()
        (directory / "validator-1" / "node.log").write_text("old")
        with pytest.raises(UsageError, match=r"process \d+\) already runs in .*net"), own_directory(directory):
            pass
        assert (directory / "validator-1" / "node.log").exists()
    with own_directory(directory):
        assert [path.name for path in directory.iterdir()] == ["devnet.lock"]


def test_a_directory_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="holds other files"), own_directory(tmp_path):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_place_that_is_no_directory_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UsageError, match=r"cannot use the folder .*/file/net: Not a directory"),
        own_directory(tmp_path / "file/net"),
    ):
        pass


def test_models_are_named_or_refused(tmp_path: Path) -> None:
    assert check_model("tiny") == "tiny"
    assert check_model("owner/name-1.5") == "owner/name-1.5"
    with pytest.raises(UsageError, match="unknown model 'huge'"):
        check_model("huge")
    with pytest.raises(UsageError, match="holds no model"):
        check_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert check_model(str(tmp_path)) == str(tmp_path.resolve())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--model", "huge"],
            "devnet: unknown model 'huge': give tiny, smollm2, the directory of a model, or owner/name",
        ),
        (["--model", "tiny", "--dishonest", "3"], "devnet: --dishonest 3: give 0, 1 or 2"),
    ],
)
def test_a_persons_mistake_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    command = [sys.executable, "-m", "deepshard.devnet", "--dir", str(tmp_path / "net"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "net").exists()


async def failing_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> tuple[int, str, Report]:
    """Run with a launch that starts one process of `code` and then waits for ever."""

    async def launch(stage: Stage) -> None:
        stage.phase("start", "starting one node")
        home = stage.settings.directory / "validator-1"
        home.mkdir()
        command = [sys.executable, "-I", "-S", "-c", code]
        stage.processes.start("validator-1", command, role="validator", log_path=home / "node.log")
        if "pause" in code:
            raise StepFailed("nothing moved", "validator-1")
        with trio.fail_after(60):
            await trio.sleep_forever()

    monkeypatch.setattr(running, "launch", launch)
    settings = Settings(model="tiny", directory=tmp_path, cache=tmp_path / "cache")
    stream = io.StringIO()
    code_of_exit = await run_devnet(settings, PlainNarrator(stream))
    report = Report(
        **{
            key: value
            for key, value in json.loads((tmp_path / "report.json").read_text()).items()
            if key in {"ok", "failed_step", "failure"}
        }
    )
    return code_of_exit, stream.getvalue(), report


async def test_a_dead_node_fails_the_step_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "print('cannot listen on 127.0.0.1:1'); raise SystemExit(2)"
    exit_code, said, report = await failing_run(tmp_path, monkeypatch, code)
    assert exit_code == 1
    assert "devnet: FAILED at start: validator-1 exited with code 2" in said
    assert "cannot listen on 127.0.0.1:1" in said
    assert (report.ok, report.failed_step, report.failure) == (False, "start", "validator-1 exited with code 2")


async def test_a_step_that_did_not_happen_names_its_culprit_and_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exit_code, said, report = await failing_run(tmp_path, monkeypatch, "import signal; signal.pause()")
    assert exit_code == 1
    assert "devnet: FAILED at start: nothing moved" in said
    assert "end of the log of validator-1" in said
    assert "was ended by SIGTERM" in said
    assert report.failure == "nothing moved"


async def test_waiting_ends_with_the_facts(autojump_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    settings = Settings(model="tiny", directory=tmp_path, cache=tmp_path)
    narrator = PlainNarrator(io.StringIO())
    plan = plan_for("tiny")
    stage = Stage(settings=settings, plan=plan, narrator=narrator, processes=Processes(), report=Report())
    looks = 0

    async def tell_nothing() -> None:
        await trio.lowlevel.checkpoint()

    stage.tell_news = tell_nothing  # type: ignore[method-assign]  # there is no node to ask

    async def look() -> int | None:
        nonlocal looks
        looks += 1
        return looks if looks == 4 else None

    assert await stage.until(look, what="four looks", timeout_s=10) == 4
    with pytest.raises(StepFailed, match=r"^a fifth did not happen within 3 s \(seen \d+\)$") as caught:
        await stage.until(
            look, what="a fifth", timeout_s=3, facts=lambda: f"(seen {looks})", culprit=lambda: "inference"
        )
    assert caught.value.culprit == "inference"
    assert trio.current_time() >= 3


async def test_phases_are_timed_and_add_up(autojump_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    settings = Settings(model="tiny", directory=tmp_path, cache=tmp_path)
    report = Report()
    plan = plan_for("tiny")
    stage = Stage(
        settings=settings, plan=plan, narrator=PlainNarrator(io.StringIO()), processes=Processes(), report=report
    )
    for name, seconds in (("one", 2), ("two", 3), ("one", 4)):
        stage.phase(name, name)
        with trio.move_on_after(seconds):
            await trio.sleep_forever()
    stage.end_phase()
    assert report.phase_seconds == {"one": 6.0, "two": 3.0}


async def test_the_node_that_a_round_waits_for_is_named(tmp_path: Path) -> None:
    plan = plan_for("tiny")
    settings = Settings(model="tiny", directory=tmp_path, cache=tmp_path)
    roster = make_roster(tmp_path, plan, dishonest=0)
    narrator = PlainNarrator(io.StringIO())
    stage = Stage(
        settings=settings, plan=plan, narrator=narrator, processes=Processes(), report=Report(), roster=roster
    )
    by_name = {each.name: each.address for each in roster}
    async with open_processes() as processes:
        log = tmp_path / "log"
        for name in by_name:
            if name != "validator-2":  # as if it had been killed
                stage.running[name] = processes.start(name, [sys.executable, "-c", ""], role="test", log_path=log)
    trainers = [{"address": by_name[f"trainer-{n}"], "committed": n != 3} for n in (1, 2, 3, 4)]
    assert laggard(stage, {"status": "training", "trainers": trainers}) == "trainer-3"
    reporters = [by_name["validator-1"], by_name["validator-4"]]
    assert laggard(stage, {"status": "scoring", "reporters": reporters}) == "validator-3"
    assert laggard(stage, {}) == "validator-1"
    stage.down.add("validator-3")  # a fault: nobody waits for it
    assert laggard(stage, {"status": "scoring", "reporters": reporters}) == "validator-1"
    assert [each.name for each in stage.of_role("validator")] == ["validator-1", "validator-4"]
