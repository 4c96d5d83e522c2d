"""Rows of `sharded_linear` and `plane_codec` on the CPU: speed beside one product, memory, errors against float64."""

from __future__ import annotations

import resource
import subprocess
import sys
from statistics import median

import torch
from torch import Tensor

from bench.wire.rows import Row
from kernels.plane_codec import join_planes, split_planes
from kernels.reference.sharded_linear import sharded_linear_reference
from kernels.shard_table import ShardTable, quantised
from kernels.sharded_linear import sharded_linear

from .timing import in_turns, ratios

SHARDS = 8
QUICK = [(128, 256, 1024)]
FULL = [(2048, 576, 1536), (2048, 1536, 4096), (512, 2048, 8192), (512, 576, 49_152)]
MEMORY = (64, 4096, 16_384)


def problem(rows: int, width: int, columns: int) -> tuple[Tensor, Tensor, ShardTable, ShardTable]:
    """x, the concatenated weight, and tables of copies of its parts."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, width, generator=generator)
    weight = torch.randn(columns, width, generator=generator).mul_(width**-0.5)
    by_columns = ShardTable(tuple(part.clone() for part in weight.chunk(SHARDS)))
    by_rows = ShardTable(tuple(part.contiguous() for part in weight.chunk(SHARDS, 1)), "rows")
    return x, weight, by_columns, by_rows


def linear_rows(*, quick: bool) -> list[Row]:
    rows = []
    for m, k, n in QUICK if quick else FULL:
        x, weight, by_columns, by_rows = problem(m, k, n)
        up = ShardTable(tuple(part.flip(0).contiguous() for part in by_columns.shards))
        up_weight = torch.cat(up.shards)
        int8 = quantised(by_columns, 64)
        bf16 = ShardTable(tuple(part.bfloat16() for part in by_columns.shards))
        weight_bf16 = weight.bfloat16()

        def swiglu() -> Tensor:
            return torch.nn.functional.silu(x @ weight.T) * (x @ up_weight.T)  # noqa: B023  # called here

        with torch.no_grad():
            seconds = in_turns(
                {
                    "one product": lambda: x @ weight.T,  # noqa: B023
                    "columns": lambda: sharded_linear(x, by_columns),  # noqa: B023
                    "rows": lambda: sharded_linear(x, by_rows),  # noqa: B023
                    "SwiGLU, plain": swiglu,
                    "SwiGLU": lambda: sharded_linear(x, by_columns, activation="silu", up=up),  # noqa: B023
                    "int8 by 64": lambda: sharded_linear(x, int8),  # noqa: B023
                    "bf16 shards": lambda: sharded_linear(x, bf16),  # noqa: B023
                    "bf16 weight, converted whole": lambda: x @ weight_bf16.float().T,  # noqa: B023
                },
                runs=1 if quick else 7,
            )
        name = f"linear, {m} rows, K {k}, N {n}, {SHARDS} shards"
        beside = {f"{key} (ms)": 1e3 * median(value) for key, value in seconds.items()}
        for ours, plain in (("columns", "one product"), ("rows", "one product"), ("SwiGLU", "SwiGLU, plain")):
            over = median(ratios(seconds, ours, plain))
            rows.append(Row(f"{name}: {ours} / {plain}", over, "ratio", 1.05, at_least=False, beside=beside))
            beside = {}
    return rows


def linear_memory_rows(*, quick: bool) -> list[Row]:
    """How far one call, its result included, lifts the largest size of a process of its own, in parts of the weight."""
    m, k, n = (64, 1024, 4096) if quick else MEMORY
    rows = []
    kinds = ("columns", "rows", "int8", "one product of the concatenated shards")
    for kind in kinds[:1] if quick else kinds:
        script = f"from bench.kernels.linear import extra_bytes; print(extra_bytes({kind!r}, {m}, {k}, {n}))"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
        share = int(done.stdout) / (4 * k * n)
        target = 0.1 if kind != "one product of the concatenated shards" else 10.0
        rows.append(Row(f"linear, extra memory, {kind}", share, "of weight", target, at_least=False))
    return rows


def extra_bytes(kind: str, m: int, k: int, n: int) -> int:
    """How far a call lifts the process's largest size: a page at least."""
    x = torch.randn(m, k)
    # Only what the call needs is ever made, so that nothing freed hides what it takes.
    if kind == "rows":
        table = ShardTable(tuple(torch.randn(n, k // SHARDS) for _ in range(SHARDS)), "rows")
    elif kind == "int8":
        shards = tuple(torch.randint(-127, 127, (n // SHARDS, k), dtype=torch.int8) for _ in range(SHARDS))
        table = ShardTable(shards, scales=tuple(torch.ones(n // SHARDS) for _ in range(SHARDS)))
    else:
        table = ShardTable(tuple(torch.randn(n // SHARDS, k) for _ in range(SHARDS)))
    sharded_linear(torch.zeros(16, 32), ShardTable((torch.zeros(32, 32),)))  # so that the library is loaded
    torch.mm(x, x.T)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if kind.startswith("one"):
        x @ torch.cat(table.shards).T
    else:
        sharded_linear(x, table)
    return max(4, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def linear_accuracy_rows(*, quick: bool) -> list[Row]:
    rows = []
    for m, k, n in QUICK if quick else FULL[:2]:
        x, _, by_columns, by_rows = problem(min(m, 64), k, n)
        for table in (by_columns, by_rows):
            expected = sharded_linear_reference(x, table, activation="silu", up=table)
            found = sharded_linear(x, table, activation="silu", up=table)
            error = float((found.double() - expected).abs().max() / expected.abs().max())
            rows.append(Row(f"linear, worst error, K {k}, {table.split}", error, "of largest", 1e-5, at_least=False))
    return rows


def plane_rows(*, quick: bool) -> list[Row]:
    """Planes of bf16 weights beside the bytes' copy."""
    weight = torch.randn(1 << (18 if quick else 24)).bfloat16()
    base = weight.roll(1)
    planes = split_planes(weight, base)
    seconds = in_turns(
        {
            "copy": weight.clone,
            "split": lambda: split_planes(weight, base),
            "join": lambda: join_planes(planes, weight.shape, weight.dtype, base),
        },
        runs=1 if quick else 9,
    )
    size = 2 * weight.numel() / 1e9
    return [
        Row(f"planes of bf16, xor: {way}", size / median(seconds[way]), "GB/s", 1.0, at_least=True)
        for way in ("split", "join")
    ]
