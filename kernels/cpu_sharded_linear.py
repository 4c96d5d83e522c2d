"""`sharded_linear` on the CPU: a library product for each tile of the result, its epilogue while the tile is in cache.

Every number is computed in fp32 (float64 for float64 inputs) and rounded once, when it is stored. The order of each sum
is fixed, so the same input gives the same bytes: over runs, thread counts, batches, and cuts into columns or rows.
Three things had to be kept away from the library for that, each seen on AVX2 or AVX-512 processors:

- a product with fewer than 16 rows or columns takes another path, with other bits: both are padded to 16;
- a sum over many terms is cut differently for few rows than for many: it runs in pieces of 768, in order, cut at
  the same places however the weight is cut into shards;
- `silu` and `gelu` of an element depend on its place in the array: see `kernels/activations.py`.

A tile of weights that lies in one shard of the right type is multiplied where it lies. Others, of several shards or of
another type, are first brought together in a buffer of at most 13 MB.

Shape suffixes: M rows, B rows of a block, K input columns, N output columns, C columns of a tile.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from kernels.activations import activate
from kernels.shard_table import bounds

_BLOCK_ROWS: Final = 2048
_TILE_ELEMENTS: Final = 1 << 21
"""Elements of an output tile whose weights are multiplied where they lie, if it is wider than a joined one."""
_JOINED_COLUMNS: Final = 4096
_CONVERTED_COLUMNS: Final = 2048
_PIECE: Final = 768
_MULTIPLE: Final = 16
_EPILOGUE_ELEMENTS: Final = 1 << 17
_X_COST: Final = 57
_COPY_COST: Final = 42
"""What a product spends on x and a copy on W beside the multiplications, in columns and rows of them (measured: 0.65 ns
an element of x, 0.48 ns an element of W, 0.0114 ns a multiplication)."""


class Part(NamedTuple):
    """One shard, with its scales if it is int8."""

    weight: Tensor
    scale: Tensor | None


class Weight(NamedTuple):
    """A weight as its parts along a dimension, each [N_k, K] or [N, K_k]."""

    parts: tuple[Part, ...]
    axis: int

    @property
    def sizes(self) -> list[int]:
        """Length of each part along the cut."""
        return [part.weight.shape[self.axis] for part in self.parts]

    @property
    def shape(self) -> tuple[int, int]:
        """N and K of the whole."""
        other = self.parts[0].weight.shape[1 - self.axis]
        return (sum(self.sizes), other) if self.axis == 0 else (other, sum(self.sizes))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the shards' elements."""
        return self.parts[0].weight.dtype


class Epilogue(NamedTuple):
    """What follows the product; every tensor spans all N columns."""

    bias: Tensor | None
    up_bias: Tensor | None
    activation: str
    residual: Tensor | None


