"""Run by a test under TRITON_INTERPRET=1: compares the Triton kernels of sharded_linear with the reference.

Inputs lie in larger buffers of NaN and outputs are NaN before the call, so that a read beyond an edge or an element
that isn't written shows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels import gpu_sharded_linear as gpu
from kernels.reference.sharded_linear import sharded_linear_reference, weight_reference
from kernels.shard_table import ShardTable, Split, quantised
from kernels.triton_sharded_linear import ALIGNED, ANY, DESCRIPTOR

# The interpreter cuts bf16 off where a GPU rounds it.
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2**-7, torch.float16: 2**-10}
SMALL = gpu.Config(16, 32, 4, 2)
GENERATOR = torch.Generator().manual_seed(0)

plain_new_empty = Tensor.new_empty


def poisoned_new_empty(self: Tensor, *shape: Any, **options: Any) -> Tensor:
    found = plain_new_empty(self, *shape, **options)
    return found.fill_(torch.nan) if found.is_floating_point() else found


def some(rows: int, columns: int, dtype: torch.dtype, *, margin: int = 16) -> Tensor:
    """A matrix amid NaN, at an address and stride that a descriptor can take where the margin is 16."""
    whole = torch.full((rows + 2, columns + margin + (-columns % margin)), torch.nan, dtype=dtype)
    whole[:rows, :columns] = torch.randn(rows, columns, generator=GENERATOR) / 2
    return whole[:rows, :columns]


def table(sizes: tuple[int, ...], other: int, split: Split, dtype: torch.dtype, margin: int = 16) -> ShardTable:
    shapes = [(size, other) if split == "columns" else (other, size) for size in sizes]
    return ShardTable(tuple(some(*shape, dtype, margin=margin) for shape in shapes), split)


def close(found: Tensor, expected: Tensor, rounding: float | None = None) -> bool:
    rtol = ROUNDING[found.dtype] if rounding is None else rounding
    return torch.allclose(found.double(), expected, rtol=rtol, atol=1e-5 * max(1.0, float(expected.abs().max())))


def forward(x: Tensor, weight: ShardTable, path: int, keep: bool = False, **epilogue: Any) -> tuple[Tensor, ...]:  # noqa: FBT001, FBT002
    up = epilogue.get("up")
    return gpu.forward(
        x, list(weight.shards), list(weight.scales), list(up.shards) if up else [], list(up.scales) if up else [],
        epilogue.get("bias"), epilogue.get("up_bias"), epilogue.get("residual"), weight.axis,
        epilogue.get("activation", "none"), keep=keep, config=SMALL, path=path,
    )  # fmt: skip


def every_epilogue() -> None:
    for dtype, split, sizes, other, rows, path in (
        (torch.float32, "columns", (123, 0, 5), 129, 5, ANY),
        (torch.bfloat16, "columns", (48, 8), 80, 17, DESCRIPTOR),
        (torch.bfloat16, "rows", (5, 1, 0, 123), 33, 1, ANY),
        (torch.float16, "rows", (64, 48), 40, 3, DESCRIPTOR),
        (torch.float16, "columns", (32, 16), 64, 18, ALIGNED),
        (torch.float32, "rows", (80, 16), 48, 16, ALIGNED),
    ):
        margin = 1 if path == ANY else 16
        weight, up = (table(sizes, other, split, dtype, margin) for _ in range(2))  # type: ignore[arg-type]
        columns = weight.out_features
        x = some(rows, weight.in_features, dtype, margin=margin)
        bias = some(1, columns, dtype)[0]
        residual = torch.randn(rows, columns, generator=GENERATOR).to(dtype)
        epilogues: list[dict[str, Any]] = [
            {"activation": "none"},
            {"activation": "gelu", "bias": bias, "residual": residual},
            {"activation": "gelu_tanh", "up": up},
            {"activation": "silu", "bias": bias, "up": up, "up_bias": bias.float(), "residual": residual},
        ]
        for epilogue in epilogues:
            found, gate, factor = forward(x, weight, path, keep=True, **epilogue)
            assert close(found, sharded_linear_reference(x, weight, **epilogue)), (dtype, split, path, epilogue.keys())
            if epilogue["activation"] != "none":
                assert close(gate, sharded_linear_reference(x, weight, bias=epilogue.get("bias")))
            if "up" in epilogue:
                assert close(factor, sharded_linear_reference(x, up, bias=epilogue.get("up_bias")))
        again, _, _ = forward(x, weight, path, **epilogue)
        assert torch.equal(again, found)
        print("agrees")  # noqa: T201


def scales() -> None:
    for split, sizes, other, group, dtype, path in (
        ("columns", (16, 24), 128, None, torch.bfloat16, DESCRIPTOR),
        ("columns", (20, 12), 128, 64, torch.float32, ANY),
        ("columns", (5, 3), 123, 3, torch.float32, ANY),
        ("rows", (64, 32), 24, 32, torch.float16, DESCRIPTOR),
    ):
        weight = quantised(table(sizes, other, split, torch.float32, 1), group)  # type: ignore[arg-type]
        x = some(5, weight.in_features, dtype, margin=16 if path == DESCRIPTOR else 1)
        found, _, _ = forward(x, weight, path, activation="silu")
        # In bf16 and fp16 a tile that is dequantised element by element is rounded before it is multiplied.
        rounding = None if dtype == torch.float32 else 4 * ROUNDING[dtype]
        assert close(found, sharded_linear_reference(x, weight, activation="silu"), rounding), (split, group)
        dz = some(5, weight.out_features, torch.float32)
        dx = gpu.input_gradient(dz, list(weight.shards), list(weight.scales), weight.axis, weight.in_features, path=ANY)
        assert close(dx, dz.double() @ weight_reference(weight))
    print("scales")  # noqa: T201


def gradients() -> None:
    for split, sizes, other, rows, dtype, path in (
        ("columns", (5, 0, 123), 33, 129, torch.float32, ANY),
        ("rows", (48, 16), 40, 70, torch.bfloat16, DESCRIPTOR),
        ("columns", (48, 16), 32, 48, torch.float16, ALIGNED),
    ):
        weight = table(sizes, other, split, dtype, 1 if path == ANY else 16)  # type: ignore[arg-type]
        x, dz = some(rows, weight.in_features, dtype), some(rows, weight.out_features, dtype)
        dx = gpu.input_gradient(dz, list(weight.shards), [], weight.axis, weight.in_features, path=path)
        assert close(dx, dz.double() @ weight_reference(weight)), (split, path)
        whole = dz.double().T @ x.double()
        expected = torch.split(whole, list(weight.sizes), weight.axis)
        for found, one in zip(gpu.weight_gradient(dz, x, weight.sizes, weight.axis, path=path), expected, strict=True):
            assert found.shape == one.shape
            assert not one.numel() or close(found, one), (split, path)
    print("gradients")  # noqa: T201


def far() -> None:
    """Three gigabytes of address space, of which only the pages that are read become memory."""
    storage = torch.empty(3 * 2**30 + 64, dtype=torch.int8)
    shard = torch.as_strided(storage, (4, 16), (2**30, 1))
    shard.copy_(torch.arange(64).reshape(4, 16))
    weight = ShardTable((shard,), scales=(torch.ones(4),))
    for path in (ANY, DESCRIPTOR):
        found, _, _ = forward(torch.ones(1, 16), weight, path)
        assert torch.equal(found, shard.float().sum(1)[None])
    print("far")  # noqa: T201


def nan_stays_in_its_row() -> None:
    weight = table((20, 30), 40, "rows", torch.float32)
    x = some(3, 50, torch.float32)
    x[1, 19] = torch.inf  # beside a boundary: it must not meet the zeros beyond the first shard
    for path in (ANY, DESCRIPTOR):
        found, _, _ = forward(x, weight, path)
        assert torch.equal(found.isfinite().all(1), torch.tensor([True, False, True]))
        assert torch.equal(found[1], torch.where(weight.shards[0][:, 19] > 0, torch.inf, -torch.inf))
    print("rows")  # noqa: T201


def paths_are_chosen_by_what_they_promise() -> None:
    weight = table((16, 16), 64, "columns", torch.bfloat16)
    assert gpu._path(weight.shards, [0, 16], [], is_wide=False) == DESCRIPTOR
    assert gpu._path(weight.shards, [0, 12], [], is_wide=False) == ANY
    assert gpu._path([weight.shards[0][:, 1:]], [0], [], is_wide=False) == ANY
    assert gpu._path([table((4,), 9, "columns", torch.bfloat16, 1).shards[0]], [0], [], is_wide=False) == ANY
    print("paths")  # noqa: T201


def main() -> None:
    Tensor.new_empty = poisoned_new_empty  # type: ignore[method-assign, assignment]
    every_epilogue()
    scales()
    gradients()
    far()
    nan_stays_in_its_row()
    paths_are_chosen_by_what_they_promise()


if __name__ == "__main__":
    main()
