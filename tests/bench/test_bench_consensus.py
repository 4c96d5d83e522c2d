"""The bench of consensus runs in its short form, with real processes and simulated ones, and writes its numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_short_form_measures_every_row(tmp_path: Path) -> None:
    figures = tmp_path / "bench.json"
    command = [sys.executable, "-m", "bench.consensus", "--quick", "--json", str(figures)]
    table = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300).stdout
    rows = {row["name"]: row for row in json.loads(figures.read_text())["rows"]}
    assert [name for name in rows if name not in table] == []
    assert len(rows) == 6
    throughput = rows["2 processes: transactions committed"]
    assert throughput["value"] > 0
    assert throughput["beside"]["never committed"] == 0


def test_rows_that_do_not_exist_are_refused_in_one_line() -> None:
    command = [sys.executable, "-m", "bench.consensus", "--only", "colour"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("choose from speed,throughput,finality,restart,votes")
