"""What a version's holders keep, committed to by one root: so that the ledger can ask for any block of it.

Leaf number i of the tree names everything that a holder of shard i keeps for the version: the shard's own chunk and,
where that is a delta, the chunks it rests on, down to one that is none (protocol-spec, chapter 11.13). The manifests
are too large for a state; root and number of leaves are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from deepshard.encoding import Record, encode
from deepshard.errors import MalformedMessage
from deepshard.limits import CHUNK_BYTES_MAX, MANIFEST_SHARDS_MAX, SHARD_CHUNKS_MAX
from deepshard.merkle import EMPTY_ROOT, MerkleProof, merkle_prove, merkle_root, merkle_verify
from deepshard.primitives import Count, Digest
from deepshard.ranges import block_count

ShardCount = Annotated[int, msgspec.Meta(ge=0, le=MANIFEST_SHARDS_MAX)]
NO_CHUNKS: Final = EMPTY_ROOT
"""Root of a version without shards."""
MerklePath = Annotated[tuple[Digest, ...], msgspec.Meta(max_length=32)]


class ChunkRef(Record, frozen=True):
    """A chunk's content address and size."""

    digest: Digest
    size: Annotated[int, msgspec.Meta(ge=0, le=CHUNK_BYTES_MAX)]


class ShardChunks(Record, frozen=True):
    """Leaf number `position`: the shard's key in placement, and the chunks it takes to decode it, its own first."""

    position: Count
    key: Digest
    chunks: Annotated[tuple[ChunkRef, ...], msgspec.Meta(min_length=1, max_length=SHARD_CHUNKS_MAX)]

    @property
    def blocks(self) -> int:
        """Blocks of 16 KiB of all its chunks, at least one for each."""
        return sum(block_count(chunk.size) for chunk in self.chunks)

    def locate(self, block: int) -> tuple[ChunkRef, int]:
        """The chunk that has block number `block` of all, and the block's number in it; `block` is below `blocks`."""
        for chunk in self.chunks:
            count = block_count(chunk.size)
            if block < count:
                return chunk, block
            block -= count
        raise AssertionError("no such block")


def chunks_root(leaves: Sequence[ShardChunks]) -> bytes:
    """Root over the leaves of a version, in the order of its shards."""
    return merkle_root([encode(leaf) for leaf in leaves])


def leaf_path(leaves: Sequence[ShardChunks], position: int) -> tuple[bytes, ...]:
    """Siblings of a leaf, from the leaf upwards."""
    return merkle_prove([encode(leaf) for leaf in leaves], position).siblings


def verify_leaf(root: bytes, shard_count: int, leaf: ShardChunks, path: Sequence[bytes]) -> None:
    """Check that `leaf` is the one of its position among `shard_count` under `root`.

    Raises:
        MalformedMessage: it isn't.
    """
    if leaf.position >= shard_count:
        raise MalformedMessage(f"leaf of shard {leaf.position}, there are {shard_count}")
    merkle_verify(root, encode(leaf), MerkleProof(leaf.position, shard_count, tuple(path)), leaf_count=shard_count)