def forward(
    x_MK: Tensor, weight: Weight, up: Weight | None, epilogue: Epilogue, *, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The result and, if `keep`, what goes into the activation and the gated factor; else two empty tensors."""
    rows = x_MK.shape[0]
    columns = weight.shape[0]
    out_MN = x_MK.new_empty(rows, columns)
    has_up = keep and up is not None
    has_gate = has_up or (keep and epilogue.activation != "none")
    gate_MN, up_MN = (x_MK.new_empty((rows, columns) if has else 0) for has in (has_gate, has_up))
    work = _Work(x_MK.dtype)
    for first, end in _spans(rows, _BLOCK_ROWS):
        x_BK = _padded(x_MK[first:end].to(work.dtype))
        for left, right in _column_tiles(weight, x_BK.shape[0], work.dtype):
            z_BC, target_BC = work.tile("z", x_BK.shape[0], right - left, out_MN[first:end, left:right])
            _multiply(z_BC, x_BK, weight, left, right, work)
            u_BC = None
            if up is not None:
                u_BC, _ = work.tile("u", x_BK.shape[0], right - left, None)
                _multiply(u_BC, x_BK, up, left, right, work)
            kept = (
                gate_MN[first:end, left:right] if has_gate else None,
                up_MN[first:end, left:right] if has_up else None,
            )
            residual_MN = epilogue.residual
            part = Epilogue(
                _columns_of(epilogue.bias, left, right, work.dtype),
                _columns_of(epilogue.up_bias, left, right, work.dtype),
                epilogue.activation,
                None if residual_MN is None else residual_MN[first:end, left:right],
            )
            _finish(z_BC, u_BC, target_BC, part, kept)
    return out_MN, gate_MN, up_MN


def input_gradient(dz_MN: Tensor, weight: Weight) -> Tensor:
    """`dz W`, [M, K]."""
    columns, width = weight.shape
    out_MK = dz_MN.new_empty(dz_MN.shape[0], width)
    work = _Work(dz_MN.dtype)
    for first, end in _spans(dz_MN.shape[0], _BLOCK_ROWS):
        dz_BN = _padded(dz_MN[first:end].to(work.dtype))
        for left, right in _spans(width, _CONVERTED_COLUMNS):
            z_BC, target_BC = work.tile("z", dz_BN.shape[0], right - left, out_MK[first:end, left:right])
            is_first = True
            for n0, n1 in _pieces(columns):
                tile_NC = _rectangle(weight, n0, n1, left, right, work)
                is_first = _add(z_BC, dz_BN[:, n0:n1], tile_NC, is_first=is_first)
            if is_first:
                z_BC.zero_()
            if target_BC is not None:
                target_BC.copy_(z_BC[: end - first, : right - left])
    return out_MK


def weight_gradient(dz_MN: Tensor, x_MK: Tensor, sizes: Sequence[int], axis: int) -> list[Tensor]:
    """`dz^T x` for each shard, in x's dtype, summed over blocks of rows in order."""
    work = _Work(x_MK.dtype)
    shapes = [(size, x_MK.shape[1]) if axis == 0 else (dz_MN.shape[1], size) for size in sizes]
    sums = [x_MK.new_zeros(shape, dtype=work.dtype) for shape in shapes]
    for first, end in _spans(x_MK.shape[0], _PIECE):
        dz_BN, x_BK = dz_MN[first:end].to(work.dtype), x_MK[first:end].to(work.dtype)
        for (left, right), total in zip(bounds(sizes), sums, strict=True):
            if total.numel():
                a_BN, b_BK = (dz_BN[:, left:right], x_BK) if axis == 0 else (dz_BN, x_BK[:, left:right])
                total.addmm_(a_BN.T, b_BK)
    return [total.to(x_MK.dtype) for total in sums]


class _Kept(threading.local):
    """A thread's buffer for weights, kept between calls: to map its pages anew costs as much as the copy into it."""

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}


_KEPT: Final = _Kept()


class _Work:
    """Buffers of one call, made when first needed."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self._buffers: dict[str, Tensor] = {}

    def buffer(self, name: str, *shape: int) -> Tensor:
        elements = math.prod(shape)
        buffers = self._buffers
        if name == "weight":
            name, buffers = f"weight {self.dtype}", _KEPT.buffers
        held = buffers.get(name)
        if held is None or held.numel() < elements:
            held = buffers[name] = torch.empty(elements, dtype=self.dtype)
        return held[:elements].view(shape)

    def tile(self, name: str, rows: int, columns: int, place: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Where a product goes, padded to 16 columns, and where its result has to be copied, if that is elsewhere."""
        is_direct = place is not None and place.dtype == self.dtype and place.shape[0] == rows and columns >= _MULTIPLE
        if is_direct:
            assert place is not None
            return place, None
        return self.buffer(name, rows, max(columns, _MULTIPLE)), place


def _spans(length: int, step: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + step, length)) for start in range(0, length, step))


def _pieces(length: int) -> Iterator[tuple[int, int]]:
    """The pieces of every sum of this length.

    The library itself cuts at multiples of 384: a sum of 1,536 terms in two pieces of 768 takes 1.00 of the time of the
    whole, in three of 512 it takes 1.07 (one core).
    """
    return _spans(length, _PIECE)


def _padded(x_BK: Tensor) -> Tensor:
    rows = x_BK.shape[0]
    if rows % _MULTIPLE:
        x_BK = torch.nn.functional.pad(x_BK, (0, 0, 0, -rows % _MULTIPLE))
    return x_BK if x_BK.stride(1) == 1 else x_BK.contiguous()


def _columns_of(vector_N: Tensor | None, left: int, right: int, dtype: torch.dtype) -> Tensor | None:
    return None if vector_N is None else vector_N[left:right].to(dtype)


