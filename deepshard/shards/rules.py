"""The rules a manifest must keep before anything it names is fetched, placed or decoded."""

from __future__ import annotations

from collections.abc import Sequence

from deepshard.encoding import decode, encode
from deepshard.errors import MalformedMessage, OversizedMessage
from deepshard.limits import MANIFEST_BYTES_MAX, MANIFEST_FILES_MAX, SHARD_SLICES_MAX, TENSOR_DIMENSIONS_MAX
from deepshard.merkle import merkle_root
from deepshard.primitives import ZERO_DIGEST, content_digest
from deepshard.shards.errors import (
    BadCoverage,
    DuplicateName,
    InconsistentBase,
    ManifestOutOfBounds,
    WrongFileParts,
    WrongShardSize,
    WrongWeightsRoot,
)
from deepshard.shards.layout import file_part_count, row_elements, shard_name, slice_spans, tensor_rows
from deepshard.shards.manifest import DELTA_CODECS, Manifest, ShardEntry, TensorEntry, TensorSlice


def weights_root(tensors: Sequence[TensorEntry], shards: Sequence[ShardEntry]) -> bytes:
    """Merkle root over the decoded weights: leaf 0 is the encoded tensor table, leaf i + 1 shard i's decoded digest.

    It doesn't depend on codecs, bases or compressors: two manifests of the same weights, cut alike, share it.
    """
    return merkle_root([encode(tuple(tensors)), *(shard.decoded_digest for shard in shards)])


def manifest_digest(manifest: Manifest) -> bytes:
    """Content address of the encoded manifest, the blob that nodes fetch it by."""
    return content_digest(encode(manifest))


def decode_manifest(data: bytes) -> Manifest:
    """Decode a manifest blob and check it.

    Raises:
        RemoteError: not a canonical manifest (`MalformedMessage`, `OversizedMessage`), or one that breaks a rule
            (`InvalidManifest`).
    """
    manifest = decode(data, Manifest, bytes_max=MANIFEST_BYTES_MAX)
    _check_content(manifest)
    return manifest


def check_manifest(manifest: Manifest) -> None:
    """Check every rule that a manifest can be held to on its own.

    Raises:
        InvalidManifest: the first rule it breaks, as one of the subclasses in `deepshard.shards.errors`.
    """
    try:
        # Bounds of single fields are enforced where a value is decoded; one built in memory hasn't met them yet.
        decode(encode(manifest), Manifest, bytes_max=MANIFEST_BYTES_MAX)
    except (MalformedMessage, OversizedMessage) as error:
        raise ManifestOutOfBounds(f"manifest cannot be encoded: {error}") from None
    _check_content(manifest)


def check_child(manifest: Manifest, parent: Manifest) -> None:
    """Check a manifest that was checked on its own against the one its deltas build on.

    Raises:
        InconsistentBase: another parent, other tensors, files or slices, or a base that isn't the parent's shard.
    """
    expected = manifest_digest(parent)
    if manifest.parent != expected:
        raise InconsistentBase(f"manifest names parent {manifest.parent.hex()}, expected {expected.hex()}")
    if manifest.tensors != parent.tensors:
        raise InconsistentBase("manifest and parent have different tensors")
    if manifest.files != parent.files:
        # Scores are taken with the parent's configuration and tokenizer: another one would come in unjudged.
        raise InconsistentBase("manifest and parent have different configuration or tokenizer files")
    if len(manifest.shards) != len(parent.shards):
        raise InconsistentBase(f"manifest has {len(manifest.shards)} shards, its parent {len(parent.shards)}")
    for number, (shard, old) in enumerate(zip(manifest.shards, parent.shards, strict=True)):
        if shard.slices != old.slices:
            raise InconsistentBase(f"shard {number} is cut differently from the parent's")
        if shard.base not in {ZERO_DIGEST, old.decoded_digest} and shard != old:
            name = shard_name(manifest.tensors, shard.slices)
            raise InconsistentBase(
                f"shard {number}, {name}, builds on {shard.base.hex()}, the parent's is {old.decoded_digest.hex()}"
            )


def _check_content(manifest: Manifest) -> None:
    _check_tensors(manifest.tensors)
    for number, shard in enumerate(manifest.shards):
        _check_shard(number, shard, manifest)
    _check_coverage(manifest)
    _check_files(manifest)
    root = weights_root(manifest.tensors, manifest.shards)
    if manifest.weights_root != root:
        raise WrongWeightsRoot(f"manifest declares weights root {manifest.weights_root.hex()}, it is {root.hex()}")


