"""The bench of shards runs in its short form and writes its numbers; rows that can't be measured say why."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench.shards.table import Row, not_measured

ROOT = Path(__file__).parent.parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.shards", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def test_the_short_form_shows_every_row_it_writes(tmp_path: Path) -> None:
    figures = tmp_path / "bench.json"
    done = run("--quick", "--only", "codec", "--json", str(figures))
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(figures.read_text())["rows"]
    assert [row["name"] for row in rows if row["name"] not in done.stdout] == []
    assert all((row["value"] is None) == bool(row["missing"]) for row in rows)
    assert {"noise: size, to ZipNN", "noise: decode speed, to ZipNN"} <= {row["name"] for row in rows}


def test_rows_that_do_not_exist_are_refused_in_one_line() -> None:
    done = run("--only", "colour")
    assert done.returncode == 2
    assert "no row 'colour': choose from codec," in done.stderr.splitlines()[-1]


def test_what_could_not_be_measured_is_not_met() -> None:
    assert not not_measured("x", "ratio", "absent", target=1.0).met
    assert not not_measured("x", "ratio", "absent").met
    assert Row("x", 1.0, "ratio", 1.0).met
    assert not Row("x", 0.99, "ratio", 1.0).met
    assert Row("x", 1.0, "ratio", 1.0, at_least=False).met
    assert Row("x", 1.0, "ratio").met
