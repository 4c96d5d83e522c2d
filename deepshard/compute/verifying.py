"""Reading everything of a version back: each chunk's address, what it decodes to, and the small files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deepshard.compute.lineage import decode_in, lineage_of
from deepshard.compute.pool import cores, in_threads
from deepshard.compute.store import BlobStore
from deepshard.errors import LocalError, RemoteError
from deepshard.shards.layout import shard_name
from deepshard.shards.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Fault:
    """Something missing or damaged."""

    what: str
    reason: str


def verify_model(manifest: Manifest, store: BlobStore, on_bytes: Callable[[int, int], None]) -> list[Fault]:
    """Faults of a version, in the order of its shards; none if all of it decodes to the manifest's digests.

    With them `weights_root` is verified too: that it is the root over the digests is a rule of manifests.

    Raises:
        LocalError: the manifest of a version that deltas build on is missing or corrupt.
    """
    lineage = lineage_of(manifest, store)

    def check(number: int) -> tuple[int, str]:
        try:
            decode_in(lineage, number, store)
        except (LocalError, RemoteError) as error:
            return number, str(error)
        return number, ""

    total, done = sum(shard.decoded_bytes for shard in manifest.shards), 0
    reasons: dict[int, str] = {}
    on_bytes(0, total)
    for number, reason in in_threads(check, range(len(manifest.shards)), cores()):
        done += manifest.shards[number].decoded_bytes
        on_bytes(done, total)
        if reason:
            reasons[number] = reason
    faults = [
        Fault(shard_name(manifest.tensors, manifest.shards[number].slices), reasons[number])
        for number in sorted(reasons)
    ]
    for file in manifest.files:
        try:
            size = sum(len(store.get(part, f"part of {file.name}")) for part in file.parts)
        except LocalError as error:
            faults.append(Fault(file.name, str(error)))
            continue
        if size != file.size:
            faults.append(Fault(file.name, f"its parts are {size} bytes, the manifest says {file.size}"))
    return faults
