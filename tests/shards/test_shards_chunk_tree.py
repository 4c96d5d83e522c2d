"""The chunk tree: what a version's holders keep, under one root."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from deepshard.chunk_tree import NO_CHUNKS, ChunkRef, ShardChunks, chunks_root, leaf_path, verify_leaf
from deepshard.encoding import encode
from deepshard.errors import MalformedMessage
from deepshard.limits import SHARD_CHUNKS_MAX
from deepshard.merkle import merkle_root
from deepshard.placement import shard_key
from deepshard.primitives import ZERO_DIGEST, content_digest
from deepshard.ranges import block_count
from deepshard.shards.layout import chunk_leaves
from deepshard.shards.manifest import Codec, Manifest, ShardEntry, TensorEntry, TensorSlice

TENSORS = (TensorEntry("w", "i8", (3, 16)),)


def entry(row: int, name: str, base: bytes = ZERO_DIGEST) -> ShardEntry:
    codec: Codec = "planes" if base == ZERO_DIGEST else "xor-planes"
    return ShardEntry((TensorSlice(0, row, 1),), 16, digest(name), codec, digest("chunk " + name), 40 + row, base)


def digest(name: str) -> bytes:
    return content_digest(name.encode())


def manifest(*shards: ShardEntry) -> Manifest:
    return Manifest(1, ZERO_DIGEST, ZERO_DIGEST, TENSORS, shards, ())


OLDEST = manifest(entry(0, "a0"), entry(1, "b0"), entry(2, "c0"))
MIDDLE = manifest(entry(0, "a1", digest("a0")), entry(1, "b1"), entry(2, "c1", digest("c0")))
NEWEST = manifest(entry(0, "a2", digest("a1")), entry(1, "b2", digest("b1")), entry(2, "c2"))


@pytest.mark.clause("11.12/1")
def test_a_leaf_names_all_chunks_that_decoding_the_shard_takes() -> None:
    leaves = chunk_leaves([NEWEST, MIDDLE, OLDEST])
    assert [leaf.position for leaf in leaves] == [0, 1, 2]
    assert [leaf.key for leaf in leaves] == [shard_key("w", row) for row in range(3)]
    names = [[ref.digest for ref in leaf.chunks] for leaf in leaves]
    assert names == [[digest(f"chunk {name}") for name in row] for row in (("a2", "a1", "a0"), ("b2", "b1"), ("c2",))]
    assert [ref.size for ref in leaves[1].chunks] == [41, 41]
    assert chunks_root(leaves) == merkle_root([encode(leaf) for leaf in leaves])


def test_without_shards_there_is_a_root_too() -> None:
    assert chunks_root(()) == NO_CHUNKS


@pytest.mark.clause("11.12/1")
def test_only_the_leaf_at_its_place_is_shown_by_its_path() -> None:
    leaves = chunk_leaves([NEWEST, MIDDLE, OLDEST])
    root = chunks_root(leaves)
    for leaf in leaves:
        verify_leaf(root, 3, leaf, leaf_path(leaves, leaf.position))
    good, path = leaves[1], leaf_path(leaves, 1)
    wrong = [
        (root, 3, replace(good, position=0), path),
        (root, 3, replace(good, position=3), path),
        (root, 3, replace(good, key=leaves[0].key), path),
        (root, 3, replace(good, chunks=good.chunks[:1]), path),
        (root, 3, good, path[:-1]),
        (root, 3, good, (*path, ZERO_DIGEST)),
        (root, 3, good, tuple(reversed(path))),
        (root, 1, good, path),
        (digest("other"), 3, good, path),
    ]
    for case in wrong:
        with pytest.raises(MalformedMessage):
            verify_leaf(*case)


@given(st.lists(st.integers(0, 70_000), min_size=1, max_size=5))
def test_every_block_of_every_chunk_is_found_once(sizes: list[int]) -> None:
    leaf = ShardChunks(0, ZERO_DIGEST, tuple(ChunkRef(digest(str(place)), size) for place, size in enumerate(sizes)))
    assert leaf.blocks == sum(max(1, -(-size // 16_384)) for size in sizes)
    found = [leaf.locate(block) for block in range(leaf.blocks)]
    assert found == [(ref, block) for ref in leaf.chunks for block in range(block_count(ref.size))]
    assert len(sizes) <= SHARD_CHUNKS_MAX
