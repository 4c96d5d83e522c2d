"""The durability sweep: a sample of it holds, bugs that are planted are caught, and one point runs by its command."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deepshard.disk.chain import ChainStore
from deepshard.testing.durability import plain_files, rot
from deepshard.testing.durability.__main__ import app
from deepshard.testing.durability.answers import REPORTS, ask, disk_of, hearing, opened, start
from deepshard.testing.durability.homes import FOLDER, HEIGHT, homes
from deepshard.testing.durability.outcomes import Damage, Outcome
from deepshard.testing.durability.power import STAGES, VARIANTS, Loss, operations_of, run_loss, small_snapshots
from deepshard.testing.durability.sweep import KEPT, run_tasks, tasks_of

CHAIN = "chain.sqlite"


@pytest.mark.clause("9.7/1")
def test_a_sample_of_all_points_keeps_every_promise(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    ran = CliRunner().invoke(app, ["--quick", "--json", str(path)])
    assert (ran.exit_code, "0 violations" in ran.output) == (0, True), ran.output
    figures = json.loads(path.read_text())
    assert figures["violations"] == []
    assert figures["points"] == sum(row["points"] for row in figures["rows"]) > 1500
    assert {(row["part"], row["outcome"]) for row in figures["rows"]} == {
        ("power", KEPT),
        *(("rot", outcome.value) for outcome in Outcome if outcome is not Outcome.VIOLATION),
    }
    assert {row["what"] for row in figures["rows"]} == {*VARIANTS, "flip", "cut", "gone"}


def test_the_full_sweep_has_every_operation_in_every_variant_and_every_byte() -> None:
    tasks = tasks_of(["power", "rot"], 0, quick=False)
    counts = {stage: len(operations_of(stage, 0)) for stage in STAGES}
    assert min(counts.values()) > 500
    assert len([task for task in tasks if isinstance(task, Loss)]) == len(VARIANTS) * sum(counts.values())
    for home in homes(0).values():
        for name in home.damaged:
            size = len(home.image[FOLDER / name])
            expected = {Damage(home.name, name, kind, point) for kind in ("flip", "cut") for point in range(size)}
            assert expected | {Damage(home.name, name, "gone", 0)} == {
                task for task in tasks if isinstance(task, Damage) and (task.home, task.file) == (home.name, name)
            }


def test_a_sweep_that_is_stopped_says_how_far_it_came() -> None:
    ran = CliRunner().invoke(app, ["--quick", "--only", "rot", "--minutes", "0"])
    assert ran.exit_code == 0
    assert re.search(r"\n40 of 1\d\d\d points in \d+ s: 0 violations\n", ran.output), ran.output


def test_the_moments_are_what_they_are_named_for() -> None:
    with small_snapshots():
        found = homes(0)
    sizes = {name: {path.name: len(data) for path, data in home.image.items()} for name, home in found.items()}
    assert sizes["stopped"].get("chain.sqlite-wal") is None
    assert sizes["voting"]["chain.sqlite-wal"] > 0
    assert sizes["signing"]["guard.db-journal"] > 0
    assert sizes["promising"]["journal.sqlite-journal"] > 0
    assert found["deciding"].image[FOLDER / CHAIN] != found["merging"].image[FOLDER / CHAIN]
    heights = {}
    for name, home in found.items():
        reports: list[str] = []
        with hearing(reports), opened(home, disk_of(home.image)) as (journal, store):
            answers = ask(home, journal, store)
            heights[name] = store.height() - home.told.height
            start(home, store)
        assert (answers.refused(), [event for event in reports if event in REPORTS]) == ({}, []), name
        assert home.told.signed <= {entry for at in range(HEIGHT + 2) for entry in store.guard.signed(at)} | {
            entry for entry in home.told.signed if entry.height <= home.told.height
        }
    assert heights == {"stopped": 0, "voting": 0, "signing": 0, "deciding": 1, "merging": 1, "promising": 0}


@pytest.mark.parametrize("home", ["voting", "deciding", "merging"])
def test_a_wal_left_behind_is_not_read_into_a_new_chain(home: str) -> None:
    with small_snapshots():
        assert rot.inflict(0, Damage(home, CHAIN, "gone", 0)).outcome is Outcome.ANEW
        emptied = rot.inflict(0, Damage(home, CHAIN, "cut", 0))
    assert emptied.outcome is Outcome.REFUSED
    assert "chain.sqlite is empty: it was cut off; move the chain's files away" in emptied.seen


def test_a_guard_that_is_not_written_is_caught() -> None:
    losses = (Loss("rough", point, "guard-left") for point in range(196, 244, 4))
    stories = (run_loss("rough", 0, loss, canary="unwritten-guard") for loss in losses)
    violation = next(story.violation for story in stories if story.violation)
    assert violation.startswith("honest n0 signed two")


def test_who_loses_the_block_that_it_has_precommitted_fetches_it() -> None:
    beginning = [operation for operation in operations_of("calm", 0) if operation.height == 0]
    signed = max(one.point for one in beginning if (one.kind, one.file) == ("truncate", "guard.db-journal"))
    points = range(signed + 1, len(beginning), 8)
    assert len(points) > 3
    assert [run_loss("calm", 0, Loss("calm", point, "guard-left")).violation for point in points] == [None] * len(
        points
    )


def test_a_receipt_hidden_by_a_flipped_bit_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    home = homes(0)["stopped"]
    data = home.image[FOLDER / CHAIN]
    points = [at for at in range(len(data)) if data.startswith(home.key.address, at)]
    damages = [Damage("stopped", CHAIN, "flip", point) for point in points]
    with small_snapshots():
        assert Outcome.VIOLATION not in {rot.inflict(0, damage).outcome for damage in damages}
        monkeypatch.setattr(ChainStore, "_check_receipts", lambda _: None)
        seen = [rot.inflict(0, damage) for damage in damages]
    assert "wrong, and not refused: receipts of the victim" in [verdict.seen for verdict in seen]


def test_a_failure_comes_with_the_command_that_repeats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepshard.disk.chain._check_chain_is_there", lambda *_: None)
    monkeypatch.setattr(
        ChainStore, "_check_meta", lambda store, _: store._meta.create({}) if not store.height() else None
    )
    failures = run_tasks(0, [Damage("stopped", CHAIN, "cut", 0), Damage("stopped", CHAIN, "cut", 5000)]).failures
    assert [command.partition(" --only ")[2] for command, _ in failures] == [
        "rot --home stopped --file chain.sqlite --variant cut --point 0 --seed 0"
    ]
    program, _, arguments = failures[0][0].partition("durability ")
    assert program == "python -m deepshard.testing."
    ran = CliRunner().invoke(app, shlex.split(arguments))
    assert (ran.exit_code, f"again: {failures[0][0]}" in ran.output) == (1, True), ran.output
    monkeypatch.undo()
    ran = CliRunner().invoke(app, shlex.split(arguments))
    assert (ran.exit_code, "1 points" in ran.output) == (0, True), ran.output


def test_one_power_loss_runs_by_its_command() -> None:
    command = Loss("rough", 200, "twice").command(0)
    ran = CliRunner().invoke(app, shlex.split(command)[3:])
    assert (ran.exit_code, "1 points" in ran.output) == (0, True), ran.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "nothing"], "no part 'nothing': there are power, rot"),
        (["--point", "1"], "--point goes with --only power or --only rot"),
        (["--only", "power", "--point", "0"], "stage calm has the points 1 to"),
        (
            ["--only", "power", "--point", "1", "--variant", "flip"],
            "subset, torn, twice, guard-left",
        ),
        (["--only", "rot", "--point", "1", "--file", "x"], "no file 'x' in a home 'stopped'"),
        (["--only", "rot", "--point", "1", "--home", "files", "--file", "blob", "--variant", "gone"], "flip, cut at"),
    ],
)
def test_a_wrong_argument_is_told_in_one_line(arguments: list[str], message: str) -> None:
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 2
    assert message in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_every_byte_of_a_key_file_is_refused_or_leads_to_the_same_key() -> None:
    data = plain_files.contents(0)["key.json"]
    found = [plain_files.inflict(0, Damage("files", "key.json", "flip", point)).outcome for point in range(len(data))]
    assert set(found) <= {Outcome.REFUSED, Outcome.HARMLESS}
    assert found.count(Outcome.REFUSED) > len(data) - 5
