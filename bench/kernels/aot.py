"""The ahead-of-time gate: every kernel and configuration compiled for four architectures, with no GPU present.

Prints registers, spills, shared memory, occupancy, tensor-core instructions of the inner loop and the width of its
global loads, and exits 1 if a kernel spills, touches local memory, uses atomics, lacks tensor-core instructions or
loads narrowly. Then the static roofline of each kernel at some shapes.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.wire.rows import machine


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kernels aot", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one configuration of each kernel for each architecture")
    parser.add_argument("--only", default="", help="cases whose name or architecture holds this")
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--limit-s", type=float, default=120.0, help="for one compilation")
    parser.add_argument("--json", default="bench-kernels-aot.json", help="file for the numbers")
    chosen = parser.parse_args(arguments)
    if importlib.util.find_spec("triton") is None:
        print("Triton is not installed on this platform: nothing to compile", file=sys.stderr)
        return 2
    from .aot_cases import cases  # noqa: PLC0415  # these need Triton
    from .aot_compile import compile_all  # noqa: PLC0415
    from .aot_roofline import roofline_rows, show_roofline  # noqa: PLC0415

    selected = [
        case
        for case in cases()
        if (case.in_quick or not chosen.quick) and chosen.only in f"{case.architecture} {case.name}"
    ]
    if not selected:
        parser.error(f"no case holds {chosen.only!r}")
    started = time.monotonic()
    print(f"{'':7} {'kernel':52} {'regs':>4} {'spill':>5} {'shared':>7} {'blocks':>6} {'occ.':>5} {'mma':>4} loads")
    rows = []
    for found in compile_all(selected, parallel=chosen.parallel, limit_s=chosen.limit_s):
        rows.append(found)
        loads = " ".join(f"{times}x{'TMA' if width > 16 else width}" for width, times in found.loads.items())
        print(
            f"{found.architecture:7} {found.name:52} {found.registers:4} {found.spill_bytes:5} {found.shared_bytes:7} "
            f"{found.blocks:6} {found.occupancy:5.2f} {found.tensor_core:4} {loads} {'; '.join(found.faults)}",
            flush=True,
        )
    refused = [found for found in rows if found.faults]
    roofline = roofline_rows()
    if not chosen.quick:
        show_roofline(roofline)
    print(f"{len(rows)} compilations, {len(refused)} refused, {time.monotonic() - started:.0f} s")
    order = {(case.name, case.architecture): number for number, case in enumerate(selected)}
    rows.sort(key=lambda found: order[found.name, found.architecture])
    made_on = machine() | {"triton": importlib.metadata.version("triton")}
    result = {"machine": made_on, "compiled": [asdict(found) for found in rows], "roofline": roofline}
    Path(chosen.json).write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return 1 if refused else 0
