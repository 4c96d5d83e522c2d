"""`sharded_linear` on the CPU: one library product for each tile of a shard, its epilogue while the tile is in cache.

Every number is computed in fp32 (float64 for float64 inputs) and rounded once, when it is stored. The order of each sum
is fixed, so the same input gives the same bytes: over runs, thread counts and batches, and over cuts into columns.
Three things had to be kept away from the library for that, each seen on AVX2 or AVX-512 processors:

- a product with fewer than 16 rows or columns takes another path, with other bits: both are padded to 16;
- a sum over many terms is cut differently for few rows than for many: it runs in pieces of at most 640, in order;
- `silu` and `gelu` of an element depend on its place in the array: see `kernels/activations.py`.

A sum over row shards is one such sequence of pieces, shard after shard, so its bits depend on where the rows are cut:
the boundaries are part of what a network agrees on.

Shape suffixes: M rows, B rows of a block, K input columns, N output columns, C columns of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import torch
from torch import Tensor

from kernels.activations import activate
from kernels.shard_table import bounds

_BLOCK_ROWS: Final = 2048
_TILE_ELEMENTS: Final = 1 << 21
"""Elements of an output tile of a shard that is multiplied where it lies."""
_JOINED_COLUMNS: Final = 1024
"""Columns of a tile whose weights are copied or converted first."""
_NARROW: Final = 512
_PIECE: Final = 640
_MULTIPLE: Final = 16
_EPILOGUE_ELEMENTS: Final = 1 << 17


class Part(NamedTuple):
    """Rows of one shard, [N_k, K_k], with their scales if it is int8."""

    weight: Tensor
    scale: Tensor | None

    def rows(self, left: int, right: int) -> Part:
        """Some of the rows."""
        return Part(self.weight[left:right], None if self.scale is None else self.scale[left:right])


class Piece(NamedTuple):
    """Part of a sum over K from column `start` of x on, for the columns of all its parts, one beside the other."""

    parts: tuple[Part, ...]
    start: int


class Epilogue(NamedTuple):
    """What follows the product; every tensor spans all N columns."""

    bias: Tensor | None
    up_bias: Tensor | None
    activation: str
    residual: Tensor | None


def forward(
    x_MK: Tensor, table: Sequence[Part], up_table: Sequence[Part], axis: int, epilogue: Epilogue, *, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The result and, if `keep`, what goes into the activation and the gated factor; else two empty tensors."""
    rows = x_MK.shape[0]
    columns = sum(part.weight.shape[0] for part in table) if axis == 0 else table[0].weight.shape[0]
    out_MN = x_MK.new_empty(rows, columns)
    has_up = keep and bool(up_table)
    has_gate = has_up or (keep and epilogue.activation != "none")
    gate_MN, up_MN = (x_MK.new_empty((rows, columns) if has else 0) for has in (has_gate, has_up))
    work = _Work(x_MK.dtype)
    for first, end in _spans(rows, _BLOCK_ROWS):
        x_BK = _padded(x_MK[first:end].to(work.dtype))
        place = 0
        for width, pieces, up_pieces in _column_tiles(table, up_table, axis, x_BK.shape[0], work.dtype):
            left, right = place, place + width
            place = right
            z_BC, target_BC = work.tile("z", x_BK.shape[0], width, out_MN[first:end, left:right])
            _multiply(z_BC, x_BK, pieces, work)
            u_BC = None
            if up_pieces:
                u_BC, _ = work.tile("u", x_BK.shape[0], width, None)
                _multiply(u_BC, x_BK, up_pieces, work)
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


def input_gradient(dz_MN: Tensor, table: Sequence[Part], axis: int, in_features: int) -> Tensor:
    """`dz W`, [M, K]: the transposed product, where a table cut by columns is now the one that is summed."""
    out_MK = dz_MN.new_empty(dz_MN.shape[0], in_features)
    work = _Work(dz_MN.dtype)
    cuts = bounds([part.weight.shape[axis] for part in table])
    groups = [(0, in_features, [(part, first) for part, (first, _) in zip(table, cuts, strict=True)])]
    if axis == 1:
        groups = [(first, end, [(part, 0)]) for part, (first, end) in zip(table, cuts, strict=True)]
    for first, end in _spans(dz_MN.shape[0], _BLOCK_ROWS):
        dz_BN = _padded(dz_MN[first:end].to(work.dtype))
        for group_left, group_right, members in groups:
            for left, right in _spans(group_right - group_left, _JOINED_COLUMNS):
                place = out_MK[first:end, group_left + left : group_left + right]
                z_BC, target_BC = work.tile("z", dz_BN.shape[0], right - left, place)
                is_first = True
                for part, start in members:
                    for n0, n1 in _pieces(part.weight.shape[0]):
                        tile_NC = _converted((part.rows(n0, n1),), left, right, work)
                        is_first = _add(z_BC, dz_BN[:, start + n0 : start + n1], tile_NC, is_first=is_first)
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


