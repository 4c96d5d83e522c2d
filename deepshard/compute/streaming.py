"""Import in one pass with the memory of a few chunks: read a piece of a source, encode it, store it, note it down.

A journal in the store holds the entry of each shard that was stored. An import that was broken off, by a full disk or
by SIGKILL, goes on after the last of them when the same source is imported again; each chunk is read back and verified
before its entry is believed. The roots need no second pass: they are over the digests of decoded shards.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

import numpy as np

from deepshard.compute.pool import cores, in_threads
from deepshard.compute.sources import GATHER_BYTES_MAX, Block, Source
from deepshard.compute.store import BlobStore, advice
from deepshard.encoding import decode, encode
from deepshard.errors import LocalError, MalformedMessage, OversizedMessage, UsageError
from deepshard.limits import MIB
from deepshard.primitives import ZERO_DIGEST, tagged_hash
from deepshard.shards.codec import encode_entry
from deepshard.shards.errors import InvalidManifest
from deepshard.shards.layout import ITEM_BYTES, row_bytes, slice_spans, split_file, tensor_bytes
from deepshard.shards.manifest import FileEntry, Manifest, ShardEntry, TensorSlice
from deepshard.shards.partition import plan_shards
from deepshard.shards.rules import check_manifest, weights_root

OnBytes = Callable[[int, int], None]
"""Told how many bytes of how many are done."""

WAITING_FOR_DISK: Final = 3
"""Threads beyond the number of cores: one that waits for its chunk to be synced uses no core."""
_JOURNAL_VERSION: Final = b"import journal 1"
_CHECK_BYTES: Final = 8
_RECORD_BYTES_MAX: Final = 1 * MIB
_SYNC_EVERY: Final = 64


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import made: its manifest, and of its decoded bytes those that an earlier try had stored."""

    manifest: Manifest
    decoded_bytes: int
    resumed_bytes: int


def import_source(source: Source, store: BlobStore, on_bytes: OnBytes) -> Imported:
    """Store the source's chunks, files and manifest.

    Raises:
        UsageError: the source doesn't make a manifest within its bounds.
        LocalError: the source can't be read, or the store not written; what was stored is used the next time.
    """
    tensors = source.tensors
    plan = plan_shards(tensors)
    total = sum(map(tensor_bytes, tensors))
    journal = _Journal(store.root / "imports" / f"{_journal_name(source, plan)}.journal")
    entries = journal.open(plan, store)
    try:
        resumed = done = sum(entry.decoded_bytes for entry in entries.values())
        on_bytes(done, total)
        work = [task for task in _tasks(source, plan) if any(number not in entries for number in task)]
        threads = cores() + WAITING_FOR_DISK
        for made in in_threads(lambda task: _store_task(source, plan, task, store), work, threads):
            for number, entry in made:
                if number not in entries:
                    entries[number] = entry
                    journal.add(number, entry)
                    done += entry.decoded_bytes
            on_bytes(done, total)
        files = tuple(_store_file(name, data, store) for name, data in sorted(source.files.items()))
        shards = tuple(entries[number] for number in range(len(plan)))
        manifest = Manifest(1, ZERO_DIGEST, weights_root(tensors, shards), tensors, shards, files)
        try:
            check_manifest(manifest)
        except InvalidManifest as error:
            raise UsageError(f"the source can't be described by a manifest: {error}") from None
        store.put(encode(manifest), verify=True)
    finally:
        journal.close()
    journal.remove()
    return Imported(manifest, total, resumed)


def _journal_name(source: Source, plan: Sequence[tuple[TensorSlice, ...]]) -> str:
    return tagged_hash("import", _JOURNAL_VERSION, source.identity, encode(tuple(plan))).hex()[:32]


def _tasks(source: Source, plan: Sequence[tuple[TensorSlice, ...]]) -> Iterator[list[int]]:
    """Shards that are read together: the bands of the same rows, where those rows aren't too many bytes; else each."""
    for number, group in groupby(range(len(plan)), lambda place: plan[place][0].tensor):
        members = list(group)
        first = plan[members[0]][0]
        if not first.column_count or first.row_count * row_bytes(source.tensors[number]) > GATHER_BYTES_MAX:
            yield from ([member] for member in members)
            continue
        by_rows: dict[tuple[int, int], list[int]] = {}
        for member in members:
            part = plan[member][0]
            by_rows.setdefault((part.row_start, part.row_count), []).append(member)
        yield from by_rows.values()


