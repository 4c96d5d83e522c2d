"""Weights between memory and chunks: a state dict of tensors as stored, and the manifest that describes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
import torch
from torch import Tensor

from deepshard.compute.jobs import ModelRef, Progress
from deepshard.compute.lineage import DELTA_CHAIN_MAX, decode_in, lineage_of
from deepshard.compute.store import BlobStore
from deepshard.encoding import encode
from deepshard.errors import LocalError
from deepshard.limits import CHUNK_DECODED_BYTES_MAX
from deepshard.primitives import ZERO_DIGEST
from deepshard.shards.codec import encode_entry, encode_lora_entry
from deepshard.shards.factors import Factors, factor_bytes, merge
from deepshard.shards.layout import row_elements, split_file, tensor_rows
from deepshard.shards.manifest import DType, FileEntry, Manifest, ShardEntry, TensorEntry, TensorSlice
from deepshard.shards.partition import plan_shards
from deepshard.shards.rules import check_manifest, decode_manifest, manifest_digest, weights_root

Report = Callable[[Progress], None]

_THREADS: Final = 2
_DELTA_WORTH: Final = 0.6
"""A delta chunk above this share of the decoded bytes is compared with the shard encoded whole."""
TORCH_TYPES: Final[dict[DType, torch.dtype]] = {
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "f32": torch.float32,
    "i8": torch.int8,
}
_NAMES: Final = {kind: name for name, kind in TORCH_TYPES.items()}


@dataclass(frozen=True)
class Weights:
    """A manifest and its decoded tensors, in the order of the manifest's table."""

    manifest: Manifest
    tensors: dict[str, Tensor]


def read_manifest(ref: ModelRef) -> Manifest:
    """The manifest that `ref` names, checked.

    Raises:
        LocalError: not in the store, or corrupt there.
        RemoteError: it breaks a rule of manifests.
    """
    return decode_manifest(BlobStore(ref.store).get(ref.manifest, "manifest"))


def load_weights(ref: ModelRef, report: Report, *, base: Weights | None = None) -> Weights:
    """Decode and verify every shard of a model.

    Args:
        base: decoded parent, used where the manifest's deltas build on it; without it the parents' chunks are read.

    Memory is the tensors and a few chunks.

    Raises:
        LocalError: a blob is missing or corrupt.
        RemoteError: a manifest, or a chunk under its right address, breaks the rules.
    """
    store = BlobStore(ref.store)
    manifest = read_manifest(ref)
    chain = lineage_of(manifest, store, base.manifest if base else None)
    is_on_base = base is not None and chain[-1] is base.manifest
    tensors = {entry.name: torch.empty(entry.shape, dtype=TORCH_TYPES[entry.dtype]) for entry in manifest.tensors}
    loaded = Weights(manifest, tensors)

    def known(number: int) -> bytes:
        assert base is not None
        return _bytes(base, chain[-1].shards[number].slices)

    def place(number: int) -> None:
        decoded = decode_in(chain, number, store, known if is_on_base else None)
        start = 0
        for part in manifest.shards[number].slices:
            target = _block(loaded, part)
            target[:] = np.frombuffer(decoded, np.uint8, target.size, start).reshape(target.shape)
            start += target.size

    total = len(manifest.shards)
    with ThreadPoolExecutor(_THREADS) as pool:
        for done, _ in enumerate(pool.map(place, range(total)), 1):
            report(Progress(stage="load", done=done, total=total))
    return loaded


