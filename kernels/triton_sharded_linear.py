"""Triton kernels of `sharded_linear`: one for every product with a table of shards, one for the weights' gradients.

A shard is an address in a table, never part of a concatenation. Both kernels are persistent: a program takes every
P-th tile of the whole table, so that small shards fill the GPU together. A tile of the result is owned by one program,
which runs its sum over K in steps of 64 and, where the table is cut along K, over its shards in order: there are no
atomics and no split K, and no tuned parameter changes the order of a sum.

Tiles of weights are loaded in one of three ways, which give the same numbers:

    DESCRIPTOR   `tl.make_tensor_descriptor` at the shard's address: TMA on sm_90 and later
    ALIGNED      16-byte loads through pointers, on a promise of alignment: sm_80 and gfx942
    ANY          element by element, for a table with a shard that isn't aligned to 16 bytes

Under `TRITON_INTERPRET=1` the same code runs on CPU tensors. The interpreter's bf16 arithmetic works on bit patterns
and is silently wrong, so INTERPRET upcasts tiles to fp32 as they are loaded.

Shape suffixes: M rows, N output columns, K the dimension that is summed over, as the tiles of one block.
"""

from __future__ import annotations

from typing import Final

import triton
import triton.language as tl

DESCRIPTOR: Final = 0
ALIGNED: Final = 1
ANY: Final = 2

FIELDS: Final = 7
"""int64 entries for each shard: weight address, its row stride, scale address, its row stride, its columns to a group,
first and length of the shard along the cut. An `up` table follows in the same form."""

BLOCK_K: Final = 64
"""Part of the specification: it decides how a sum is grouped."""


@triton.jit  # type: ignore[untyped-decorator]
def places(
    base: tl.tensor,
    stride: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PATH: tl.constexpr,
) -> tl.tensor:
    """Addresses of a tile's elements, and which of them lie in the matrix."""
    if PATH == 1:
        # Arithmetic, because a hint on an argument is lost when the function is inlined.
        stride, column, columns = stride // 16 * 16, column // 16 * 16, columns // 16 * 16
    row_R = row + tl.arange(0, ROWS)
    column_C = column + tl.arange(0, COLUMNS)
    row_place_R = base + row_R.to(tl.int64) * stride  # 64-bit offsets: a shard may pass 2^31 elements
    if PATH == 1:
        row_place_R = tl.multiple_of(row_place_R, 16)
    return row_place_R[:, None] + column_C[None, :], (row_R[:, None] < rows) & (column_C[None, :] < columns)


@triton.jit  # type: ignore[untyped-decorator]
def load_tile(
    base: tl.tensor,
    stride: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PATH: tl.constexpr,
) -> tl.tensor:
    """A tile, with zeros beyond the matrix's rows and columns."""
    if PATH == 0:
        place = tl.make_tensor_descriptor(base, [rows, columns], [stride, 1], [ROWS, COLUMNS])
        return place.load([row, column])
    place_RC, is_inside_RC = places(base, stride, row, column, rows, columns, ROWS, COLUMNS, PATH)
    return tl.load(place_RC, mask=is_inside_RC, other=0.0)


@triton.jit  # type: ignore[untyped-decorator]
def store_tile(
    base: tl.tensor,
    stride: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    tile_RC: tl.tensor,
    PATH: tl.constexpr,
) -> None:
    """A tile to a matrix of these rows and columns; what lies beyond is left as it is."""
    if PATH == 0:
        place = tl.make_tensor_descriptor(base, [rows, columns], [stride, 1], [tile_RC.shape[0], tile_RC.shape[1]])
        place.store([row, column], tile_RC.to(base.dtype.element_ty))
    else:
        place_RC, is_inside_RC = places(
            base, stride, row, column, rows, columns, tile_RC.shape[0], tile_RC.shape[1], PATH
        )
        tl.store(place_RC, tile_RC.to(base.dtype.element_ty), mask=is_inside_RC)


