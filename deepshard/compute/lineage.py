"""Decoded shards of a version: its own chunks, and those of the versions that its deltas build on. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from deepshard.compute.store import BlobStore
from deepshard.errors import LocalError
from deepshard.limits import SHARD_CHUNKS_MAX
from deepshard.primitives import ZERO_DIGEST
from deepshard.shards.codec import Buffer, decode_and_verify
from deepshard.shards.manifest import Manifest, ShardEntry
from deepshard.shards.rules import check_child, decode_manifest, manifest_digest

DELTA_CHAIN_MAX: Final = SHARD_CHUNKS_MAX - 1
"""Versions that deltas may be stacked before a version is stored whole; reading costs one decode of a shard for
each."""


class BadDeltaChain(LocalError):
    """More deltas on top of each other than are ever written."""


def lineage_of(manifest: Manifest, store: BlobStore, known: Manifest | None = None) -> list[Manifest]:
    """The manifest and the ancestors whose chunks it needs, newest first; `known`, being decoded, may be the last.

    Raises:
        LocalError: an ancestor's manifest is missing or corrupt, or there are too many.
        RemoteError: a manifest doesn't fit the one it builds on.
    """
    chain = [manifest]
    while any(shard.base != ZERO_DIGEST for shard in chain[-1].shards):
        if known is not None and chain[-1].parent == manifest_digest(known):
            check_child(chain[-1], known)
            chain.append(known)
            break
        if len(chain) > DELTA_CHAIN_MAX:
            raise BadDeltaChain(f"deltas are stacked more than {DELTA_CHAIN_MAX} versions high")
        parent = decode_manifest(store.get(chain[-1].parent, "parent manifest"))
        check_child(chain[-1], parent)
        chain.append(parent)
    return chain


def decode_in(
    lineage: Sequence[Manifest], number: int, store: BlobStore, known: Callable[[int], Buffer] | None = None
) -> Buffer:
    """Decoded bytes of shard `number` of `lineage[0]`, verified.

    Args:
        known: gives decoded shards of the last version of the lineage, whose chunks aren't read then.

    Raises:
        LocalError: a chunk is missing or corrupt on disk.
        RemoteError: a chunk of the right address isn't an encoding of its shard.
    """
    steps: list[ShardEntry] = []
    decoded: Buffer | None = None
    for manifest in lineage:
        shard = manifest.shards[number]
        if steps and steps[-1] == shard:
            steps.pop()  # the child has kept its parent's entry: the same bytes, decoded where they were first made
        if known is not None and manifest is lineage[-1]:
            decoded = known(number)
            break
        steps.append(shard)
        if shard.base == ZERO_DIGEST:
            break
    for shard in reversed(steps):
        chunk = store.get(shard.chunk, f"chunk of shard {number}")
        decoded = decode_and_verify(shard, lineage[0].tensors, chunk, decoded)
    assert decoded is not None
    return decoded
