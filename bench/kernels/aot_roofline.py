"""The static roofline: the shortest time a kernel can take at a shape, and what sets it.

Floors are those of the machine's rates: tensor cores, memory, and for the moments of log p the instructions of the
epilogue, 16 and one special function for each logit. `waves` is the share of the processors that have a tile, over the
whole run, with the largest tile of the kernel.
"""

from __future__ import annotations

import math
from typing import Any

from .aot_machines import MACHINES

LINEAR = [(1, 4096, 14336), (512, 4096, 14336), (4096, 4096, 14336), (2048, 576, 1536)]
MOMENTS = [(2048, 576, 49_152), (2048, 640, 262_144), (4096, 4096, 128_256)]
PLANES = [1 << 30]
_TILE = (128, 128)


def roofline_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for architecture, machine in MACHINES.items():

        def row(kernel: str, shape: str, tiles: int, **floors_s: float) -> dict[str, Any]:
            floor, bound = max((seconds, name) for name, seconds in floors_s.items())
            slots = machine.processors  # noqa: B023  # called here
            return {
                "architecture": architecture,  # noqa: B023
                "machine": machine.name,  # noqa: B023
                "kernel": kernel,
                "shape": shape,
                "floor_us": round(floor * 1e6, 2),
                "bound": bound,
                "waves": round(tiles / (math.ceil(tiles / slots) * slots), 3),
                **{f"{name}_us": round(seconds * 1e6, 2) for name, seconds in floors_s.items()},
            }

        for m, k, n in LINEAR:
            tiles = math.ceil(m / _TILE[0]) * math.ceil(n / _TILE[1])
            for kernel, tables, weight_bytes in (("product", 1, 2), ("product int8", 1, 1), ("product gated", 2, 2)):
                moved = tables * n * k * weight_bytes + 2 * m * (k + n)
                rows.append(
                    row(
                        kernel, f"M {m}, K {k}, N {n}", tiles,
                        tensor=2 * m * n * k * tables / machine.tensor_flops, memory=moved / machine.bytes_per_s,
                    )
                )  # fmt: skip
        for m, h, v in MOMENTS:
            rows.append(
                row(
                    "moments", f"M {m}, H {h}, V {v}", math.ceil(m / 64) * math.ceil(v / 8192),
                    tensor=2 * m * h * v / machine.tensor_flops, memory=2 * h * (v + m) / machine.bytes_per_s,
                    alu=16 * m * v / machine.alu_ops, special=m * v / machine.special_ops,
                )
            )  # fmt: skip
        for elements in PLANES:
            rows += [
                row(
                    "planes split, xor", f"{elements} bf16", elements // 4096, memory=6 * elements / machine.bytes_per_s
                )
            ]
    return rows


def show_roofline(rows: list[dict[str, Any]]) -> None:
    print(f"\n{'':7} {'kernel':18} {'shape':30} {'floor':>10} {'set by':8} {'waves':>5}")
    for row in rows:
        print(
            f"{row['machine']:7} {row['kernel']:18} {row['shape']:30} {row['floor_us']:7.1f} us {row['bound']:8} "
            f"{row['waves']:5.2f}"
        )
