"""The bench of the wire runs in its short form, over real links between processes, and writes its numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_short_form_measures_every_row(tmp_path: Path) -> None:
    figures = tmp_path / "bench.json"
    command = [sys.executable, "-m", "bench.wire", "--quick", "--json", str(figures)]
    table = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300).stdout
    rows = json.loads(figures.read_text())["rows"]
    assert [row["name"] for row in rows if row["name"] not in table] == []
    assert all(row["value"] > 0 for row in rows)
    assert {"small signed frames", "handshake, dialler", "vote, encode"} <= {row["name"] for row in rows}
