"""What a download does on disk: find what is missing, verify what came, keep it; `ChunkStore.sync` comes at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog

from deepshard.disk.chunks import ChunkStore
from deepshard.disk.partials import PartialState
from deepshard.errors import DiskCorruption, MalformedMessage
from deepshard.limits import RANGE_BLOCKS_MAX
from deepshard.primitives import CONTENT_BLOCK_BYTES, content_digest
from deepshard.ranges import block_count, range_bytes, verify_leaves, verify_range
from deepshard.services.shards_requests import BlobAnswer, RangeAnswer
from deepshard.shards.errors import CorruptChunk
from deepshard.shards.swarm import Part

_log = structlog.get_logger(__name__)
_WHOLE_BYTES_MAX = RANGE_BLOCKS_MAX * CONTENT_BLOCK_BYTES


@dataclass(slots=True)
class Missing:
    """What a download has to ask for: the parts of each blob, and the blobs of which some blocks are there already."""

    parts: dict[bytes, list[Part]] = field(default_factory=dict)
    begun: set[bytes] = field(default_factory=set)
    resumed_bytes: int = 0


def find_missing(store: ChunkStore, wanted: Mapping[bytes, int | None]) -> Missing:
    """What isn't in the store of the blobs `wanted`, content address to size or None.

    A blob that is known to be larger than one range, or of which something is there, is asked for in ranges. How many
    blocks it has is known for certain only when one of its ranges is verified, so the first range comes first.

    Raises:
        LocalError: the disk refused.
    """
    missing = Missing()
    for digest, size in wanted.items():
        if store.has(digest):
            continue
        state = _resumable(store, digest)
        if state is None:
            is_large = size is not None and size > _WHOLE_BYTES_MAX
            missing.parts[digest] = [Part(digest, 0, RANGE_BLOCKS_MAX) if is_large else Part(digest)]
        elif not state.is_complete:
            missing.parts[digest] = parts_of(digest, state)
            missing.begun.add(digest)
            missing.resumed_bytes += state.held_bytes
    return missing


def _resumable(store: ChunkStore, digest: bytes) -> PartialState | None:
    try:
        return store.partial(digest)
    except DiskCorruption as error:
        _log.warning("partial.corrupt", digest=digest.hex(), error=str(error))
        return None


def parts_of(digest: bytes, state: PartialState) -> list[Part]:
    """What is still to be asked for of a blob."""
    return [Part(digest, first, count) for first, count in state.missing()]


def keep_blob(store: ChunkStore, digest: bytes, answer: BlobAnswer) -> None:
    """Verify a blob and store it.

    Raises:
        CorruptChunk: it is another.
        LocalError: the disk refused.
    """
    # What the link has verified isn't hashed again.
    address = answer.address or content_digest(answer.data)
    if address != digest:
        raise CorruptChunk(digest.hex()[:16], f"{len(answer.data)} bytes are not the blob {digest.hex()}")
    store.put(answer.data, digest=digest, sync_folder=False)


def keep_range(store: ChunkStore, part: Part, answer: RangeAnswer) -> PartialState:
    """Verify the blocks of an answer and keep them; says what is there of the blob now.

    Raises:
        MalformedMessage: there are more or fewer blocks, or hashes in the proof, than there must be.
        CorruptRange: they aren't of this blob.
        DiskCorruption: the blob was complete, and the disk had changed it: it has to be fetched again.
        LocalError: the disk refused.
    """
    size, first = answer.size, part.first
    count = min(part.blocks, block_count(size) - first)
    if answer.leaves and count > 0:
        if len(answer.data) != range_bytes(size, first, count):
            raise MalformedMessage(f"range of {len(answer.data)} bytes, not blocks {first} to {first + count - 1}")
        verify_leaves(part.digest, size=size, first=first, leaves=answer.leaves, proof=answer.proof)
    else:
        verify_range(part.digest, size=size, first=first, count=count, data=answer.data, proof=answer.proof)
    return store.put_range(part.digest, answer.data, size=size, first=first, sync_folder=False)