@triton.jit  # type: ignore[untyped-decorator]
def multiply(
    acc_MN: tl.tensor,
    x_ptr: tl.tensor,
    x_stride: tl.tensor,
    rows: tl.tensor,
    start: tl.tensor,
    entry: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    out_length: tl.tensor,
    sum_length: tl.tensor,
    WEIGHT_TYPE: tl.constexpr,
    OVER: tl.constexpr,
    SCALED: tl.constexpr,
    PATH: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> tl.tensor:
    """The accumulator plus `x[row :, start : start + sum_length]` times a shard's part for output columns `column` on.

    OVER is the weight's dimension that is summed over: 1 for `x W`, 0 for the gradient `dz W^T`. SCALED is 0 without
    scales, 1 where a step of the sum has one scale for each output column, 2 where each element looks up its own.
    """
    weight = tl.load(entry).to(tl.pointer_type(WEIGHT_TYPE))
    weight_stride = tl.load(entry + 1)
    scale = tl.load(entry + 2).to(tl.pointer_type(tl.float32))
    scale_stride = tl.load(entry + 3)
    group = tl.load(entry + 4)
    column_N = column + tl.arange(0, BLOCK_N)
    TYPE: tl.constexpr = tl.float32 if WIDE else x_ptr.dtype.element_ty
    if PATH == 0:
        # Its columns end with the shard, so that what x holds beyond never meets the zeros beyond the weight.
        x_tiles = tl.make_tensor_descriptor(
            x_ptr, [rows, (start + sum_length).to(tl.int32)], [x_stride, 1], [BLOCK_M, BLOCK_K]
        )
        if OVER == 1:
            tiles = tl.make_tensor_descriptor(weight, [out_length, sum_length], [weight_stride, 1], [BLOCK_N, BLOCK_K])
        else:
            tiles = tl.make_tensor_descriptor(weight, [sum_length, out_length], [weight_stride, 1], [BLOCK_K, BLOCK_N])
    for k in range(0, sum_length, BLOCK_K):
        if PATH == 0:
            x_MK = x_tiles.load([row, start + k])
            tile = tiles.load([column, k]) if OVER == 1 else tiles.load([k, column])
        else:
            x_MK = load_tile(x_ptr, x_stride, row, start + k, rows, start + sum_length, BLOCK_M, BLOCK_K, PATH)
            if OVER == 1:
                tile = load_tile(weight, weight_stride, column, k, out_length, sum_length, BLOCK_N, BLOCK_K, PATH)
            else:
                tile = load_tile(weight, weight_stride, k, column, sum_length, out_length, BLOCK_K, BLOCK_N, PATH)
        if SCALED == 2:
            row_R = (column if OVER == 1 else k) + tl.arange(0, BLOCK_N if OVER == 1 else BLOCK_K)
            column_C = (k if OVER == 1 else column) + tl.arange(0, BLOCK_K if OVER == 1 else BLOCK_N)
            is_inside = (row_R[:, None] < (out_length if OVER == 1 else sum_length)) & (
                column_C[None, :] < (sum_length if OVER == 1 else out_length)
            )
            place = scale + row_R[:, None].to(tl.int64) * scale_stride + (column_C // group)[None, :]
            tile = (tile.to(tl.float32) * tl.load(place, mask=is_inside, other=0.0)).to(TYPE)
        else:
            tile = tile.to(tl.float32).to(TYPE) if SCALED else tile.to(TYPE)
        # ieee: fp32 products default to tf32, which keeps ten bits.
        factor = tl.trans(tile) if OVER == 1 else tile
        if SCALED == 1:
            part_MN = tl.dot(x_MK.to(TYPE), factor, input_precision="ieee")
            scale_N = tl.load(
                scale + column_N.to(tl.int64) * scale_stride + k // group, mask=column_N < out_length, other=0.0
            )
            acc_MN += part_MN * scale_N[None, :]
        else:
            acc_MN = tl.dot(x_MK.to(TYPE), factor, acc_MN, input_precision="ieee")
    return acc_MN


@triton.jit  # type: ignore[untyped-decorator]
def activate(z: tl.tensor, ACTIVATION: tl.constexpr) -> tl.tensor:
    """0 none, 1 SiLU, 2 GELU by erf, 3 GELU by tanh; fp32."""
    if ACTIVATION == 1:
        z = z / (1.0 + tl.exp(-z))
    elif ACTIVATION == 2:
        z = z * 0.5 * (1.0 + tl.erf(z * 0.7071067811865476))
    elif ACTIVATION == 3:
        inner = 0.7978845608028654 * z * (1.0 + 0.044715 * z * z)
        z = z * (1.0 - 1.0 / (tl.exp(2.0 * inner) + 1.0))  # (1 + tanh(u)) / 2
    return z


@triton.jit(do_not_specialize=["rows", "columns", "sum_length", "shards", "column_tiles", "x_stride", "out_stride"])  # type: ignore[untyped-decorator]
def product_kernel(
    x_ptr: tl.tensor,
    table_ptr: tl.tensor,
    tiles_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    up_bias_ptr: tl.tensor,
    residual_ptr: tl.tensor,
    out_ptr: tl.tensor,
    gate_ptr: tl.tensor,
    up_ptr: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    sum_length: tl.tensor,
    shards: tl.tensor,
    column_tiles: tl.tensor,
    x_stride: tl.tensor,
    out_stride: tl.tensor,
    WEIGHT_TYPE: tl.constexpr,
    OVER: tl.constexpr,
    SUMMED: tl.constexpr,
    GATED: tl.constexpr,
    SCALED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_UP_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    KEEP_GATE: tl.constexpr,
    KEEP_UP: tl.constexpr,
    PATH: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    FIELDS: tl.constexpr,
) -> None:
    """`act(x W + b)` and its relatives; see the module. SUMMED: the table is cut along the dimension summed over.

    tiles_ptr: int32 [column_tiles, 2], shard and first column within it, for tables that aren't summed.
    out, gate, up and residual are [rows, columns] with the stride out_stride.
    """
    row_tiles = tl.cdiv(rows, BLOCK_M)
    for tile in range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0)):
        # GROUP_M row tiles share each tile of weights while it is in the L2 cache.
        band = tile // (GROUP_M * column_tiles)
        band_rows = tl.minimum(row_tiles - band * GROUP_M, GROUP_M)
        within = tile - band * GROUP_M * column_tiles
        row = (band * GROUP_M + within % band_rows) * BLOCK_M
        column_tile = within // band_rows
        acc_MN = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        u_MN = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        if SUMMED:
            column = column_tile * BLOCK_N
            first = 0
            length = columns
            for shard in range(shards):
                entry = table_ptr + shard * FIELDS
                start = tl.load(entry + 5).to(tl.int32)
                size = tl.load(entry + 6).to(tl.int32)
                acc_MN = multiply(
                    acc_MN,
                    x_ptr,
                    x_stride,
                    rows,
                    start,
                    entry,
                    row,
                    column,
                    length,
                    size,
                    WEIGHT_TYPE,
                    OVER,
                    SCALED,
                    PATH,
                    WIDE,
                    BLOCK_M,
                    BLOCK_N,
                    BLOCK_K,
                )
                if GATED:
                    u_MN = multiply(
                        u_MN,
                        x_ptr,
                        x_stride,
                        rows,
                        start,
                        entry + shards * FIELDS,
                        row,
                        column,
                        length,
                        size,
                        WEIGHT_TYPE,
                        OVER,
                        SCALED,
                        PATH,
                        WIDE,
                        BLOCK_M,
                        BLOCK_N,
                        BLOCK_K,
                    )
        else:
            entry = table_ptr + tl.load(tiles_ptr + 2 * column_tile) * FIELDS
            column = tl.load(tiles_ptr + 2 * column_tile + 1)
            first = tl.load(entry + 5)
            length = tl.load(entry + 6).to(tl.int32)
            acc_MN = multiply(
                acc_MN,
                x_ptr,
                x_stride,
                rows,
                0,
                entry,
                row,
                column,
                length,
                sum_length,
                WEIGHT_TYPE,
                OVER,
                SCALED,
                PATH,
                WIDE,
                BLOCK_M,
                BLOCK_N,
                BLOCK_K,
            )
            if GATED:
                u_MN = multiply(
                    u_MN,
                    x_ptr,
                    x_stride,
                    rows,
                    0,
                    entry + shards * FIELDS,
                    row,
                    column,
                    length,
                    sum_length,
                    WEIGHT_TYPE,
                    OVER,
                    SCALED,
                    PATH,
                    WIDE,
                    BLOCK_M,
                    BLOCK_N,
                    BLOCK_K,
                )
        column_N = column + tl.arange(0, BLOCK_N)
        is_column_N = column_N < length
        if HAS_BIAS:
            acc_MN += tl.load(bias_ptr + first + column_N, mask=is_column_N, other=0.0).to(tl.float32)[None, :]
        if KEEP_GATE:
            store_tile(gate_ptr + first, out_stride, row, column, rows, length, acc_MN, PATH)
        acc_MN = activate(acc_MN, ACTIVATION)
        if GATED:
            if HAS_UP_BIAS:
                u_MN += tl.load(up_bias_ptr + first + column_N, mask=is_column_N, other=0.0).to(tl.float32)[None, :]
            if KEEP_UP:
                store_tile(up_ptr + first, out_stride, row, column, rows, length, u_MN, PATH)
            acc_MN *= u_MN
        if HAS_RESIDUAL:
            acc_MN += load_tile(residual_ptr + first, out_stride, row, column, rows, length, BLOCK_M, BLOCK_N, PATH).to(
                tl.float32
            )
        store_tile(out_ptr + first, out_stride, row, column, rows, length, acc_MN, PATH)


