"""The table of what consensus has to reach: `python -m bench.consensus [--quick] [--only ROW,...] [--json FILE]`.

Rows: `throughput` and `restart` run real processes on loopback, `speed`, `finality` and `votes` whole chain services
under a virtual clock.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from bench.wire.peer import silence
from bench.wire.rows import Row, as_json, machine, show

from .restart import restart_rows
from .simulated import finality_rows, speed_rows, vote_rows
from .throughput import FULL, QUICK, throughput_rows

ROWS: dict[str, tuple[Callable[[], list[Row]], Callable[[], list[Row]]]] = {
    "speed": (lambda: speed_rows(runs=5), lambda: speed_rows(runs=1)),
    "throughput": (lambda: throughput_rows(FULL), lambda: throughput_rows(QUICK)),
    "finality": (
        lambda: finality_rows(validators=100, blocks=5, dials=10),
        lambda: finality_rows(validators=4, blocks=2, dials=2),
    ),
    "restart": (lambda: restart_rows(blocks=10_000, runs=5), lambda: restart_rows(blocks=55, runs=1, validators=1)),
    "votes": (
        lambda: vote_rows(validators=50, blocks=10, dials=8),
        lambda: vote_rows(validators=5, blocks=2, dials=3),
    ),
}
"""Each in full and quick; quick ones have fewer nodes and blocks, and say nothing of the targets."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.consensus", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every row in small: that it runs, not what is reached")
    parser.add_argument("--only", default=",".join(ROWS), help=f"rows, of {','.join(ROWS)}")
    parser.add_argument("--json", default="bench-consensus.json", help="file for the numbers")
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
        full, quick = ROWS[name]
        rows += quick() if arguments.quick else full()
    show(rows)
    Path(arguments.json).write_text(json.dumps(as_json(rows), indent=1) + "\n", "utf-8")
    if arguments.check and not all(row.met for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
