"""Parts of a model read from its chunks one after the other, the next one in the background while one is worked on.

A piece is some tensors, or some rows of one. Its shards are decoded, through the versions that their deltas build on,
and verified as `weights.load_weights` does it; nothing stays but what was asked for. A submission is read beside its
base: a shard of the base that its delta needs is decoded once for both.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import torch
from torch import Tensor

from deepshard.compute.lineage import decode_in, lineage_of
from deepshard.compute.pool import cores, in_threads
from deepshard.compute.store import BlobStore
from deepshard.compute.weights import TORCH_TYPES
from deepshard.limits import MIB
from deepshard.shards.codec import Buffer
from deepshard.shards.layout import ITEM_BYTES, row_bytes, row_elements, tensor_rows
from deepshard.shards.manifest import Manifest, TensorSlice
from kernels.cpu_lanes import background_lane

T = TypeVar("T")

PIECE_BYTES: Final = 16 * MIB
"""Decoded bytes of a piece that is rows of a large tensor, where its shards are small enough."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a tensor: the tensor's number in the manifest's table, the first row, and how many."""

    tensor: int
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What is read at a time; `name` is for people."""

    name: str
    parts: tuple[Part, ...]


class ShardReader:
    """Reads pieces of one version.

    Args:
        manifest: the version's, checked.
        store: holds the chunks of it and of the versions that its deltas build on.
        base: reader of the version it was made from, where that one is read beside it.

    Raises:
        LocalError: an ancestor's manifest is missing or corrupt.
        RemoteError: a manifest doesn't fit the one it builds on.
    """

    def __init__(self, manifest: Manifest, store: BlobStore, base: ShardReader | None = None) -> None:
        self.manifest = manifest
        self._store = store
        self._base = base
        self._lineage = lineage_of(manifest, store, base.manifest if base else None)
        self._builds_on_base = base is not None and self._lineage[-1] is base.manifest
        self._shards: dict[int, list[int]] = {}
        for number, shard in enumerate(manifest.shards):
            for part in shard.slices:
                numbers = self._shards.setdefault(part.tensor, [])
                if not numbers or numbers[-1] != number:
                    numbers.append(number)
        self.numbers = {entry.name: number for number, entry in enumerate(manifest.tensors)}

    def read(self, piece: Piece) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The piece's tensors as stored, by name, each with the rows asked for; and the base's, if there is one.

        Raises:
            LocalError: a chunk is missing or corrupt on disk.
            RemoteError: a chunk of the right address isn't an encoding of its shard.
        """
        own = self._empty(piece)
        if self._base is None:
            self._fill(piece, own, lambda number: decode_in(self._lineage, number, self._store))
            return own, {}
        base = self._base
        theirs = base._empty(piece)  # noqa: SLF001  # its own kind
        known: dict[int, Buffer] = {}
        kept = self._needed(piece) if self._builds_on_base else set()

        def of_base(number: int) -> Buffer:
            decoded = decode_in(base._lineage, number, base._store)  # noqa: SLF001
            if number in kept:
                known[number] = decoded
            return decoded

        def of_own(number: int) -> Buffer:
            return decode_in(self._lineage, number, self._store, known.__getitem__ if self._builds_on_base else None)

        base._fill(piece, theirs, of_base)  # noqa: SLF001
        self._fill(piece, own, of_own)
        return own, theirs

    def rows_of(self, name: str, title: str) -> list[Piece]:
        """A tensor's rows in order, in pieces of whole shards of about `PIECE_BYTES`."""
        number = self.numbers[name]
        entry = self.manifest.tensors[number]
        slices = [part for shard in self._shards.get(number, []) for part in self._slices(shard, number)]
        starts = sorted({part.row_start for part in slices} | {tensor_rows(entry)})
        # Where a piece may end: no slice lies across (bands of columns need not be cut at the same rows).
        ends = [end for end in starts[1:] if not any(_lies_across(part, end) for part in slices)]
        pieces: list[Piece] = []
        begin = 0
        for place, end in enumerate(ends):
            is_last = place + 1 == len(ends)
            if is_last or (ends[place + 1] - begin) * row_bytes(entry) > PIECE_BYTES:
                pieces.append(Piece(title, (Part(number, begin, end - begin),)))
                begin = end
        return pieces

    def whole(self, name: str, names: Sequence[str]) -> Piece:
        """A piece of whole tensors."""
        numbers = [self.numbers[one] for one in names]
        return Piece(name, tuple(Part(number, 0, tensor_rows(self.manifest.tensors[number])) for number in numbers))

    def stored_bytes(self, piece: Piece) -> int:
        """Decoded bytes of a piece."""
        return sum(part.count * row_bytes(self.manifest.tensors[part.tensor]) for part in piece.parts)

    def elements(self, piece: Piece) -> int:
        """Elements of a piece."""
        return sum(part.count * row_elements(self.manifest.tensors[part.tensor]) for part in piece.parts)

    def _empty(self, piece: Piece) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for part in piece.parts:
            entry = self.manifest.tensors[part.tensor]
            shape = (part.count, *entry.shape[1:]) if entry.shape else ()
            tensors[entry.name] = torch.empty(shape, dtype=TORCH_TYPES[entry.dtype])
        return tensors

    def _needed(self, piece: Piece) -> set[int]:
        """Shards that hold something of a piece."""
        return {
            shard
            for part in piece.parts
            for shard in self._shards.get(part.tensor, [])
            if any(_meets(one, part) for one in self._slices(shard, part.tensor))
        }

    def _slices(self, shard: int, tensor: int) -> list[TensorSlice]:
        return [part for part in self.manifest.shards[shard].slices if part.tensor == tensor]

    def _fill(self, piece: Piece, tensors: dict[str, Tensor], decode: Callable[[int], Buffer]) -> None:
        wanted = {part.tensor: part for part in piece.parts}

        def place(number: int) -> None:
            decoded = np.frombuffer(decode(number), np.uint8)
            start = 0
            for one in self.manifest.shards[number].slices:
                entry = self.manifest.tensors[one.tensor]
                columns = one.column_count or row_elements(entry)
                size = one.row_count * columns * ITEM_BYTES[entry.dtype]
                part = wanted.get(one.tensor)
                if part is not None and size and _meets(one, part):
                    rows = decoded[start : start + size].reshape(one.row_count, -1)
                    first, end = max(one.row_start, part.start), min(one.row_start + one.row_count, _end(part))
                    band = slice(one.column_start, one.column_start + columns)
                    whole = tensors[entry.name].reshape(part.count, row_elements(entry))
                    target = whole[first - part.start : end - part.start, band].view(torch.uint8).numpy()
                    target[:] = rows[first - one.row_start : end - one.row_start]
                start += size

        for _ in in_threads(place, sorted(self._needed(piece)), min(2, cores())):
            pass


def ahead(load: Callable[[Piece], T], pieces: Sequence[Piece]) -> Generator[T]:
    """What `load` makes of each piece, in order; the next piece is loaded in a thread while the caller has this one.

    A caller lets go of what it got before it asks for more: then two are in memory and no more. When the iterator is
    closed, its thread has ended. An error of `load` is raised in its piece's place.
    """
    with background_lane("prefetch") as thread:
        coming: list[Future[T]] = [thread.submit(load, piece) for piece in pieces[:1]]
        for number in range(1, len(pieces) + 1):
            loaded = coming.pop().result()
            if number < len(pieces):
                coming.append(thread.submit(load, pieces[number]))
            held = [loaded]
            del loaded
            yield held.pop()


def _end(part: Part) -> int:
    return part.start + part.count


def _meets(one: TensorSlice, part: Part) -> bool:
    return one.row_start < _end(part) and part.start < one.row_start + one.row_count


def _lies_across(part: TensorSlice, row: int) -> bool:
    return part.row_start < row < part.row_start + part.row_count
