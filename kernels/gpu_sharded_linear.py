"""Launches the Triton kernels of `sharded_linear`: the table of shards as addresses, the path, the tile sizes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels import tuned
from kernels.shard_table import bounds
from kernels.triton_sharded_linear import (
    ALIGNED,
    ANY,
    BLOCK_K,
    DESCRIPTOR,
    FIELDS,
    product_kernel,
    weight_gradient_kernel,
)

INTERPRET: Final = os.environ.get("TRITON_INTERPRET") == "1"
ACTIVATION_NUMBERS: Final = {"none": 0, "silu": 1, "gelu": 2, "gelu_tanh": 3}
TRITON_TYPES: Final = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.int8: tl.int8,
}


class Config(NamedTuple):
    """Sizes of a tile. They decide speed: the steps of a sum don't depend on them."""

    block_m: int
    block_n: int
    warps: int
    stages: int


CONFIGS: Final = (
    Config(128, 128, 8, 3),
    Config(64, 128, 4, 4),
    Config(64, 64, 4, 4),
    Config(16, 64, 4, 4),
)
"""The pruned space: what compiles without spills for every architecture, path and epilogue (`bench.kernels aot`)."""

NARROW_CONFIGS: Final = (Config(128, 64, 8, 3), Config(64, 64, 4, 3), Config(16, 64, 4, 4))
"""For two accumulators (gated), and where what goes into the activation is kept."""
SCALED_CONFIG: Final = Config(64, 64, 4, 3)
SCALED_NARROW_CONFIG: Final = Config(32, 32, 4, 3)
WIDE_CONFIG: Final = Config(64, 64, 4, 2)
"""For fp32 products, which use no tensor cores and twice the memory."""
UNALIGNED_CONFIG: Final = Config(32, 32, 4, 2)
"""For element by element loads, whose addresses and masks take registers."""
GRADIENT_CONFIG: Final = Config(64, 64, 4, 3)
UNALIGNED_GRADIENT_CONFIG: Final = Config(32, 64, 4, 2)
HIP_STAGES: Final = 2
"""A compute unit of gfx942 has 64 KiB of shared memory."""
GROUP_M: Final = 8


def choose(
    rows: int, path: int, *, is_narrow: bool, is_scaled: bool, is_wide: bool, key: tuple[int | str, ...]
) -> Config:
    """The tuned configuration for this product on this device if there is one, else by the number of rows."""
    space = NARROW_CONFIGS if is_narrow else CONFIGS
    found = None if is_wide or is_scaled or path == ANY else tuned.lookup("sharded_linear", key)
    if found is not None and Config(*found) in space:
        return Config(*found)
    if path == ANY:
        return UNALIGNED_CONFIG
    if is_wide:
        return WIDE_CONFIG
    if is_scaled:
        return SCALED_NARROW_CONFIG if is_narrow else SCALED_CONFIG
    if rows <= 16:
        return space[-1]
    return space[0] if rows > 64 else space[-2]


def tuning_key(
    rows: int, columns: int, width: int, dtypes: Sequence[torch.dtype], *, is_gated: bool
) -> tuple[int | str, ...]:
    """What a tuned configuration is kept under; rows count by powers of two."""
    return (1 << max(rows - 1, 0).bit_length(), columns, width, *map(str, dtypes), int(is_gated))


