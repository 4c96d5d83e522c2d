"""Measures the kernels on the GPU at hand: `python -m bench.kernels`, exit code 2 with one line where there is none."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from .gpu_linear import linear_rows, plane_rows

ROWS: dict[str, Callable[..., list[dict[str, Any]]]] = {"linear": linear_rows, "planes": plane_rows}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kernels gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few shapes, few runs")
    parser.add_argument("--only", default=",".join(ROWS), help=f"of {','.join(ROWS)}")
    parser.add_argument("--tune", action="store_true", help="try the pruned space first and keep what is fastest")
    parser.add_argument("--csv", default="bench-kernels-gpu.csv", help="file for the numbers")
    chosen = parser.parse_args(arguments)
    names = chosen.only.split(",")
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        parser.error(f"no rows {unknown[0]!r}: choose from {','.join(ROWS)}")
    if not torch.cuda.is_available():
        print("no GPU here: `python -m bench.kernels cpu` measures the CPU paths, `aot` compiles", file=sys.stderr)
        return 2
    properties = torch.cuda.get_device_properties(0)
    print(f"{properties.name}, torch {torch.__version__}, CUDA {torch.version.cuda}, HIP {torch.version.hip}")
    rows: list[dict[str, Any]] = []
    for name in names:
        rows += ROWS[name](quick=chosen.quick, tune=chosen.tune)
    fields = list(dict.fromkeys(key for row in rows for key in row))
    with Path(chosen.csv).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["device", "torch", *fields])
        writer.writeheader()
        writer.writerows({"device": properties.name, "torch": torch.__version__, **row} for row in rows)
    return 0