def store_model(
    tensors: Mapping[str, Tensor],
    files: Mapping[str, bytes] | tuple[FileEntry, ...],
    store: BlobStore,
    report: Report,
    *,
    base: Weights | None = None,
    depth: int = 0,
    factors: Mapping[str, Factors] | None = None,
) -> tuple[Manifest, int]:
    """Write a model's chunks, file parts and manifest; the manifest, and the bytes of the chunks that `base` lacks.

    Args:
        tensors: what to store, each tensor once, in its stored dtype; the manifest lists them by name.
        files: the model's small files, or entries that are in the store already.
        base: the parent. A shard equal to the parent's keeps its entry; another becomes a delta, or is stored whole
            where that is smaller.
        depth: deltas under the parent; at `DELTA_CHAIN_MAX` the model is stored whole and has no parent.
        factors: of the tensors that are the parent's merged with them. Their shards become these factors, unless that
            is more than a chunk may hold.

    Raises:
        LocalError: a tensor's dtype isn't stored, a row is larger than a shard may be, or the disk is full.
    """
    if depth >= DELTA_CHAIN_MAX:
        base = None
    names = [entry.name for entry in base.manifest.tensors] if base else sorted(tensors)
    entries = tuple(_entry(name, tensors[name]) for name in names)
    if base and entries != base.manifest.tensors:
        raise LocalError("the weights to store don't have the tensors of their parent")
    new = Weights(
        Manifest(1, ZERO_DIGEST, ZERO_DIGEST, entries, (), ()),
        {name: tensors[name].detach().contiguous() for name in names},
    )
    known = {number: factors[name] for number, name in enumerate(names) if name in factors} if factors else {}
    plan = [shard.slices for shard in base.manifest.shards] if base else plan_shards(entries)

    def write(number: int) -> ShardEntry:
        decoded = _bytes(new, plan[number])
        old = base.manifest.shards[number] if base else None
        old_decoded = _bytes(base, plan[number]) if base else None
        if old is not None and decoded == old_decoded:
            return old
        wanted = {part.tensor: known[part.tensor] for part in plan[number] if part.tensor in known}
        if old_decoded is not None and wanted and _fit_a_chunk(entries, wanted):
            entry, chunk = encode_lora_entry(plan[number], decoded, base=old_decoded, factors=wanted)
            store.put(chunk)
            return entry
        entry, chunk = encode_entry(entries, plan[number], decoded, base=old_decoded)
        if old is not None and len(chunk) > _DELTA_WORTH * len(decoded):
            whole, whole_chunk = encode_entry(entries, plan[number], decoded)
            if len(whole_chunk) < len(chunk):
                entry, chunk = whole, whole_chunk
        store.put(chunk)
        return entry

    shards: list[ShardEntry] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for entry in pool.map(write, range(len(plan))):
            shards.append(entry)
            report(Progress(stage="store", done=len(shards), total=len(plan)))
    kept = files if isinstance(files, tuple) else _store_files(files, store)
    parent = manifest_digest(base.manifest) if base else ZERO_DIGEST
    manifest = Manifest(1, parent, weights_root(entries, shards), entries, tuple(shards), kept)
    check_manifest(manifest)
    store.put(encode(manifest))
    there = {shard.chunk for shard in base.manifest.shards} if base else set()
    return manifest, sum({shard.chunk: shard.chunk_bytes for shard in shards if shard.chunk not in there}.values())


def delta_depth(manifest: Manifest, store: BlobStore) -> int:
    """Number of versions under `manifest` that reading it needs."""
    return len(lineage_of(manifest, store)) - 1


def merged_tensors(base: Weights, factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    """The tensors of `base`, those that have factors merged with them (`shards.factors`), the others as they are.

    Raises:
        FlushedSubnormals: this thread doesn't compute as IEEE 754 says.
    """
    merged: dict[str, Tensor] = {}
    for number, entry in enumerate(base.manifest.tensors):
        merged[entry.name] = base.tensors[entry.name]
        if entry.name in factors:
            block = _block(base, TensorSlice(number, 0, tensor_rows(entry)))
            found = torch.from_numpy(merge(block, entry, factors[entry.name]))
            merged[entry.name] = found.view(TORCH_TYPES[entry.dtype]).reshape(entry.shape)
    return merged


def _fit_a_chunk(tensors: Sequence[TensorEntry], factors: Mapping[int, Factors]) -> bool:
    size = sum(factor_bytes(tensors[number], found.b.shape[1]) for number, found in factors.items())
    return size <= CHUNK_DECODED_BYTES_MAX


def _entry(name: str, tensor: Tensor) -> TensorEntry:
    kind = _NAMES.get(tensor.dtype)
    if kind is None:
        raise LocalError(f"tensor {name} has type {tensor.dtype}, which is not stored")
    return TensorEntry(name, kind, tuple(tensor.shape))


def _block(weights: Weights, part: TensorSlice) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """The bytes of a slice [rows, bytes of a row of it], as a view into its tensor."""
    entry = weights.manifest.tensors[part.tensor]
    tensor = weights.tensors[entry.name].reshape(tensor_rows(entry), row_elements(entry))
    columns = slice(part.column_start, part.column_start + part.column_count) if part.column_count else slice(None)
    block = tensor[part.row_start : part.row_start + part.row_count, columns].view(torch.uint8)
    return cast("np.ndarray[tuple[int, int], np.dtype[np.uint8]]", block.numpy())


def _bytes(weights: Weights, slices: tuple[TensorSlice, ...]) -> bytes:
    return b"".join(_block(weights, part).tobytes() for part in slices)


def _store_files(files: Mapping[str, bytes], store: BlobStore) -> tuple[FileEntry, ...]:
    return tuple(
        FileEntry(name, len(files[name]), tuple(store.put(part) for part in split_file(files[name])))
        for name in sorted(files)
    )