def _check_tensors(tensors: Sequence[TensorEntry]) -> None:
    names: set[str] = set()
    for tensor in tensors:
        if len(tensor.shape) > TENSOR_DIMENSIONS_MAX:
            raise ManifestOutOfBounds(
                f"tensor {tensor.name} has {len(tensor.shape)} dimensions, the limit is {TENSOR_DIMENSIONS_MAX}"
            )
        if tensor.name in names:
            raise DuplicateName(f"two tensors are called {tensor.name}")
        names.add(tensor.name)


def _check_shard(number: int, shard: ShardEntry, manifest: Manifest) -> None:
    if len(shard.slices) > SHARD_SLICES_MAX:
        raise ManifestOutOfBounds(f"shard {number} has {len(shard.slices)} slices, the limit is {SHARD_SLICES_MAX}")
    size = sum(span for _, span in slice_spans(manifest.tensors, shard.slices))
    if shard.decoded_bytes != size:
        raise WrongShardSize(f"shard {number} declares {shard.decoded_bytes} bytes, its slices are {size}")
    is_delta = shard.codec in DELTA_CODECS
    if is_delta != (shard.base != ZERO_DIGEST):
        raise InconsistentBase(f"shard {number} has codec {shard.codec} and base {shard.base.hex()}")
    if is_delta and manifest.parent == ZERO_DIGEST:
        raise InconsistentBase(f"shard {number} builds on a base, but the manifest has no parent")
    if shard.codec == "raw" and (shard.chunk, shard.chunk_bytes) != (shard.decoded_digest, shard.decoded_bytes):
        raise WrongShardSize(f"shard {number} is stored raw, but its chunk isn't its decoded bytes")


def _check_coverage(manifest: Manifest) -> None:
    expected = TensorSlice(0, 0, 0)  # where the next slice has to start, and how wide its band is
    for number, shard in enumerate(manifest.shards):
        for part in shard.slices:
            place = (part.tensor, part.column_start, part.row_start)
            if place != (expected.tensor, expected.column_start, expected.row_start):
                raise BadCoverage(f"shard {number} holds {_start_of(part)}, expected {_start_of(expected)}")
            if part.row_start and part.column_count != expected.column_count:
                raise BadCoverage(
                    f"shard {number} holds {part.column_count} columns of tensor {part.tensor} from row"
                    f" {part.row_start}, the rows above have {expected.column_count}"
                )
            tensor = manifest.tensors[part.tensor]
            rows = tensor_rows(tensor)
            if part.row_count == 0 and (rows > 0 or part.column_count > 0):
                raise BadCoverage(f"shard {number} holds no rows of tensor {part.tensor}, which has {rows}")
            expected = _next_slice(part, rows, row_elements(tensor))
    if expected.tensor != len(manifest.tensors):
        raise BadCoverage(
            f"shards end before row {expected.row_start} of tensor {expected.tensor},"
            f" the manifest has {len(manifest.tensors)} tensors"
        )


def _start_of(part: TensorSlice) -> str:
    column = f", column {part.column_start}" if part.column_start else ""
    return f"tensor {part.tensor} from row {part.row_start}{column}"


def _next_slice(part: TensorSlice, rows: int, columns: int) -> TensorSlice:
    row_end, column_end = part.row_start + part.row_count, part.column_start + part.column_count
    if row_end < rows:
        return TensorSlice(part.tensor, row_end, 0, part.column_start, part.column_count)
    if part.column_count and column_end < columns:
        return TensorSlice(part.tensor, 0, 0, column_end)
    return TensorSlice(part.tensor + 1, 0, 0)


def _check_files(manifest: Manifest) -> None:
    if len(manifest.files) > MANIFEST_FILES_MAX:
        raise ManifestOutOfBounds(f"manifest has {len(manifest.files)} files, the limit is {MANIFEST_FILES_MAX}")
    names: set[str] = set()
    for file in manifest.files:
        # Some file systems don't tell upper from lower case.
        if file.name.lower() in names:
            raise DuplicateName(f"two files are called {file.name}")
        names.add(file.name.lower())
        if len(file.parts) != file_part_count(file.size):
            raise WrongFileParts(
                f"file {file.name} of {file.size} bytes has {len(file.parts)} parts,"
                f" expected {file_part_count(file.size)}"
            )
