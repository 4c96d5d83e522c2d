"""Rows of `sharded_linear` and `plane_codec` on a GPU, beside cuBLAS over the concatenated weight and torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels import gpu_sharded_linear as gpu
from kernels import tuned
from kernels.plane_codec import join_planes, split_planes
from kernels.shard_table import ShardTable, quantised
from kernels.sharded_linear import sharded_linear

SHAPES = [(16, 4096, 14336), (512, 4096, 14336), (4096, 4096, 14336), (2048, 576, 1536)]
QUICK = [(512, 1024, 4096)]
SHARDS = 8


def quantiles_ms(function: Callable[[], object], runs: int) -> tuple[float, float, float]:
    """20, 50 and 80 percentiles of device time, each run with a cold L2 cache."""
    flush = torch.empty(64 << 20, dtype=torch.int32, device="cuda")
    for _ in range(3):
        function()
    pairs = []
    for _ in range(runs):
        flush.zero_()
        start, end = _event(), _event()
        start.record()
        function()
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize()
    taken = torch.tensor([start.elapsed_time(end) for start, end in pairs])
    low, middle, high = torch.quantile(taken, torch.tensor([0.2, 0.5, 0.8])).tolist()
    return low, middle, high


def _event() -> Any:  # noqa: ANN401  # untyped in torch
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def peak_bytes(function: Callable[[], object]) -> int:
    """Memory that a call takes beyond what is held before it."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated()) - before


def linear_rows(*, quick: bool, tune: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    runs = 10 if quick else 50
    square = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    peak_flops = 2 * 8192**3 / quantiles_ms(lambda: square @ square, runs)[1] * 1e3
    for m, k, n in QUICK if quick else SHAPES:
        generator = torch.Generator("cuda").manual_seed(1)
        x = torch.randn(m, k, device="cuda", generator=generator).bfloat16()
        gate, up = ((torch.randn(n, k, device="cuda", generator=generator) / k**0.5).bfloat16() for _ in range(2))
        table, up_table = (ShardTable(tuple(part.clone() for part in one.chunk(SHARDS))) for one in (gate, up))
        row_table = ShardTable(tuple(part.contiguous() for part in gate.chunk(SHARDS, 1)), "rows")
        int8 = quantised(table)
        if tune:
            _tune(x, table, None)
            _tune(x, table, up_table)

        def plain() -> Tensor:
            found: Tensor = torch.nn.functional.silu(x @ gate.T) * (x @ up.T)  # noqa: B023  # called within the round
            return found

        contenders: dict[str, tuple[Callable[[], object], int]] = {
            "cuBLAS, concatenated": (lambda: x @ gate.T, 1),  # noqa: B023
            "ours, columns": (lambda: sharded_linear(x, table), 1),  # noqa: B023
            "ours, rows": (lambda: sharded_linear(x, row_table), 1),  # noqa: B023
            "ours, int8": (lambda: sharded_linear(x, int8), 1),  # noqa: B023
            "SwiGLU, cuBLAS": (plain, 2),
            "SwiGLU, torch.compile": (torch.compile(plain), 2),
            "SwiGLU, ours": (lambda: sharded_linear(x, table, activation="silu", up=up_table), 2),  # noqa: B023
        }
        with torch.no_grad():
            for name, (function, products) in contenders.items():
                low, middle, high = quantiles_ms(function, runs)
                flops = 2 * m * k * n * products / middle * 1e3
                base = rows[-1]["_base"] if name not in {"cuBLAS, concatenated", "SwiGLU, cuBLAS"} else middle
                rows.append(
                    {
                        "op": name, "shape": f"M {m}, K {k}, N {n}", "p20_ms": low, "p50_ms": middle, "p80_ms": high,
                        "of_cublas": base / middle, "of_matrix_peak": flops / peak_flops,
                        "peak_bytes": peak_bytes(function), "_base": base,
                    }
                )  # fmt: skip
                _show(rows[-1])
    for row in rows:
        del row["_base"]
    return rows


def plane_rows(*, quick: bool, tune: bool) -> list[dict[str, Any]]:
    del tune
    runs = 10 if quick else 50
    weight = torch.randn(1 << (22 if quick else 28), device="cuda").bfloat16()
    base = weight.roll(1)
    planes = split_planes(weight, base)
    copy_ms = quantiles_ms(weight.clone, runs)[1]
    rows: list[dict[str, Any]] = []
    for name, function in {
        "planes split, xor": lambda: split_planes(weight, base),
        "planes join, xor": lambda: join_planes(planes, weight.shape, weight.dtype, base),
    }.items():
        low, middle, high = quantiles_ms(function, runs)
        rate, copy_rate = 6.0 * weight.numel() / middle, 4.0 * weight.numel() / copy_ms
        rows.append(
            {
                "op": name, "shape": f"{weight.numel()} bf16", "p20_ms": low, "p50_ms": middle, "p80_ms": high,
                "of_copy_bandwidth": rate / copy_rate, "peak_bytes": peak_bytes(function),
            }
        )  # fmt: skip
        _show(rows[-1])
    return rows


def _tune(x: Tensor, table: ShardTable, up: ShardTable | None) -> None:
    space = gpu.CONFIGS if up is None else gpu.NARROW_CONFIGS
    taken = {}
    for config in space:

        def call(config: gpu.Config = config) -> object:
            return gpu.forward(
                x, table.shards, table.scales, () if up is None else up.shards, (), None, None, None, 0,
                "none" if up is None else "silu", keep=False, config=config,
            )  # fmt: skip

        taken[config] = quantiles_ms(call, 20)[1]
    best = min(taken, key=lambda config: taken[config])
    key = gpu.tuning_key(
        x.shape[0], table.out_features, table.in_features, (x.dtype, table.dtype), is_gated=up is not None
    )
    tuned.keep("sharded_linear", key, best)
    print(f"tuned {key}: {best}, {taken[best]:.3f} ms")


def _show(row: dict[str, Any]) -> None:
    shares = " ".join(
        f"{key} {row[key]:.2f}" for key in ("of_cublas", "of_matrix_peak", "of_copy_bandwidth") if key in row
    )
    print(
        f"{row['op']:24} {row['shape']:28} {row['p20_ms']:8.3f} {row['p50_ms']:8.3f} {row['p80_ms']:8.3f} ms {shares}"
    )
