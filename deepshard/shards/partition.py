"""Cutting a model into shards: large tensors by rows, small neighbours together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from deepshard.errors import LocalError
from deepshard.limits import CHUNK_DECODED_BYTES_MAX, CHUNK_DECODED_BYTES_TARGET, SHARD_SLICES_MAX
from deepshard.shards.layout import row_bytes, tensor_bytes, tensor_rows
from deepshard.shards.manifest import TensorEntry, TensorSlice

SHARDS_MIN = 16
"""So many shards at least, where the tensors allow it, so that a small model too is spread over several holders."""


def plan_shards(tensors: Sequence[TensorEntry]) -> list[tuple[TensorSlice, ...]]:
    """Slices of each shard, covering every row of every tensor once and in order.

    The target is `CHUNK_DECODED_BYTES_TARGET`, less where the model would make fewer than `SHARDS_MIN` shards of it.
    A tensor above the target is cut into row ranges of near-equal length, each a shard of its own; smaller tensors are
    grouped with their neighbours up to the target. The plan depends on the tensor table alone, so
    that a child version has its parent's shards.

    Raises:
        LocalError: one row is larger than `CHUNK_DECODED_BYTES_MAX`.
    """
    target = min(CHUNK_DECODED_BYTES_TARGET, max(1, sum(map(tensor_bytes, tensors)) // SHARDS_MIN))
    shards: list[tuple[TensorSlice, ...]] = []
    group: list[TensorSlice] = []
    group_bytes = 0
    for number, tensor in enumerate(tensors):
        size = tensor_bytes(tensor)
        is_large = size > target
        if group and (group_bytes + size > target or len(group) == SHARD_SLICES_MAX):
            shards.append(tuple(group))
            group, group_bytes = [], 0
        if is_large:
            shards.extend((piece,) for piece in _split_rows(number, tensor, target))
        else:
            group.append(TensorSlice(number, 0, tensor_rows(tensor)))
            group_bytes += size
    if group:
        shards.append(tuple(group))
    return shards


def _split_rows(number: int, tensor: TensorEntry, target: int) -> list[TensorSlice]:
    width = row_bytes(tensor)
    if width > CHUNK_DECODED_BYTES_MAX:
        raise LocalError(
            f"cannot cut {tensor.name} of shape {tensor.shape} into shards: one row is {width} bytes, a shard holds at"
            f" most {CHUNK_DECODED_BYTES_MAX}; reshape it so that its first dimension is larger"
        )
    rows = tensor_rows(tensor)
    pieces = -(-rows // max(1, target // width))
    # Near-equal pieces rather than full ones and a remnant: even shards place and transfer evenly.
    bounds = [rows * piece // pieces for piece in range(pieces + 1)]
    return [TensorSlice(number, start, stop - start) for start, stop in pairwise(bounds)]