@triton.jit(do_not_specialize=["rows", "dz_columns", "x_columns", "tiles", "dz_stride", "x_stride"])  # type: ignore[untyped-decorator]
def weight_gradient_kernel(
    dz_ptr: tl.tensor,
    x_ptr: tl.tensor,
    table_ptr: tl.tensor,
    tiles_ptr: tl.tensor,
    rows: tl.tensor,
    dz_columns: tl.tensor,
    x_columns: tl.tensor,
    tiles: tl.tensor,
    dz_stride: tl.tensor,
    x_stride: tl.tensor,
    OUT_TYPE: tl.constexpr,
    CUT: tl.constexpr,
    PATH: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
    FIELDS: tl.constexpr,
) -> None:
    """`dz^T x` for every shard: rows are summed over. CUT is the dimension of a weight along which the table is cut.

    tiles_ptr: int32 [tiles, 3], shard, first row and first column within its gradient.
    The table's weight address and row stride are those of the gradient.
    """
    TYPE: tl.constexpr = tl.float32 if WIDE else x_ptr.dtype.element_ty
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        entry = table_ptr + tl.load(tiles_ptr + 3 * tile) * FIELDS
        n = tl.load(tiles_ptr + 3 * tile + 1)
        c = tl.load(tiles_ptr + 3 * tile + 2)
        out = tl.load(entry).to(tl.pointer_type(OUT_TYPE))
        out_stride = tl.load(entry + 1)
        first = tl.load(entry + 5).to(tl.int32)
        length = tl.load(entry + 6).to(tl.int32)
        dz_first = first if CUT == 0 else 0
        x_first = first if CUT == 1 else 0
        dz_end = first + length if CUT == 0 else dz_columns
        x_end = first + length if CUT == 1 else x_columns
        acc_NC = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
        if PATH == 0:
            dz_tiles = tl.make_tensor_descriptor(dz_ptr, [rows, dz_end], [dz_stride, 1], [BLOCK_K, BLOCK_N])
            x_tiles = tl.make_tensor_descriptor(x_ptr, [rows, x_end], [x_stride, 1], [BLOCK_K, BLOCK_C])
        for m in range(0, rows, BLOCK_K):
            if PATH == 0:
                dz_KN = dz_tiles.load([m, dz_first + n])
                x_KC = x_tiles.load([m, x_first + c])
            else:
                dz_KN = load_tile(dz_ptr, dz_stride, m, dz_first + n, rows, dz_end, BLOCK_K, BLOCK_N, PATH)
                x_KC = load_tile(x_ptr, x_stride, m, x_first + c, rows, x_end, BLOCK_K, BLOCK_C, PATH)
            acc_NC = tl.dot(tl.trans(dz_KN.to(TYPE)), x_KC.to(TYPE), acc_NC, input_precision="ieee")
        store_tile(out, out_stride, n, c, dz_end - dz_first, x_end - x_first, acc_NC, PATH)