def _store_task(
    source: Source, plan: Sequence[tuple[TensorSlice, ...]], task: Sequence[int], store: BlobStore
) -> list[tuple[int, ShardEntry]]:
    made: list[tuple[int, ShardEntry]] = []
    rows: Block | None = None
    if len(task) > 1:
        part = plan[task[0]][0]
        rows = source.read(TensorSlice(part.tensor, part.row_start, part.row_count))
    for number in task:
        if rows is None:
            blocks = [source.read(part).reshape(-1) for part in plan[number]]
        else:
            part = plan[number][0]
            item = ITEM_BYTES[source.tensors[part.tensor].dtype]
            columns = slice(part.column_start * item, (part.column_start + part.column_count) * item)
            blocks = [rows[:, columns].reshape(-1)]
        decoded = np.concatenate(blocks).data if len(blocks) > 1 else np.ascontiguousarray(blocks[0]).data
        assert len(decoded) == sum(size for _, size in slice_spans(source.tensors, plan[number]))
        entry, chunk = encode_entry(source.tensors, plan[number], decoded)
        store.put(chunk, digest=entry.chunk, verify=True)
        made.append((number, entry))
    return made


def _store_file(name: str, data: bytes, store: BlobStore) -> FileEntry:
    return FileEntry(name, len(data), tuple(store.put(part, verify=True) for part in split_file(data)))


class _Journal:
    """Entries of stored shards, each with its length before it and a check behind it; a torn end is cut off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._unsynced = 0

    def open(self, plan: Sequence[tuple[TensorSlice, ...]], store: BlobStore) -> dict[int, ShardEntry]:
        """Open for writing; gives the entries whose chunks are in the store, whole."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            records, size = _read_records(self._path.read_bytes())
            os.ftruncate(self._descriptor, size)
            os.lseek(self._descriptor, 0, os.SEEK_END)
        except OSError as error:
            raise LocalError(f"cannot write to the store {store.root}: {advice(error)}") from error
        listed = {number: entry for number, entry in records if number < len(plan) and entry.slices == plan[number]}
        with ThreadPoolExecutor(cores()) as pool:
            intact = pool.map(lambda entry: store.is_intact(entry.chunk, entry.chunk_bytes), listed.values())
            return {number: entry for (number, entry), good in zip(listed.items(), intact, strict=True) if good}

    def add(self, number: int, entry: ShardEntry) -> None:
        """Note a shard whose chunk is durable."""
        body = struct.pack("<I", number) + encode(entry)
        record = struct.pack("<I", len(body)) + body + _check(body)
        try:
            while record:
                record = record[os.write(self._descriptor, record) :]
            self._unsynced += 1
            if self._unsynced >= _SYNC_EVERY:  # what is lost beyond is encoded again
                os.fdatasync(self._descriptor)
                self._unsynced = 0
        except OSError as error:
            raise LocalError(f"cannot write {self._path}: {advice(error)}") from error

    def close(self) -> None:
        """Close the file, which stays for the next try."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """The import is complete."""
        self._path.unlink(missing_ok=True)


def _check(body: bytes) -> bytes:
    return tagged_hash("import record", body)[:_CHECK_BYTES]


def _read_records(data: bytes) -> tuple[list[tuple[int, ShardEntry]], int]:
    """Whole records from the beginning, and how many bytes they take."""
    records: list[tuple[int, ShardEntry]] = []
    at = 0
    while len(data) - at >= 4:
        (length,) = struct.unpack_from("<I", data, at)
        end = at + 4 + length + _CHECK_BYTES
        body = data[at + 4 : at + 4 + length]
        if not 4 <= length <= _RECORD_BYTES_MAX or end > len(data) or data[end - _CHECK_BYTES : end] != _check(body):
            break
        try:
            entry = decode(body[4:], ShardEntry, bytes_max=_RECORD_BYTES_MAX)
        except (MalformedMessage, OversizedMessage):  # of another version of this program
            break
        records.append((struct.unpack_from("<I", body)[0], entry))
        at = end
    return records, at
