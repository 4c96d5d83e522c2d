"""Content-addressed files: chunks, text segments, manifests, parts of files.

A blob lies in `ROOT/ab/cdef...`, named by its content address in hex. It is written to a temporary file, synced and
renamed, so a blob that is there is whole, whenever the process was killed; several threads and processes may share one
root. Every read verifies: what doesn't match its name is moved to `ROOT/corrupt/`, never served, and fetched anew.
Blobs that come in ranges gather in `ROOT/partial/`, see `partials`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from deepshard.disk.leaves import LeafCache, Leaves
from deepshard.disk.partials import Partials, PartialState
from deepshard.errors import DiskCorruption, LocalError
from deepshard.limits import BLOB_BYTES_MAX
from deepshard.primitives import CONTENT_BLOCK_BYTES, block_hashes, content_address, content_digest
from deepshard.ranges import range_bytes

_ABANDONED_AFTER_S: Final = 60.0
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class MissingBlob(LocalError):
    """A blob that isn't in the store."""

    def __init__(self, digest: bytes, root: Path) -> None:
        super().__init__(f"blob {digest.hex()} is not in {root}")
        self.digest = digest


class ChunkStore:
    """Blobs in files below `root`, which is made if absent. All methods are synchronous and safe from any thread.

    Every method that touches the disk raises `LocalError` if the disk refuses, with what to do about it.
    """

    def __init__(self, root: Path) -> None:
        """Open the store, and remove the temporary files of writers that were killed."""
        self.root = root
        self._temporary = root / "tmp"
        self._corrupt = root / "corrupt"
        self._partials = Partials(root / "partial")
        self._leaves = LeafCache()
        self._unsynced: deque[Path] = deque()
        """Folders into which blobs were moved since they were synced."""
        self._syncing = threading.Lock()
        with self._explained("create"):
            self._temporary.mkdir(parents=True, exist_ok=True)
            self._corrupt.mkdir(exist_ok=True)
            (root / "partial").mkdir(exist_ok=True)
            self._sweep()
            self._partials.sweep()

    def put(
        self, data: bytes | bytearray | memoryview, *, digest: bytes | None = None, sync_folder: bool = True
    ) -> bytes:
        """Store a blob and return its content address; it is durable on return. Storing it twice is free.

        Args:
            digest: content address of `data`, where the caller has just computed it.
            sync_folder: False leaves that part of making it durable to the caller's next `sync`: until then a power
                failure, and nothing else, may cost the blob.
        """
        assert len(data) <= BLOB_BYTES_MAX
        digest = content_digest(data) if digest is None else digest
        path = self._path(digest)
        with self._explained(f"store {len(data)} bytes in"):
            if not self._is_present(path, len(data)):
                self._write(path, data)
                self._moved_into(path.parent, sync_folder=sync_folder)
            elif sync_folder and self._unsynced:  # it may be one of those
                self.sync()
            self._partials.discard(digest)
        return digest

    def sync(self) -> None:
        """Make durable what was stored without syncing folders, also by other threads.

        For a thousand blobs that is cheaper than one by one: the file system writes one record of all that changed.
        """
        with self._explained("sync"), self._syncing:
            folders = set()
            while self._unsynced:
                folders.add(self._unsynced.popleft())
            try:
                for folder in sorted(folders):
                    _sync_folder(folder)
                    folders.discard(folder)
            finally:
                self._unsynced.extend(folders)  # what couldn't be synced isn't durable yet

    def get(self, digest: bytes) -> bytes:
        """Read a blob and verify it.

        Raises:
            MissingBlob: it isn't there.
            DiskCorruption: what lies there is something else; it has been moved aside, so the blob is missing now.
        """
        data = self._read(digest, 0, BLOB_BYTES_MAX + 1)
        if len(data) > BLOB_BYTES_MAX or content_digest(data) != digest:
            raise self._found_corrupt(digest)
        return data

    def leaves(self, digest: bytes) -> Leaves:
        """Size and leaf hashes of a blob; remembered, else it is read and verified.

        Raises:
            MissingBlob: it isn't there.
            DiskCorruption: as `get`.
        """
        return self._leaves.get(digest) or self._load(digest)[0]

    def get_range(self, digest: bytes, first: int, count_max: int) -> tuple[Leaves, bytes]:
        """Read blocks from block `first` on, at most `count_max`, and verify them; none if the blob ends before.

        Raises:
            MissingBlob: it isn't there.
            DiskCorruption: as `get`.
        """
        leaves = self._leaves.get(digest)
        if leaves is None:  # the first range of a blob costs one pass over all of it, not a second one over itself
            leaves, whole = self._load(digest)
            return leaves, whole[first * CONTENT_BLOCK_BYTES : (first + count_max) * CONTENT_BLOCK_BYTES]
        count = min(count_max, len(leaves.hashes) - first)
        if count <= 0:
            return leaves, b""
        size = range_bytes(leaves.size, first, count)
        data = self._read(digest, first * CONTENT_BLOCK_BYTES, size)
        if len(data) != size or block_hashes(data) != leaves.hashes[first : first + count]:
            raise self._found_corrupt(digest)
        return leaves, data

    def _load(self, digest: bytes) -> tuple[Leaves, bytes]:
        data = self._read(digest, 0, BLOB_BYTES_MAX + 1)
        leaves = Leaves(len(data), block_hashes(data))
        if leaves.size > BLOB_BYTES_MAX or content_address(leaves.size, leaves.hashes) != digest:
            raise self._found_corrupt(digest)
        self._leaves.put(digest, leaves)
        return leaves, data

    def partial(self, digest: bytes) -> PartialState | None:
        """What has come of a blob that isn't complete; a complete one is finished by this, as by `put_range`.

        Raises:
            DiskCorruption: it was complete, and isn't the blob; the partial is gone.
        """
        with self._explained("read from"):
            state = self._partials.state(digest)
            if state is not None and state.is_complete:
                self._partials.finish(digest, self._path(digest))
                self._moved_into(self._path(digest).parent, sync_folder=True)
            return state

    def put_range(
        self, digest: bytes, data: bytes | memoryview, *, size: int, first: int, sync_folder: bool = True
    ) -> PartialState:
        """Keep blocks that were verified, from block `first` on, of a blob of `size` bytes; says what is there now.

        When that is all, the blob is in the store, verified as a whole and durable; `sync_folder` as in `put`.

        Raises:
            DiskCorruption: all was there, and isn't the blob; it has to be fetched again from the beginning.
        """
        assert size <= BLOB_BYTES_MAX
        with self._explained(f"store {len(data)} bytes in"):
            state = self._partials.keep(digest, size, first, data, self._path(digest))
            if state.is_complete:
                self._moved_into(self._path(digest).parent, sync_folder=sync_folder)
            return state

    def has(self, digest: bytes) -> bool:
        """Whether the blob is there, unverified."""
        with self._explained("read from"):
            return self._path(digest).is_file()

    def size(self, digest: bytes) -> int:
        """Size of a blob in bytes.

        Raises:
            MissingBlob: it isn't there.
        """
        with self._explained("read from"):
            try:
                return self._path(digest).stat().st_size
            except FileNotFoundError:
                raise MissingBlob(digest, self.root) from None

    def delete(self, digest: bytes) -> None:
        """Remove a blob if it is there."""
        with self._explained("delete from"):
            self._path(digest).unlink(missing_ok=True)

    def quarantine(self, digest: bytes) -> Path:
        """Move a blob's file to `ROOT/corrupt/`, where it can be looked at but isn't served; returns its new path."""
        aside = self._corrupt / digest.hex()
        # Another process may have moved it first.
        with self._explained("write to"), suppress(FileNotFoundError):
            self._path(digest).replace(aside)
        return aside

    def digests(self) -> list[bytes]:
        """Content addresses of all blobs, in order; walks the whole store."""
        with self._explained("read from"):
            return sorted(bytes.fromhex(folder.name + file.name) for folder, file in self._files())

    def total_bytes(self) -> int:
        """Bytes of all blobs; walks the whole store."""
        total = 0
        with self._explained("read from"):
            for _, file in self._files():
                with suppress(FileNotFoundError):  # deleted while we walk
                    total += file.stat().st_size
        return total

    def _read(self, digest: bytes, start: int, size: int) -> bytes:
        with self._explained("read from"):
            try:
                with self._path(digest).open("rb", buffering=0) as file:
                    return os.pread(file.fileno(), size, start)
            except FileNotFoundError:
                raise MissingBlob(digest, self.root) from None
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                return b""  # the medium failed under it: no better than flipped bits

    def _found_corrupt(self, digest: bytes) -> DiskCorruption:
        aside = self.quarantine(digest)
        self._leaves.drop(digest)
        return DiskCorruption(f"blob {digest.hex()} is corrupt on disk: moved to {aside}, to be fetched again")

    def _path(self, digest: bytes) -> Path:
        assert len(digest) == 32
        name = digest.hex()
        return self.root / name[:2] / name[2:]

    def _files(self) -> Iterator[tuple[Path, Path]]:
        for folder in self.root.iterdir():
            if len(folder.name) == 2:
                for file in folder.iterdir():
                    yield folder, file

    @staticmethod
    def _is_present(path: Path, size: int) -> bool:
        # A file of another size lost its end (a disk that lies about syncing, a bad copy): write it again.
        try:
            return path.stat().st_size == size
        except FileNotFoundError:
            return False

    def _write(self, path: Path, data: bytes | bytearray | memoryview) -> None:
        path.parent.mkdir(exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._temporary)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123  # a descriptor, not a path
                fcntl.flock(file, fcntl.LOCK_EX)  # tells a sweep that the writer lives
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _moved_into(self, folder: Path, *, sync_folder: bool) -> None:
        if sync_folder:
            _sync_folder(folder)
        else:
            self._unsynced.append(folder)

    def _sweep(self) -> None:
        for file in self._temporary.iterdir():
            with suppress(FileNotFoundError, BlockingIOError):
                # The age spares a writer between creating its file and locking it.
                if time.time() - file.stat().st_mtime < _ABANDONED_AFTER_S:
                    continue
                with file.open("rb") as opened:
                    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    file.unlink()

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                advice = "the disk is full: free some space, what is stored already stays valid"
            elif error.errno in _FORBIDDEN:
                advice = f"{os.strerror(error.errno or 0)}: make it writable for this user, or choose another folder"
            else:
                advice = str(error)
            raise LocalError(f"cannot {action} the chunk store {self.root}: {advice}") from error


def _sync_folder(folder: Path) -> None:
    """Make durable what was moved into a folder; a blob that was deleted since, or its folder, needs no more."""
    with suppress(FileNotFoundError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
