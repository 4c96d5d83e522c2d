"""`deepshard trace` in its own process: exit codes, the table of differences, one line for what is no trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from deepshard.consensus.events import StartHeight, TimeoutElapsed
from deepshard.consensus.replay import encode_trace, record, trace_to_json
from deepshard.consensus.types import Step
from deepshard.consensus.validators import ValidatorSet
from deepshard.identity import SecretKey

KEY = SecretKey(bytes(range(32)))
TRACE = record(
    "test",
    [StartHeight(1, ValidatorSet.of([(KEY.public, 1)]), KEY.address), TimeoutElapsed(Step.PROPOSE, 1, 0)],
)


def trace(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "deepshard.cli.main", "trace", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
    )
    return done.returncode, done.stdout, done.stderr


def written(path: Path, value: Any) -> str:
    path.write_text(json.dumps(value), encoding="utf-8")
    return str(path)


def test_a_trace_that_holds_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(encode_trace(TRACE))
    assert trace("replay", str(path)) == (0, "2 steps, 2 of them compared: no difference\n", "")


def test_differences_are_a_table_and_exit_code_1(tmp_path: Path) -> None:
    value = trace_to_json(TRACE)
    value["steps"][1]["state"]["round"] = 7
    value["steps"][1]["effects"][0]["block_id"] = "ab" * 32
    code, out, err = trace("replay", written(tmp_path / "trace.json", value))
    assert (code, err) == (1, "")
    assert [line.split() for line in out.splitlines()] == [
        ["STEP", "WHERE", "TRACE", "CORE"],
        ["1", "effects[0].block_id", "ab" * 32, "-"],
        ["1", "state.round", "7", "0"],
    ]


def test_many_differences_are_cut(tmp_path: Path) -> None:
    value = trace_to_json(TRACE)
    value["steps"] += [{"input": value["steps"][1]["input"], "effects": value["steps"][1]["effects"]}] * 30
    code, out, _ = trace("replay", written(tmp_path / "trace.json", value))
    assert code == 1
    assert len(out.splitlines()) == 22
    assert out.endswith("and more\n")


def test_what_is_no_trace_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    wrong = trace_to_json(TRACE)
    wrong["steps"][1]["input"]["round"] = -1
    (tmp_path / "text").write_text("not json\n")
    for file, part in (
        (written(tmp_path / "wrong.json", wrong), "$.steps[1].input.round: Expected `int` >= 0"),
        (str(tmp_path / "text"), "is no trace: $: "),
        (str(tmp_path / "nowhere"), "No such file or directory"),
        (str(tmp_path), "Is a directory"),
    ):
        code, out, err = trace("replay", file)
        assert (code, out) == (2, ""), file
        assert part in err
        assert err.count("\n") == 1
