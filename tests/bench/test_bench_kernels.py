"""The bench of the kernels runs in its short form and writes its numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.kernels", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def test_the_short_form_measures_every_row(tmp_path: Path) -> None:
    figures = tmp_path / "bench.json"
    done = run("cpu", "--quick", "--json", str(figures))
    assert done.returncode == 0, done.stderr
    rows = json.loads(figures.read_text())["rows"]
    assert [row["name"] for row in rows if row["name"] not in done.stdout] == []
    assert all(row["value"] >= 0 for row in rows)
    assert {"moments", "worst error of variance", "scoring"} <= {row["name"].partition(",")[0] for row in rows}


def test_rows_and_commands_that_do_not_exist_are_refused_in_one_line() -> None:
    done = run("cpu", "--only", "colour")
    assert done.returncode == 2
    assert "no row 'colour': choose from moments" in done.stderr.splitlines()[-1]
    done = run("gpu7")
    assert done.returncode == 2
    assert done.stderr.startswith("usage: python -m bench.kernels {cpu")
