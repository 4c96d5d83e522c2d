"""Cutting a model into shards: large tensors by rows or columns, small neighbours of one layer together.

A rank of a tensor-parallel job holds some rows of a matrix whose outputs are split over ranks (queries, keys, values,
the two halves of a gated unit, the embedding), and some columns of one whose inputs are, the projections that follow
them (Megatron-LM, arXiv 1909.08053, section 3). Matrices are cut along the same lines, and in multiples of eight, so
that a rank's part is whole shards. No shard holds tensors of two layers, so that a stage of a pipeline, or a scorer
that streams layers, fetches nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from deepshard.limits import CHUNK_DECODED_BYTES_MAX, CHUNK_DECODED_BYTES_TARGET, SHARD_SLICES_MAX
from deepshard.shards.layout import ITEM_BYTES, row_bytes, row_elements, tensor_bytes, tensor_rows
from deepshard.shards.manifest import TensorEntry, TensorSlice

SHARDS_MIN: Final = 16
"""So many shards at least, where the tensors allow it, so that a small model too is spread over several holders."""
RANKS: Final = 8
"""Cuts of a matrix fall on the bounds of the parts of so many ranks, where there are so many cuts."""
_LAYER: Final = re.compile(r"(?:^|.*?\.)(\d+)(?:\.|$)")
_INPUT_SPLIT: Final = re.compile(
    r"(?:^|\.)(?:o_proj|down_proj|out_proj|wo|w2|fc2|fc_out|dense_4h_to_h|(?:self_)?attention\.dense)\.weight$"
)


def layer_of(name: str) -> int | None:
    """Number of the layer that a tensor belongs to: the first number in its name; None for one outside of layers."""
    found = _LAYER.match(name)
    return int(found[1]) if found else None


def is_input_split(tensor: TensorEntry) -> bool:
    """Whether ranks of a tensor-parallel job hold columns of this matrix, by its name, and not rows."""
    return len(tensor.shape) == 2 and _INPUT_SPLIT.search(tensor.name) is not None


def plan_shards(tensors: Sequence[TensorEntry]) -> list[tuple[TensorSlice, ...]]:
    """Slices of each shard, covering every element of every tensor once and in order.

    The target is `CHUNK_DECODED_BYTES_TARGET`, less where the model would make fewer than `SHARDS_MIN` shards of it. A
    tensor above the target is cut into parts of near-equal size, each a shard of its own; smaller ones are grouped with
    their neighbours of the same layer up to the target. The plan depends on the tensor table alone, so that a child
    version has its parent's shards.
    """
    target = min(CHUNK_DECODED_BYTES_TARGET, max(1, sum(map(tensor_bytes, tensors)) // SHARDS_MIN))
    shards: list[tuple[TensorSlice, ...]] = []
    group: list[TensorSlice] = []
    group_bytes = 0
    group_layer: int | None = None
    for number, tensor in enumerate(tensors):
        size, layer = tensor_bytes(tensor), layer_of(tensor.name)
        is_full = group_bytes + size > target or len(group) == SHARD_SLICES_MAX
        if group and (is_full or layer != group_layer):
            shards.append(tuple(group))
            group, group_bytes = [], 0
        if size > target:
            shards.extend((piece,) for piece in _cut(number, tensor, target))
        else:
            group.append(TensorSlice(number, 0, tensor_rows(tensor)))
            group_bytes, group_layer = group_bytes + size, layer
    if group:
        shards.append(tuple(group))
    return shards


def _cut(number: int, tensor: TensorEntry, target: int) -> list[TensorSlice]:
    rows, columns, width = tensor_rows(tensor), row_elements(tensor), row_bytes(tensor)
    pieces = _even(-(-rows * width // target))
    bands = -(-width // target) if width > CHUNK_DECODED_BYTES_MAX else 1
    if is_input_split(tensor):
        bands = max(bands, min(pieces, RANKS, columns))
    band_bytes = -(-columns // bands) * ITEM_BYTES[tensor.dtype]
    ranges = -(-rows // max(1, target // band_bytes))
    ranges = min(rows, _even(ranges) if bands == 1 else ranges)
    slices: list[TensorSlice] = []
    for left, right in pairwise(_bounds(columns, bands)):
        band = (left, right - left) if bands > 1 else (0, 0)
        # Near-equal pieces rather than full ones and a remnant: even shards place and transfer evenly.
        slices += (TensorSlice(number, top, end - top, *band) for top, end in pairwise(_bounds(rows, ranges)))
    return slices


def _even(pieces: int) -> int:
    """The next number of pieces that falls on the ranks' bounds; two stay two, for the sake of small models."""
    return pieces if pieces <= 2 else -(-pieces // RANKS) * RANKS


def _bounds(length: int, pieces: int) -> list[int]:
    return [length * piece // pieces for piece in range(pieces + 1)]