class _Work:
    """Buffers of one call, made when first needed."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self._buffers: dict[str, Tensor] = {}

    def buffer(self, name: str, *shape: int) -> Tensor:
        elements = math.prod(shape)
        held = self._buffers.get(name)
        if held is None or held.numel() < elements:
            held = self._buffers[name] = torch.empty(elements, dtype=self.dtype)
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
    """Near-equal pieces of at most `_PIECE`, cut at multiples of 16."""
    count = max(1, -(-length // _PIECE))
    cuts = [min(length, -(-length * number // (count * _MULTIPLE)) * _MULTIPLE) for number in range(count + 1)]
    return ((left, right) for left, right in pairwise(cuts) if left < right)


def _padded(x_BK: Tensor) -> Tensor:
    rows = x_BK.shape[0]
    if rows % _MULTIPLE:
        x_BK = torch.nn.functional.pad(x_BK, (0, 0, 0, -rows % _MULTIPLE))
    return x_BK if x_BK.stride(1) == 1 else x_BK.contiguous()


def _columns_of(vector_N: Tensor | None, left: int, right: int, dtype: torch.dtype) -> Tensor | None:
    return None if vector_N is None else vector_N[left:right].to(dtype)


def _column_tiles(
    table: Sequence[Part], up_table: Sequence[Part], axis: int, rows: int, dtype: torch.dtype
) -> Iterator[tuple[int, list[Piece], list[Piece]]]:
    """Tiles of output columns: width, and the pieces of the sum that each is, for both tables.

    A narrow tile repeats the library's work on x for few columns, so narrow shards share a tile: their rows are copied
    into one buffer of at most `_JOINED_COLUMNS` times `_PIECE` elements, as those that need conversion are anyway.
    """
    is_converted = any(part.weight.dtype != dtype for part in (*table, *up_table))
    width = _JOINED_COLUMNS if is_converted else max(_JOINED_COLUMNS, _TILE_ELEMENTS // rows)
    if axis == 1:
        starts = [first for first, _ in bounds([part.weight.shape[1] for part in table])]
        for left, right in _spans(table[0].weight.shape[0], width):
            sums = [
                [Piece((part.rows(left, right),), start) for part, start in zip(parts, starts, strict=True)]
                if parts else []
                for parts in (table, up_table)
            ]  # fmt: skip
            yield right - left, sums[0], sums[1]
        return
    joined: list[tuple[int, int, int]] = []  # shard, first and end of its rows
    total = 0
    cuts = [(k, *span) for k, part in enumerate(table) for span in _spans(part.weight.shape[0], width)]
    for k, left, right in cuts:
        if joined and (total + right - left > _JOINED_COLUMNS or not (is_converted or right - left < _NARROW)):
            yield total, _beside(table, joined), _beside(up_table, joined)
            joined, total = [], 0
        joined.append((k, left, right))
        total += right - left
    if joined:
        yield total, _beside(table, joined), _beside(up_table, joined)


def _beside(table: Sequence[Part], cuts: Sequence[tuple[int, int, int]]) -> list[Piece]:
    return [Piece(tuple(table[k].rows(left, right) for k, left, right in cuts), 0)] if table else []


def _multiply(z_BC: Tensor, x_BK: Tensor, pieces: Sequence[Piece], work: _Work) -> None:
    is_first = True
    for piece in pieces:
        for k0, k1 in _pieces(piece.parts[0].weight.shape[1]):
            tile_CK = _converted(piece.parts, k0, k1, work)
            if tile_CK.shape[0] < z_BC.shape[1]:
                tile_CK = torch.nn.functional.pad(tile_CK, (0, 0, 0, z_BC.shape[1] - tile_CK.shape[0]))
            is_first = _add(z_BC, x_BK[:, piece.start + k0 : piece.start + k1], tile_CK.T, is_first=is_first)
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


def _converted(parts: tuple[Part, ...], k0: int, k1: int, work: _Work) -> Tensor:
    """Columns of the parts, one above the other, in the arithmetic's type: a shard's own memory where it has that."""
    if len(parts) == 1 and parts[0].weight.dtype == work.dtype:
        return parts[0].weight[:, k0:k1]
    found_NK = work.buffer("weight", sum(part.weight.shape[0] for part in parts), k1 - k0)
    end = 0
    for part in parts:
        first, end = end, end + part.weight.shape[0]
        tile_NK = found_NK[first:end]
        tile_NK.copy_(part.weight[:, k0:k1])
        if part.scale is not None:
            _scale(tile_NK, part.scale, part.weight.shape[1] // part.scale.shape[1], k0)
    return found_NK


def _scale(tile_NK: Tensor, scale_NG: Tensor, group: int, k0: int) -> None:
    """Dequantise columns from k0 on, each group of columns by its scale."""
    rows, width = tile_NK.shape
    first, last = k0 // group, (k0 + width - 1) // group
    if first == last:
        tile_NK *= scale_NG[:, first : last + 1]
    elif k0 % group == 0 and width % group == 0:
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
