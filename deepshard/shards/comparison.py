"""What differs between two versions, by their manifests alone, and what the step between them costs."""

from __future__ import annotations

from typing import NamedTuple

from deepshard.shards.layout import ITEM_BYTES, row_elements, tensor_bytes
from deepshard.shards.manifest import Manifest, TensorEntry, TensorSlice


class ChangedTensor(NamedTuple):
    """A tensor of both versions of which some shard differs."""

    name: str
    bytes_changed: int
    """Bytes of it that lie in shards that differ: an upper bound of what differs."""
    size: int


class Comparison(NamedTuple):
    """`bytes_to_fetch` is what a holder of the old version fetches of the new: chunks of the shards that differ."""

    shards: int
    shards_changed: int
    bytes_to_fetch: int
    bytes_whole: int
    """Chunks of the new version as they are stored."""
    only_in_old: tuple[str, ...]
    only_in_new: tuple[str, ...]
    changed: tuple[ChangedTensor, ...]


def compare(old: Manifest, new: Manifest) -> Comparison:
    """Compare two checked manifests; shards count as equal where they are cut alike and decode to the same bytes."""
    before = {_cut(old, shard.slices): shard.decoded_digest for shard in old.shards}
    fetched: dict[bytes, int] = {}
    changed_shards = 0
    by_tensor: dict[int, int] = {}
    for shard in new.shards:
        if before.get(_cut(new, shard.slices)) == shard.decoded_digest:
            continue
        changed_shards += 1
        fetched[shard.chunk] = shard.chunk_bytes
        for part in shard.slices:
            by_tensor[part.tensor] = by_tensor.get(part.tensor, 0) + _slice_bytes(new.tensors[part.tensor], part)
    names_old = {tensor.name: tensor for tensor in old.tensors}
    names_new = {tensor.name for tensor in new.tensors}
    return Comparison(
        shards=len(new.shards),
        shards_changed=changed_shards,
        bytes_to_fetch=sum(fetched.values()),
        bytes_whole=sum({shard.chunk: shard.chunk_bytes for shard in new.shards}.values()),
        only_in_old=tuple(name for name in names_old if name not in names_new),
        only_in_new=tuple(tensor.name for tensor in new.tensors if tensor.name not in names_old),
        changed=tuple(
            ChangedTensor(new.tensors[number].name, size, tensor_bytes(new.tensors[number]))
            for number, size in sorted(by_tensor.items())
            if new.tensors[number].name in names_old
        ),
    )


def _cut(manifest: Manifest, slices: tuple[TensorSlice, ...]) -> tuple[tuple[TensorEntry, TensorSlice], ...]:
    """Slices by what they are of, whatever the number of their tensor."""
    return tuple((manifest.tensors[part.tensor], TensorSlice(0, *_place(part))) for part in slices)


def _place(part: TensorSlice) -> tuple[int, int, int, int]:
    return part.row_start, part.row_count, part.column_start, part.column_count


def _slice_bytes(tensor: TensorEntry, part: TensorSlice) -> int:
    return part.row_count * (part.column_count or row_elements(tensor)) * ITEM_BYTES[tensor.dtype]
