"""Blobs that have come in part: their verified blocks, kept until the rest is there.

A partial lies in `ROOT/partial/HEX`: the blob's bytes at their places, then a footer of one bit for each block that is
there (bit i of byte i // 8), the blob's size as u64 little-endian, and a magic. A block is written before its bit, so a
process may be killed at any time. Whoever touches the file holds its lock; threads and processes may share it.

Nothing is synced before the blob is complete. What a power failure or another program took shows then, when all of it
is read back and verified as a whole; it costs the partial, never a wrong blob. Only what one store has written itself,
each range verified, into a file that nobody has touched in between, isn't read back: it would come from the page cache,
and reading and hashing it again is a third of what the disk threads of a download do.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from deepshard.errors import DiskCorruption
from deepshard.limits import BLOB_BYTES_MAX, PARTIAL_AGE_S_MAX, PARTIALS_MAX, RANGE_BLOCKS_MAX
from deepshard.primitives import CONTENT_BLOCK_BYTES, ContentHasher
from deepshard.ranges import block_count, range_bytes

_MAGIC: Final = b"dsrange1"
_TAIL_BYTES: Final = 8 + len(_MAGIC)
_ACTIVE_S: Final = 60.0
_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class PartialState:
    """What is there of a blob: its size in bytes, and a bit for each block, the first block's the lowest."""

    size: int
    held: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether no block is missing."""
        return self.held == (1 << block_count(self.size)) - 1

    @property
    def held_bytes(self) -> int:
        """Bytes that are there."""
        return self.size - sum(range_bytes(self.size, first, count) for first, count in self.missing())

    def missing(self) -> list[tuple[int, int]]:
        """Runs of missing blocks as (first, count), none beyond a multiple of `RANGE_BLOCKS_MAX` blocks."""
        runs: list[tuple[int, int]] = []
        for block in range(block_count(self.size)):
            if self.held >> block & 1:
                continue
            if runs and sum(runs[-1]) == block and block % RANGE_BLOCKS_MAX:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((block, 1))
        return runs


@dataclass(frozen=True, slots=True)
class _Written:
    """Blocks that this store has written to a partial, and the mark of its file after that."""

    held: int
    mark: tuple[int, ...]


class Partials:
    """The partials of one store, in `folder`, which must exist. Methods raise `OSError` if the disk refuses."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: dict[bytes, _Written] = {}

    def state(self, digest: bytes) -> PartialState | None:
        """What is there of a blob; None if nothing is."""
        try:
            with self._path(digest).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                return _read_state(file)
        except FileNotFoundError:
            return None

    def keep(self, digest: bytes, size: int, first: int, data: bytes | memoryview, target: Path) -> PartialState:
        """Add blocks that were verified, from block `first` on, to a blob of `size` bytes.

        The blob that is complete thereby is verified as a whole, unless all of it was kept by this store and nobody
        else has written to its file; it is synced and moved to `target`; the folder isn't synced.

        Raises:
            DiskCorruption: what was complete isn't the blob; the partial is gone.
        """
        count = block_count(len(data))
        assert len(data) == range_bytes(size, first, count)
        with self._locked(digest) as (path, file):
            if target.is_file():  # another was faster
                path.unlink(missing_ok=True)
                return PartialState(size, (1 << block_count(size)) - 1)
            state, written = _read_state(file), self._written.pop(digest, None)
            ours = written.held if written is not None and written.mark == _mark(file) else 0
            if state is None or state.size != size:
                state, ours = PartialState(size), 0
                file.truncate(0)
                file.truncate(size + _footer_bytes(size))
            blocks = ((1 << count) - 1) << first
            state, ours = PartialState(size, state.held | blocks), ours | blocks
            file.seek(first * CONTENT_BLOCK_BYTES)
            file.write(data)
            file.flush()
            file.seek(size)
            file.write(_footer(state))
            file.flush()
            if state.is_complete:
                file.truncate(size)
                if ours != state.held:
                    _verify(digest, path, file)
                _move(path, file, target)
            else:
                self._remember(digest, _Written(ours, _mark(file)))
        return state

    def finish(self, digest: bytes, target: Path) -> None:
        """Finish a blob of which nothing is missing, if its last writer was killed before it did; as `keep` does.

        Raises:
            DiskCorruption: it isn't the blob; the partial is gone.
        """
        with self._locked(digest) as (path, file):
            state = _read_state(file)
            if state is None:
                path.unlink(missing_ok=True)
            elif state.is_complete:
                file.truncate(state.size)
                _verify(digest, path, file)
                _move(path, file, target)

    def discard(self, digest: bytes) -> None:
        """Remove what is there of a blob."""
        self._path(digest).unlink(missing_ok=True)

    def _remember(self, digest: bytes, written: _Written) -> None:
        while len(self._written) >= PARTIALS_MAX:  # of downloads that were given up
            with suppress(KeyError, StopIteration, RuntimeError):  # another thread was faster
                del self._written[next(iter(self._written))]
        self._written[digest] = written

    def sweep(self) -> None:
        """Remove what is too old, and the oldest of what is too many; what was just written to is spared."""
        now = time.time()
        found = []
        for file in self._folder.iterdir():
            with suppress(FileNotFoundError):
                found.append((file.stat().st_mtime, file))
        found.sort()
        surplus = len(found) - PARTIALS_MAX
        for position, (written_at, file) in enumerate(found):
            age_s = now - written_at
            # The requests in flight bound how many are being written to.
            if age_s > PARTIAL_AGE_S_MAX or (position < surplus and age_s > _ACTIVE_S):
                file.unlink(missing_ok=True)

    def _path(self, digest: bytes) -> Path:
        assert len(digest) == 32
        return self._folder / digest.hex()

    @contextmanager
    def _locked(self, digest: bytes) -> Iterator[tuple[Path, BinaryIO]]:
        """The blob's partial, made if absent, locked; it still lies at its path when the lock is got."""
        path = self._path(digest)
        while True:
            if not path.exists():
                self.sweep()
            with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:  # noqa: PTH123  # made if absent
                fcntl.flock(file, fcntl.LOCK_EX)
                if _is_at(file, path):
                    yield path, file
                    return


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _mark(file: BinaryIO) -> tuple[int, ...]:
    """What changes when anybody writes to the file."""
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _footer_bytes(size: int) -> int:
    return -(-block_count(size) // 8) + _TAIL_BYTES


def _footer(state: PartialState) -> bytes:
    bitmap = state.held.to_bytes(_footer_bytes(state.size) - _TAIL_BYTES, "little")
    return bitmap + state.size.to_bytes(8, "little") + _MAGIC


def _read_state(file: BinaryIO) -> PartialState | None:
    """What the footer says; None if it isn't one."""
    length = os.fstat(file.fileno()).st_size
    file.seek(max(0, length - _TAIL_BYTES))
    tail = file.read(_TAIL_BYTES)
    size = int.from_bytes(tail[:8], "little")
    if tail[8:] != _MAGIC or size > BLOB_BYTES_MAX or length != size + _footer_bytes(size):
        return None
    file.seek(size)
    held = int.from_bytes(file.read(_footer_bytes(size) - _TAIL_BYTES), "little")
    return None if held >> block_count(size) else PartialState(size, held)


def _verify(digest: bytes, path: Path, file: BinaryIO) -> None:
    file.seek(0)
    hasher = ContentHasher()
    while data := file.read(_READ_BYTES):
        hasher.update(data)
    if hasher.digest() != digest:
        path.unlink(missing_ok=True)
        raise DiskCorruption(f"partial {digest.hex()} was corrupt on disk when it was complete: to be fetched again")


def _move(path: Path, file: BinaryIO, target: Path) -> None:
    os.fsync(file.fileno())
    target.parent.mkdir(exist_ok=True)
    path.replace(target)
