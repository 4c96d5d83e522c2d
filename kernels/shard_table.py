"""A weight matrix that lies in several buffers: the table of its shards, which are never concatenated.

A weight has the layout of `torch.nn.Linear`, [N, K] for `y = x W^T`: N output columns, K input columns. In the product
`x W` a shard of W's columns is a range of the N rows stored here, and a shard of its rows a range of the K columns:

    split "columns"   shard k is [N_k, K]; each yields its own columns of the result (column-parallel)
    split "rows"      shard k is [N, K_k]; the result is the sum of their products, in the table's order (row-parallel)

An int8 shard has a scale for each of its N rows, [N_k] or [N_k, 1], or one for each group of consecutive K columns,
[N_k, G]: element (n, k) stands for `shard[n, k] * scale[n, k // (K_k / G)]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Split = Literal["columns", "rows"]

FLOAT_TYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True, eq=False)
class ShardTable:
    """Shards of one weight, in order, each with its scales if it is int8.

    Attributes:
        shards: matrices of one dtype on one device; a shard may be empty along the split.
        split: the side along which the weight is cut; see the module.
        scales: one float32 tensor for each int8 shard, [N_k] or [N_k, G]; none for other dtypes.
        starts: where each shard begins along the split, if known: then gaps, overlaps and a wrong order are refused.
        size: the weight's whole length along the split, if known: then a missing last shard is refused.

    Raises:
        ValueError: the shards don't make one weight; the message names the shard, its form and what was expected.
    """

    shards: tuple[Tensor, ...]
    split: Split = "columns"
    scales: tuple[Tensor, ...] = ()
    starts: tuple[int, ...] | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        if self.split not in {"columns", "rows"}:
            raise ValueError(f"split must be 'columns' or 'rows', got {self.split!r}")
        if not self.shards:
            raise ValueError("shards must hold at least one shard")
        first = self.shards[0]
        for number, shard in enumerate(self.shards):
            if shard.dim() != 2 or shard.dtype not in {*FLOAT_TYPES, torch.float64, torch.int8}:
                raise ValueError(f"shard {number} must be a matrix of a float type or int8, got {form(shard)}")
            other = 1 - self.axis
            if shard.shape[other] != first.shape[other]:
                expected = f"[N_k, {first.shape[1]}]" if other else f"[{first.shape[0]}, K_k]"
                raise ValueError(f"shard {number} must be {expected} like shard 0, got {form(shard)}")
            if shard.dtype != first.dtype:
                raise ValueError(f"shard {number} must be {first.dtype} like shard 0, got {form(shard)}")
            if shard.device != first.device:
                raise ValueError(f"shard {number} is on {shard.device}, shard 0 on {first.device}")
        self._check_scales()
        self._check_places()

    @classmethod
    def cut(cls, weight_NK: Tensor, sizes: Sequence[int], split: Split = "columns") -> ShardTable:
        """Views of a weight in pieces of the given sizes along the split."""
        return cls(torch.split(weight_NK, list(sizes), 0 if split == "columns" else 1), split, size=sum(sizes))

    @property
    def axis(self) -> int:
        """The dimension of a shard along which the weight is cut."""
        return 0 if self.split == "columns" else 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """Length of each shard along the split."""
        return tuple(shard.shape[self.axis] for shard in self.shards)

    @property
    def out_features(self) -> int:
        """N, the columns of the result."""
        return sum(self.sizes) if self.axis == 0 else self.shards[0].shape[0]

    @property
    def in_features(self) -> int:
        """K, the columns of the input."""
        return sum(self.sizes) if self.axis == 1 else self.shards[0].shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the shards' elements."""
        return self.shards[0].dtype

    @property
    def device(self) -> torch.device:
        """Device of the shards."""
        return self.shards[0].device

    def _check_scales(self) -> None:
        wanted = len(self.shards) if self.dtype == torch.int8 else 0
        if len(self.scales) != wanted:
            raise ValueError(f"scales must hold {wanted} tensors for {self.dtype} shards, got {len(self.scales)}")
        for number, (shard, scale) in enumerate(zip(self.shards, self.scales, strict=False)):
            rows, columns = shard.shape
            groups = scale.shape[1] if scale.dim() == 2 else 1
            if (
                scale.dtype != torch.float32
                or scale.dim() not in {1, 2}
                or scale.shape[0] != rows
                or groups == 0
                or columns % groups
            ):
                raise ValueError(
                    f"scale {number} must be float32 [{rows}] or [{rows}, G] with G a divisor of {columns},"
                    f" got {form(scale)}"
                )
            if scale.device != shard.device:
                raise ValueError(f"scale {number} is on {scale.device}, its shard on {shard.device}")

    def _check_places(self) -> None:
        sizes = self.sizes
        if self.starts is not None:
            if len(self.starts) != len(sizes):
                raise ValueError(f"starts must name {len(sizes)} places, one for each shard, got {len(self.starts)}")
            ends = [0, *(start + size for start, size in zip(self.starts, sizes, strict=True))]
            for number, (start, expected) in enumerate(zip(self.starts, ends, strict=False)):
                if start != expected:
                    fault = "overlaps the one before it" if start < expected else "leaves a gap: a shard is missing"
                    raise ValueError(f"shard {number} starts at {start}, expected {expected}; it {fault}")
        if self.size is not None and sum(sizes) != self.size:
            raise ValueError(
                f"shards hold {sum(sizes)} {self.split}, expected {self.size}: a shard is missing or double"
            )


def quantised(table: ShardTable, group: int | None = None) -> ShardTable:
    """The table in int8: each row, or each group of that many K columns, scaled so that its largest value is 127.

    Raises:
        ValueError: the group doesn't divide a shard's K columns.
    """
    shards, scales = [], []
    for number, shard_NK in enumerate(table.shards):
        rows, columns = shard_NK.shape
        width = group or max(columns, 1)
        if columns % width:
            raise ValueError(f"group must divide the {columns} columns of shard {number}, got {group}")
        groups_NGW = shard_NK.float().reshape(rows, columns // width if columns else 1, width if columns else 0)
        largest_NG = groups_NGW.abs().amax(2) if columns else shard_NK.new_zeros(rows, 1, dtype=torch.float32)
        scale_NG = (largest_NG / 127.0).clamp_(min=torch.finfo(torch.float32).tiny)
        rounded_NGW = (groups_NGW / scale_NG[:, :, None]).round_().clamp_(-127, 127)
        shards.append(rounded_NGW.to(torch.int8).reshape(rows, columns))
        scales.append(scale_NG)
    return ShardTable(tuple(shards), table.split, tuple(scales), table.starts, table.size)


def bounds(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """First and end of each piece, for pieces of these sizes one after another."""
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + size)
    return list(pairwise(ends))


def form(tensor: Tensor) -> str:
    """Dtype and shape, for a message."""
    return f"{tensor.dtype} {list(tensor.shape)}"
