"""Sizes and names of tensors, slices and shards: the arithmetic that every other part of this room shares.

The rows of a tensor are its first dimension; a scalar is one row. A tensor without elements is still one slice of a
shard, so that every tensor of the table appears in the shards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from deepshard.chunk_tree import ChunkRef, ShardChunks
from deepshard.limits import CHUNK_DECODED_BYTES_MAX, FILE_PART_BYTES_MAX
from deepshard.placement import shard_key
from deepshard.primitives import ZERO_DIGEST
from deepshard.shards.errors import BadCoverage, WrongShardSize
from deepshard.shards.manifest import DType, Manifest, ShardEntry, TensorEntry, TensorSlice

ITEM_BYTES: Final[dict[DType, int]] = {"bf16": 2, "f16": 2, "f32": 4, "i8": 1}
"""Bytes of one element, stored little-endian; the order of the keys is the order of dtypes inside a chunk."""


def tensor_rows(tensor: TensorEntry) -> int:
    """Number of rows: the first dimension, or 1 for a scalar."""
    return tensor.shape[0] if tensor.shape else 1


def row_elements(tensor: TensorEntry) -> int:
    """Elements of one row, its columns: the product of the other dimensions."""
    return math.prod(tensor.shape[1:])


def row_bytes(tensor: TensorEntry) -> int:
    """Bytes of one row."""
    return ITEM_BYTES[tensor.dtype] * row_elements(tensor)


def tensor_bytes(tensor: TensorEntry) -> int:
    """Bytes of the whole tensor."""
    return tensor_rows(tensor) * row_bytes(tensor)


def slice_spans(tensors: Sequence[TensorEntry], slices: Sequence[TensorSlice]) -> list[tuple[DType, int]]:
    """Dtype and length in bytes of each slice, in the order in which the decoded shard concatenates them.

    Raises:
        BadCoverage: a slice names a tensor, rows or columns that don't exist, or all columns as a band of them.
        WrongShardSize: the slices come to more than `CHUNK_DECODED_BYTES_MAX`; nothing of that size was allocated.
    """
    spans: list[tuple[DType, int]] = []
    total = 0
    for part in slices:
        if part.tensor >= len(tensors):
            raise BadCoverage(f"a slice names tensor {part.tensor} of {len(tensors)}")
        tensor = tensors[part.tensor]
        row_end = part.row_start + part.row_count
        if row_end > tensor_rows(tensor):
            raise BadCoverage(f"a slice ends at row {row_end} of {tensor.name}, which has {tensor_rows(tensor)}")
        column_end = part.column_start + part.column_count
        is_whole = part.column_count == 0
        if column_end > row_elements(tensor) or (column_end if is_whole else part.column_count == row_elements(tensor)):
            raise BadCoverage(
                f"a slice holds columns {part.column_start} to {column_end} of {tensor.name},"
                f" which has {row_elements(tensor)}"
            )
        size = part.row_count * (row_bytes(tensor) if is_whole else part.column_count * ITEM_BYTES[tensor.dtype])
        total += size
        if total > CHUNK_DECODED_BYTES_MAX:
            raise WrongShardSize(
                f"shard {shard_name(tensors, slices)} is more than {CHUNK_DECODED_BYTES_MAX} bytes decoded"
            )
        spans.append((tensor.dtype, size))
    return spans


def shard_name(tensors: Sequence[TensorEntry], slices: Sequence[TensorSlice]) -> str:
    """Name of a shard for people: its first tensor's rows, and how many more slices there are."""
    first = slices[0] if slices else None
    if first is None or first.tensor >= len(tensors):
        return "(unknown)"
    more = f" and {len(slices) - 1} more" if len(slices) > 1 else ""
    columns = f", {first.column_start}:{first.column_start + first.column_count}" if first.column_count else ""
    return f"{tensors[first.tensor].name}[{first.row_start}:{first.row_start + first.row_count}{columns}]{more}"


def file_part_count(size: int) -> int:
    """Number of blobs a file of `size` bytes is stored as: full parts of `FILE_PART_BYTES_MAX`, then the rest."""
    return -(-size // FILE_PART_BYTES_MAX)


def split_file(data: bytes) -> list[bytes]:
    """Cut a small file into the blobs that its `FileEntry.parts` address; none for an empty file."""
    return [data[start : start + FILE_PART_BYTES_MAX] for start in range(0, len(data), FILE_PART_BYTES_MAX)]


def shard_identity(manifest: Manifest, index: int) -> bytes:
    """Key of shard number `index` of a checked manifest."""
    first = manifest.shards[index].slices[0]
    return shard_key(manifest.tensors[first.tensor].name, first.row_start, first.column_start)


def shard_keys(manifest: Manifest) -> list[bytes]:
    """Keys of all shards of a checked manifest, in their order."""
    return [shard_identity(manifest, index) for index in range(len(manifest.shards))]


def shard_lineage(lineage: Sequence[Manifest], index: int) -> list[ShardEntry]:
    """The entries it takes to decode shard number `index` of `lineage[0]`: its own, and those its delta rests on.

    `lineage` goes from a checked manifest to its parent and on, as far as deltas reach.
    """
    entries: list[ShardEntry] = []
    for manifest in lineage:
        if not entries or entries[-1] != manifest.shards[index]:  # else the child has kept its parent's entry
            entries.append(manifest.shards[index])
        if manifest.shards[index].base == ZERO_DIGEST:
            break
    return entries


def chunk_leaves(lineage: Sequence[Manifest]) -> tuple[ShardChunks, ...]:
    """Leaves of the chunk tree of `lineage[0]`: by shard its key, and all chunks that its holders keep for it."""
    return tuple(
        ShardChunks(
            index,
            shard_identity(lineage[0], index),
            tuple(ChunkRef(entry.chunk, entry.chunk_bytes) for entry in shard_lineage(lineage, index)),
        )
        for index in range(len(lineage[0].shards))
    )
