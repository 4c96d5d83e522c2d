"""The table of what the CPU paths have to reach, in one run.

A row is a ratio within the run, taken in rounds in which every contender has its turn; what the machine does besides
falls on all of them alike.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from bench.wire.rows import Row, as_json, machine, show
from kernels.cpu_exact_products import units

from .linear import linear_accuracy_rows, linear_memory_rows, linear_rows, plane_rows
from .moments import accuracy_rows, moments_rows
from .scoring import scoring_rows
from .streaming import streaming_rows


class MakesRows(Protocol):
    """`quick` makes a second or two of it that show that it runs, and say nothing of the targets."""

    def __call__(self, *, quick: bool) -> list[Row]: ...


ROWS: dict[str, MakesRows] = {
    "moments": moments_rows,
    "accuracy": accuracy_rows,
    "scoring": scoring_rows,
    "streaming": streaming_rows,
    "linear": linear_rows,
    "linear-memory": linear_memory_rows,
    "linear-accuracy": linear_accuracy_rows,
    "planes": plane_rows,
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kernels cpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every row in small: that it runs, not what is reached")
    parser.add_argument("--only", default=",".join(ROWS), help=f"rows, of {','.join(ROWS)}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", default="bench-kernels-cpu.json", help="file for the numbers")
    parser.add_argument("--check", action="store_true", help="exit 1 if a target isn't met")
    chosen = parser.parse_args(arguments)
    names = chosen.only.split(",")
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        parser.error(f"no row {unknown[0]!r}: choose from {','.join(ROWS)}")
    torch.set_num_threads(chosen.threads)
    before = machine()
    print(
        f"{before['processor']}, {before['cores']} cores, load {before['load']:.2f}, Python {before['python']}, "
        f"torch {torch.__version__}, {chosen.threads} threads, matrix units: {units() or 'none'}"
    )
    rows: list[Row] = []
    for name in names:
        rows += ROWS[name](quick=chosen.quick)
    show(rows)
    found = as_json(rows)
    found["machine"] |= {"torch": torch.__version__, "threads": chosen.threads, "matrix units": units() or "none"}
    Path(chosen.json).write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return 1 if chosen.check and not all(row.met for row in rows) else 0