def _column_tiles(weight: Weight, rows: int, dtype: torch.dtype) -> Iterator[tuple[int, int]]:
    """Tiles of output columns. Their cuts decide speed and nothing else."""
    columns = weight.shape[0]
    if weight.dtype != dtype:
        return _spans(columns, _CONVERTED_COLUMNS)
    wide = max(_JOINED_COLUMNS, _TILE_ELEMENTS // rows)
    if weight.axis == 1:
        cuts = {end for _, end in bounds(weight.sizes)}
        is_joined = not cuts <= {end for _, end in _pieces(weight.shape[1])}
        return _spans(columns, _JOINED_COLUMNS if is_joined else wide)
    # A product of few columns spends much on x, joining them spends on the copy: the cheaper one.
    if _X_COST * len(weight.parts) > columns * (_COPY_COST / rows + _X_COST / _JOINED_COLUMNS):
        return _spans(columns, _JOINED_COLUMNS)
    return (
        (first + left, first + right)
        for first, end in bounds(weight.sizes)
        for left, right in _spans(end - first, wide)
    )


def _multiply(z_BC: Tensor, x_BK: Tensor, weight: Weight, left: int, right: int, work: _Work) -> None:
    is_first = True
    for k0, k1 in _pieces(weight.shape[1]):
        tile_CK = _rectangle(weight, left, right, k0, k1, work)
        is_first = _add(z_BC, x_BK[:, k0:k1], tile_CK.T, is_first=is_first)
    if is_first:
        z_BC.zero_()


def _add(z_BC: Tensor, a_BK: Tensor, b_KC: Tensor, *, is_first: bool) -> bool:
    if b_KC.shape[1] < z_BC.shape[1]:
        b_KC = torch.nn.functional.pad(b_KC, (0, z_BC.shape[1] - b_KC.shape[1]))
    if is_first:
        torch.mm(a_BK, b_KC, out=z_BC)
    else:
        z_BC.addmm_(a_BK, b_KC)
    return False


def _rectangle(weight: Weight, n0: int, n1: int, k0: int, k1: int, work: _Work) -> Tensor:
    """Some rows and columns of the whole weight in the arithmetic's type: a shard's own memory where that does."""
    low, high = (n0, n1) if weight.axis == 0 else (k0, k1)
    pieces = [
        (part, max(low - first, 0), min(high, end) - first, first)
        for part, (first, end) in zip(weight.parts, bounds(weight.sizes), strict=True)
        if first < high and end > low and end > first
    ]
    if len(pieces) == 1 and weight.dtype == work.dtype:
        part, start, stop, _ = pieces[0]
        return part.weight[start:stop, k0:k1] if weight.axis == 0 else part.weight[n0:n1, start:stop]
    found_NK = work.buffer("weight", n1 - n0, k1 - k0)
    for part, start, stop, first in pieces:
        place = slice(first + start - low, first + stop - low)
        across = slice(start, stop)
        if weight.axis == 0:
            tile_NK, rows, columns = found_NK[place], across, slice(k0, k1)
        else:
            tile_NK, rows, columns = found_NK[:, place], slice(n0, n1), across
        tile_NK.copy_(part.weight[rows, columns])
        if part.scale is not None:
            _scale(tile_NK, part.scale[rows], part.weight.shape[1] // part.scale.shape[1], columns.start)
    return found_NK


def _scale(tile_NK: Tensor, scale_NG: Tensor, group: int, k0: int) -> None:
    """Dequantise columns from k0 on, each group of columns by its scale."""
    rows, width = tile_NK.shape
    first, last = k0 // group, (k0 + width - 1) // group
    if first == last:
        tile_NK *= scale_NG[:, first : last + 1]
    elif k0 % group == 0 and width % group == 0 and tile_NK.is_contiguous():
        tile_NK.view(rows, last + 1 - first, group).mul_(scale_NG[:, first : last + 1, None])
    else:
        for number in range(first, last + 1):
            left, right = max(number * group - k0, 0), min((number + 1) * group - k0, width)
            tile_NK[:, left:right] *= scale_NG[:, number : number + 1]


def _finish(
    z_BC: Tensor, u_BC: Tensor | None, target_BC: Tensor | None, epilogue: Epilogue, kept: tuple[Tensor | None, ...]
) -> None:
    """The epilogue in place, some rows at a time so that its passes stay in cache; then the copy to its place."""
    is_plain = u_BC is None and epilogue.bias is None and epilogue.residual is None and epilogue.activation == "none"
    if is_plain and target_BC is None and kept == (None, None):
        return
    rows, columns = z_BC.shape if target_BC is None else target_BC.shape
    for first, end in _spans(rows, max(1, _EPILOGUE_ELEMENTS // columns)):
        z = z_BC[first:end, :columns]
        if epilogue.bias is not None:
            z += epilogue.bias
        if kept[0] is not None:
            kept[0][first:end] = z
        activate(z, epilogue.activation)
        if u_BC is not None:
            u = u_BC[first:end, :columns]
            if epilogue.up_bias is not None:
                u += epilogue.up_bias
            if kept[1] is not None:
                kept[1][first:end] = u
            z *= u
        if epilogue.residual is not None:
            z += epilogue.residual[first:end]
        if target_BC is not None:
            target_BC[first:end] = z
