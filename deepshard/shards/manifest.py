"""Manifests: what a version of the weights consists of, shard by shard, and how each shard is stored.

A *shard* is the unit of placement: rows of one or more tensors, or a band of their
columns, concatenated in order, `decoded_bytes` long. Its
*chunk* is the encoded form, stored and sent as it is, with a content address of its own. `weights_root` is over the
decoded bytes only, so it depends on no compressor.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from deepshard.encoding import Record
from deepshard.limits import CHUNK_BYTES_MAX, CHUNK_DECODED_BYTES_MAX, MANIFEST_SHARDS_MAX
from deepshard.primitives import Count, Digest

DType = Literal["bf16", "f16", "f32", "i8"]
Codec = Literal["planes", "xor-planes", "raw", "lora"]
DELTA_CODECS: Final[frozenset[Codec]] = frozenset({"xor-planes", "lora"})
"""Codecs whose chunks say how a shard differs from its parent's."""
# \Z, not $: the latter also matches before a trailing newline.
TensorName = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9_.\-]+\Z")]
FileName = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_\-][A-Za-z0-9_.\-]*\Z")]


class TensorEntry(Record, frozen=True):
    """A tensor of the model; a scalar has shape ()."""

    name: TensorName
    dtype: DType
    shape: tuple[Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)], ...]


class TensorSlice(Record, frozen=True):
    """Rows `row_start` to `row_start + row_count` of tensor number `tensor`, taken along its first dimension.

    Of each row the elements `column_start` to `column_start + column_count`; all of them where both are 0.
    """

    tensor: Count
    row_start: Count
    row_count: Count
    column_start: Count = 0
    column_count: Count = 0


class ShardEntry(Record, frozen=True):
    """A shard and its chunk. `base` is the decoded digest of the parent's shard for `DELTA_CODECS`, else zero.

    An entry may be the parent's own, `base` included: the same bytes, for which nothing new is stored.
    """

    slices: Annotated[tuple[TensorSlice, ...], msgspec.Meta(min_length=1)]
    decoded_bytes: Annotated[int, msgspec.Meta(ge=0, le=CHUNK_DECODED_BYTES_MAX)]
    decoded_digest: Digest
    codec: Codec
    chunk: Digest
    chunk_bytes: Annotated[int, msgspec.Meta(ge=0, le=CHUNK_BYTES_MAX)]
    base: Digest


class FileEntry(Record, frozen=True):
    """A small file of the model's directory (config, tokenizer), stored as consecutive blobs."""

    name: FileName
    size: Count
    parts: tuple[Digest, ...]


class Manifest(Record, frozen=True):
    """One version of the weights. `parent` is the content address of the manifest its deltas build on, or zero."""

    format: Annotated[int, msgspec.Meta(ge=1, le=1)]
    parent: Digest
    weights_root: Digest
    tensors: tuple[TensorEntry, ...]
    shards: Annotated[tuple[ShardEntry, ...], msgspec.Meta(max_length=MANIFEST_SHARDS_MAX)]
    files: tuple[FileEntry, ...]