def forward(
    x: Tensor,
    shards: Sequence[Tensor],
    scales: Sequence[Tensor],
    up_shards: Sequence[Tensor],
    up_scales: Sequence[Tensor],
    bias: Tensor | None,
    up_bias: Tensor | None,
    residual: Tensor | None,
    axis: int,
    activation: str,
    *,
    keep: bool,
    config: Config | None = None,
    path: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `cpu_sharded_linear.forward`, over tables as the operator has them."""
    rows, width = x.shape
    columns = sum(shard.shape[0] for shard in shards) if axis == 0 else shards[0].shape[0]
    out = x.new_empty(rows, columns)
    has_up = keep and bool(up_shards)
    has_gate = has_up or (keep and activation != "none")
    gate, up = (x.new_empty((rows, columns) if has else 0) for has in (has_gate, has_up))
    if not out.numel():
        return out, gate, up
    x, shards, up_shards = _unit(x), [_unit(s) for s in shards], [_unit(s) for s in up_shards]
    residual = None if residual is None else residual.contiguous()
    key = tuning_key(rows, columns, width, (x.dtype, shards[0].dtype), is_gated=bool(up_shards))
    _product(
        x, shards, scales, up_shards, up_scales, bias, up_bias, residual, out, gate if has_gate else None,
        up if has_up else None, axis=axis, over=1, activation=activation, config=config, path=path, key=key,
    )  # fmt: skip
    return out, gate, up


def input_gradient(
    dz: Tensor, shards: Sequence[Tensor], scales: Sequence[Tensor], axis: int, in_features: int, path: int | None = None
) -> Tensor:
    """`dz W`, [M, in_features]."""
    out = dz.new_empty(dz.shape[0], in_features)
    if out.numel():
        dz, shards = _unit(dz), [_unit(shard) for shard in shards]
        _product(
            dz, shards, scales, [], [], None, None, None, out, None, None,
            axis=axis, over=0, activation="none", config=None, path=path, key=(),
        )  # fmt: skip
    return out


def weight_gradient(dz: Tensor, x: Tensor, sizes: Sequence[int], axis: int, path: int | None = None) -> list[Tensor]:
    """`dz^T x` for each shard, in x's dtype."""
    shapes = [(size, x.shape[1]) if axis == 0 else (dz.shape[1], size) for size in sizes]
    out = [x.new_empty(shape) for shape in shapes]
    if not x.shape[0] or not any(one.numel() for one in out):
        return [one.zero_() for one in out]
    dz, x = _unit(dz), _unit(x)
    starts = [first for first, _ in bounds(sizes)]
    entries = [
        (one.data_ptr(), one.stride(0), 0, 0, 1, start, size)
        for one, start, size in zip(out, starts, sizes, strict=True)
    ]
    if path is None:
        lengths = [dz.shape[1], x.shape[1], *sizes]
        path = _path([dz, x, *out], starts, lengths, is_wide=x.dtype == torch.float32)
    config = UNALIGNED_GRADIENT_CONFIG if path == ANY else GRADIENT_CONFIG
    tiles = _gradient_tiles(tuple(shapes), config.block_m, config.block_n, x.device)
    if path == DESCRIPTOR:
        _give_scratch(x.device)
    weight_gradient_kernel[(min(len(tiles), _programs(x.device)),)](
        dz, x, _table(tuple(entries), x.device), tiles,
        x.shape[0], dz.shape[1], x.shape[1], len(tiles), dz.stride(0), x.stride(0),
        OUT_TYPE=TRITON_TYPES[x.dtype], CUT=axis, PATH=path, WIDE=INTERPRET,
        BLOCK_N=config.block_m, BLOCK_C=config.block_n, BLOCK_K=BLOCK_K, FIELDS=FIELDS,
        num_warps=config.warps, num_stages=_stages(config), enable_fp_fusion=False,
    )  # fmt: skip
    return out


def _product(
    x: Tensor,
    shards: Sequence[Tensor],
    scales: Sequence[Tensor],
    up_shards: Sequence[Tensor],
    up_scales: Sequence[Tensor],
    bias: Tensor | None,
    up_bias: Tensor | None,
    residual: Tensor | None,
    out: Tensor,
    gate: Tensor | None,
    up: Tensor | None,
    *,
    axis: int,
    over: int,
    activation: str,
    config: Config | None,
    path: int | None,
    key: tuple[int | str, ...],
) -> None:
    scales, up_scales = [scale.contiguous() for scale in scales], [scale.contiguous() for scale in up_scales]
    is_summed = axis == over
    sizes = tuple(shard.shape[axis] for shard in shards)
    starts = [first for first, _ in bounds(sizes)]
    columns, sum_length = out.shape[1], shards[0].shape[over]
    is_mixed = shards[0].dtype not in {x.dtype, torch.int8}
    is_wide = x.dtype == torch.float32 or is_mixed
    if path is None:
        others = [tensor for tensor in (x, residual, out, gate, up) if tensor is not None]
        lengths = [*sizes, columns, sum_length, *(shard.shape[1] for shard in shards)]
        path = _path([*shards, *up_shards, *others], starts, lengths, is_wide=is_wide)
    if config is None:
        config = choose(
            x.shape[0],
            path,
            is_narrow=bool(up_shards) or gate is not None,
            is_scaled=bool(scales),
            is_wide=is_wide,
            key=key,
        )
    entries = _entries(shards, scales, starts, axis) + _entries(up_shards, up_scales, starts, axis)
    tiles = _column_tiles(sizes, config.block_n, x.device)
    column_tiles = triton.cdiv(columns, config.block_n) if is_summed else len(tiles)
    if path == DESCRIPTOR:
        _give_scratch(x.device)
    programs = min(triton.cdiv(x.shape[0], config.block_m) * column_tiles, _programs(x.device))
    product_kernel[(programs,)](
        x, _table(tuple(entries), x.device), tiles, _or(bias, out), _or(up_bias, out), _or(residual, out), out,
        _or(gate, out), _or(up, out),
        x.shape[0], columns, sum_length, len(shards), column_tiles, x.stride(0), out.stride(0),
        WEIGHT_TYPE=TRITON_TYPES[shards[0].dtype], OVER=over, SUMMED=is_summed, GATED=bool(up_shards),
        SCALED=_scaling(shards, [*scales, *up_scales], over), ACTIVATION=ACTIVATION_NUMBERS[activation],
        HAS_BIAS=bias is not None, HAS_UP_BIAS=up_bias is not None, HAS_RESIDUAL=residual is not None,
        KEEP_GATE=gate is not None, KEEP_UP=up is not None, PATH=path, WIDE=INTERPRET or is_mixed,
        BLOCK_M=config.block_m, BLOCK_N=config.block_n, BLOCK_K=BLOCK_K, GROUP_M=GROUP_M, FIELDS=FIELDS,
        num_warps=config.warps, num_stages=_stages(config), enable_fp_fusion=False,
    )  # fmt: skip


def _stages(config: Config) -> int:
    return config.stages if torch.version.hip is None else min(config.stages, HIP_STAGES)


def _or(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    return stand_in if tensor is None else tensor


def _scaling(shards: Sequence[Tensor], scales: Sequence[Tensor], over: int) -> int:
    """0 without scales, 1 where each step of the sum has one scale for each output column, else 2."""
    if not scales:
        return 0
    groups = [shards[number % len(shards)].shape[1] // max(1, _groups_of(scale)) for number, scale in enumerate(scales)]
    is_stepped = all(
        _groups_of(scale) <= 1 or group % BLOCK_K == 0 for scale, group in zip(scales, groups, strict=True)
    )
    return 1 if over == 1 and is_stepped else 2


def _groups_of(scale: Tensor) -> int:
    return scale.shape[1] if scale.dim() == 2 else 1


def _entries(
    shards: Sequence[Tensor], scales: Sequence[Tensor], starts: Sequence[int], axis: int
) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    for number, (shard, start) in enumerate(zip(shards, starts, strict=False)):
        scale = scales[number] if scales else None
        place = (0, 0, 1)
        if scale is not None:
            place = (scale.data_ptr(), scale.stride(0), max(1, shard.shape[1] // _groups_of(scale)))
        found.append((shard.data_ptr(), shard.stride(0), *place, start, shard.shape[axis]))
    return found


def _path(matrices: Sequence[Tensor], starts: Sequence[int], lengths: Sequence[int], *, is_wide: bool) -> int:
    """How tiles may be loaded and stored: every promise made to the compiler is checked here.

    An fp32 product from tiles in shared memory spills (4,512 bytes on sm_90), so it takes pointers.
    """
    if INTERPRET:
        return DESCRIPTOR if all(_fits(one, starts) for one in matrices) else ANY
    device = matrices[0].device
    has_tma = not is_wide and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (9, 0)
    if has_tma and all(_fits(one, starts) for one in matrices):
        return DESCRIPTOR
    is_aligned = all(number % 16 == 0 for number in (*starts, *lengths)) and all(
        one.stride(0) % 16 == 0 and one.data_ptr() % 16 == 0 for one in matrices
    )
    return ALIGNED if is_aligned else ANY


def _fits(matrix: Tensor, starts: Sequence[int]) -> bool:
    """Whether a tensor map can be made of the matrix, and of its columns from any start on."""
    size = matrix.element_size()
    return (
        matrix.data_ptr() % 16 == 0
        and matrix.stride(0) * size % 16 == 0
        and all(start * size % 16 == 0 for start in starts)
    )


def _unit(matrix: Tensor) -> Tensor:
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


@lru_cache(maxsize=1024)
def _table(entries: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    return torch.tensor(entries, dtype=torch.int64, device=device)


@lru_cache(maxsize=1024)
def _column_tiles(sizes: tuple[int, ...], block: int, device: torch.device) -> Tensor:
    places = [(shard, first) for shard, size in enumerate(sizes) for first in range(0, size, block)]
    return torch.tensor(places or [(0, 0)], dtype=torch.int32, device=device)


@lru_cache(maxsize=1024)
def _gradient_tiles(shapes: tuple[tuple[int, int], ...], rows: int, columns: int, device: torch.device) -> Tensor:
    places = [
        (shard, n, c)
        for shard, shape in enumerate(shapes)
        for n in range(0, shape[0], rows)
        for c in range(0, shape[1], columns)
    ]
    return torch.tensor(places, dtype=torch.int32, device=device)


@cache
def _programs(device: torch.device) -> int:
    """Programs that a persistent kernel has: two for each processor, as the occupancy of most configurations allows."""
    return 3 if INTERPRET else 2 * torch.cuda.get_device_properties(device).multi_processor_count


def _give_scratch(device: torch.device) -> None:
    """Where the kernel writes its tensor maps."""
    triton.set_allocator(lambda size, _alignment, _stream: torch.empty(size, dtype=torch.int8, device=device))
