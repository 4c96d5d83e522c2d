"""The table of what shards have to reach: `python -m bench.shards [--quick] [--only ROW,...] [--json FILE] [--check]`.

Each row of `ROWS` is a function in a module of its own that gives rows of the table; with `quick` it runs in seconds,
which shows that it runs and says nothing of the targets. What a row needs beyond the project's own dependencies is in
the dependency group `bench`; where that isn't installed the row says so and counts as not met.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from bench.wire.peer import silence

from .codec import codec_rows
from .exchange import exchange_rows
from .exporting import export_rows
from .importing import import_rows
from .joining import joining_rows
from .leaving import leaving_rows
from .swarm import memory_rows, swarm_rows
from .table import Row, as_json, machine, not_measured, show
from .updates import update_rows

ROWS: dict[str, Callable[[bool], list[Row]]] = {
    "codec": codec_rows,
    "exchange": exchange_rows,
    "import": import_rows,
    "export": export_rows,
    "leaving": leaving_rows,
    "joining": joining_rows,
    "swarm": swarm_rows,
    "memory": memory_rows,
    "update": update_rows,
}
"""Name, and what gives its rows when told whether to be quick."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.shards", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every row in small: that it runs, not what is reached")
    parser.add_argument("--only", default=",".join(ROWS), help=f"rows, of {','.join(ROWS)}")
    parser.add_argument("--json", default="bench-shards.json", help="file for the numbers")
    parser.add_argument("--check", action="store_true", help="exit 1 if a target isn't met")
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        parser.error(f"no row {unknown[0]!r}: choose from {','.join(ROWS)}")
    silence()
    before = machine()
    print(f"{before['processor']}, {before['cores']} cores, load {before['load']:.2f}, Python {before['python']}")
    rows: list[Row] = []
    for name in names:
        try:
            rows += ROWS[name](arguments.quick)
        except ImportError as error:  # of the group `bench`
            rows.append(not_measured(name, "", f"{error.name} is not installed: pip install --group bench"))
    show(rows)
    Path(arguments.json).write_text(json.dumps(as_json(rows), indent=1) + "\n", "utf-8")
    if arguments.check and not all(row.met for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
