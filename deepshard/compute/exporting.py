"""A version of the weights as a Hugging Face directory: the same tensors byte for byte, configuration and tokenizer.

Chunks are decoded and written where they belong, a few at a time. Files get their names only when everything is in
them and synced, so a directory is either complete or unmistakably not; an export that was broken off goes on in the
same directory, after reading back and verifying what it had written.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepshard.compute.lineage import decode_in, lineage_of
from deepshard.compute.pool import cores, in_threads
from deepshard.compute.sources import INDEX_NAME
from deepshard.compute.store import BlobStore, advice
from deepshard.errors import DiskCorruption, LocalError, UsageError
from deepshard.limits import MIB
from deepshard.primitives import content_digest
from deepshard.shards.layout import ITEM_BYTES, row_bytes, tensor_bytes
from deepshard.shards.manifest import DType, Manifest, TensorEntry, TensorSlice
from deepshard.shards.rules import manifest_digest

OnBytes = Callable[[int, int], None]
FILE_BYTES: Final = 5_000_000_000
"""Tensors of one file, the size at which Hugging Face's own tools begin another."""
_MARK: Final = ".deepshard-export"
"""Which manifest an unfinished directory is of."""
_DONE: Final = ".deepshard-export-shards"
"""Numbers of the shards that are written and synced."""
_PART: Final = ".part"
_BATCH_BYTES: Final = 32 * MIB
_NAMES: Final[dict[DType, str]] = {"bf16": "BF16", "f16": "F16", "f32": "F32", "i8": "I8"}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor's bytes go."""

    file: int
    offset: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """Names, headers and sizes of the files, and the place of each tensor."""

    names: tuple[str, ...]
    headers: tuple[bytes, ...]
    sizes: tuple[int, ...]
    places: tuple[_Place, ...]
    index: bytes | None


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote, and of its bytes those that an earlier try had written."""

    files: tuple[str, ...]
    tensor_bytes: int
    resumed_bytes: int


def export_model(
    manifest: Manifest, store: BlobStore, directory: Path, on_bytes: OnBytes, *, file_bytes: int = FILE_BYTES
) -> Exported:
    """Write the model into `directory`, which is empty, absent, or holds an unfinished export of the same manifest.

    Raises:
        UsageError: the directory holds something else.
        LocalError: a blob is missing or corrupt, or the disk refuses; what was written is used the next time.
    """
    layout = _layout(manifest.tensors, file_bytes)
    lineage = lineage_of(manifest, store)
    with _explained(directory):
        _claim(directory, manifest)
        descriptors = [
            _open_part(directory / (name + _PART), size) for name, size in zip(layout.names, layout.sizes, strict=True)
        ]
    try:
        resumed = _write_tensors(manifest, lineage, store, layout, descriptors, directory, on_bytes)
        with _explained(directory):
            for descriptor, header in zip(descriptors, layout.headers, strict=True):
                os.pwrite(descriptor, header, 0)
                os.fsync(descriptor)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    with _explained(directory):
        files = _finish(manifest, store, layout, directory)
    return Exported(files, sum(map(tensor_bytes, manifest.tensors)), resumed)


def _layout(tensors: Sequence[TensorEntry], file_bytes: int) -> _Layout:
    """Files in the order of the table; within a file larger elements first, so that all are aligned."""
    groups: list[list[int]] = [[]]
    filled = 0
    for number, tensor in enumerate(tensors):
        size = tensor_bytes(tensor)
        if groups[-1] and filled + size > file_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(number)
        filled += size
    names = tuple(
        "model.safetensors" if len(groups) == 1 else f"model-{place:05}-of-{len(groups):05}.safetensors"
        for place in range(1, len(groups) + 1)
    )
    places: dict[int, _Place] = {}
    headers: list[bytes] = []
    sizes: list[int] = []
    for file, group in enumerate(groups):
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        ends: dict[int, int] = {}
        at = 0
        for number in sorted(group, key=lambda one: (-ITEM_BYTES[tensors[one].dtype], one)):
            tensor = tensors[number]
            ends[number] = at
            stated = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape)}
            header[tensor.name] = {**stated, "data_offsets": [at, at + tensor_bytes(tensor)]}
            at += tensor_bytes(tensor)
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        headers.append(struct.pack("<Q", len(text)) + text)
        places |= {number: _Place(file, len(headers[-1]) + start) for number, start in ends.items()}
        sizes.append(len(headers[-1]) + at)
    index = None
    if len(groups) > 1:
        listed = {tensor.name: names[places[number].file] for number, tensor in enumerate(tensors)}
        total = sum(map(tensor_bytes, tensors))
        index = (json.dumps({"metadata": {"total_size": total}, "weight_map": listed}, indent=2) + "\n").encode()
    ordered = tuple(places[number] for number in range(len(tensors)))
    return _Layout(names, tuple(headers), tuple(sizes), ordered, index)


def _claim(directory: Path, manifest: Manifest) -> None:
    """Make the directory ours, if it is empty or was."""
    directory.mkdir(parents=True, exist_ok=True)
    mark, wanted = directory / _MARK, manifest_digest(manifest).hex()
    if mark.is_file():
        found = mark.read_text("utf-8").strip()
        if found != wanted:
            raise UsageError(
                f"{directory} holds an unfinished export of manifest {found[:16]}: finish that one, or empty the folder"
            )
        return
    if any(directory.iterdir()):
        raise UsageError(f"{directory} is not empty: name a new folder for the export")
    _write_durably(mark, wanted.encode() + b"\n")


def _open_part(path: Path, size: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if os.fstat(descriptor).st_size != size:
            os.ftruncate(descriptor, 0)
            try:
                os.posix_fallocate(descriptor, 0, size)  # a disk that is too small says so now
            except OSError:
                os.ftruncate(descriptor, 0)
                raise
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _write_tensors(
    manifest: Manifest,
    lineage: Sequence[Manifest],
    store: BlobStore,
    layout: _Layout,
    descriptors: Sequence[int],
    directory: Path,
    on_bytes: OnBytes,
) -> int:
    """Write what isn't written yet; gives the bytes that were."""
    total = sum(shard.decoded_bytes for shard in manifest.shards)

    def is_written(number: int) -> bool:
        shard = manifest.shards[number]
        data = b"".join(_read(descriptors, layout, manifest, part) for part in shard.slices)
        return content_digest(data) == shard.decoded_digest

    def write(number: int) -> int:
        decoded = memoryview(decode_in(lineage, number, store))
        start = 0
        for part in manifest.shards[number].slices:
            start += _write(descriptors, layout, manifest, part, decoded[start:])
        return number

    with _explained(directory):
        claimed = [number for number in _read_done(directory / _DONE) if number < len(manifest.shards)]
        threads = cores() + 1
        with ThreadPoolExecutor(cores()) as pool:
            verified = list(pool.map(is_written, claimed))
        written = {number for number, good in zip(claimed, verified, strict=True) if good}
        resumed = done = sum(manifest.shards[number].decoded_bytes for number in written)
        on_bytes(done, total)
        left = [number for number in range(len(manifest.shards)) if number not in written]
        journal = os.open(directory / _DONE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            unsynced: list[int] = []
            waiting = 0
            for number in in_threads(write, left, threads):
                unsynced.append(number)
                waiting += manifest.shards[number].decoded_bytes
                done += manifest.shards[number].decoded_bytes
                on_bytes(done, total)
                if waiting >= _BATCH_BYTES:
                    for descriptor in descriptors:
                        os.fdatasync(descriptor)
                    os.write(journal, struct.pack(f"<{len(unsynced)}I", *unsynced))
                    unsynced, waiting = [], 0
        finally:
            os.close(journal)
    return resumed


def _spans(layout: _Layout, manifest: Manifest, part: TensorSlice) -> Iterator[tuple[int, int, int]]:
    """File, offset and length of the pieces of a slice: one of whole rows, one for each row of a band."""
    tensor, place = manifest.tensors[part.tensor], layout.places[part.tensor]
    stride, item = row_bytes(tensor), ITEM_BYTES[tensor.dtype]
    first = place.offset + part.row_start * stride
    if not part.column_count:
        yield place.file, first, part.row_count * stride
        return
    for row in range(part.row_count):
        yield place.file, first + row * stride + part.column_start * item, part.column_count * item


def _write(descriptors: Sequence[int], layout: _Layout, manifest: Manifest, part: TensorSlice, data: memoryview) -> int:
    start = 0
    for file, offset, length in _spans(layout, manifest, part):
        done = 0
        while done < length:
            done += os.pwrite(descriptors[file], data[start + done : start + length], offset + done)
        start += length
    return start


def _read(descriptors: Sequence[int], layout: _Layout, manifest: Manifest, part: TensorSlice) -> bytes:
    return b"".join(
        os.pread(descriptors[file], length, offset) for file, offset, length in _spans(layout, manifest, part)
    )


def _read_done(path: Path) -> list[int]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return sorted(set(struct.unpack(f"<{len(data) // 4}I", data[: len(data) // 4 * 4])))


def _finish(manifest: Manifest, store: BlobStore, layout: _Layout, directory: Path) -> tuple[str, ...]:
    """Give the files their names, the configuration last: without it nobody takes the directory for a model."""
    for name in layout.names:
        (directory / (name + _PART)).replace(directory / name)
    if layout.index is not None:
        _write_durably(directory / INDEX_NAME, layout.index)
    small = sorted(manifest.files, key=lambda file: (file.name == "config.json", file.name))
    for file in small:
        data = b"".join(store.get(part, f"part of {file.name}") for part in file.parts)
        if len(data) != file.size:
            raise DiskCorruption(f"file {file.name} is {len(data)} bytes, its manifest says {file.size}")
        _write_durably(directory / file.name, data)
    (directory / _DONE).unlink(missing_ok=True)
    (directory / _MARK).unlink(missing_ok=True)
    _sync(directory)
    index = () if layout.index is None else (INDEX_NAME,)
    return (*layout.names, *index, *(file.name for file in small))


def _write_durably(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + _PART)
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LocalError(f"cannot write to {directory}: {advice(error)}") from error
