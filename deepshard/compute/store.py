"""The folder of content-addressed files that node and compute worker share.

A blob lies at `root/ab/cdef...`, named after its content address. The node's chunk store keeps the same layout; the
two rooms stand on one layer and don't import each other, and this side needs only to read and to add.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepshard.errors import DiskCorruption, LocalError
from deepshard.limits import BLOB_BYTES_MAX
from deepshard.primitives import content_digest


class MissingBlob(LocalError):
    """A blob that the work needs isn't in the store."""

    def __init__(self, what: str, digest: bytes, root: Path) -> None:
        super().__init__(f"{what} {digest.hex()[:16]} is not in the store {root}")
        self.digest = digest


class BlobStore:
    """Reads, verifies and adds blobs. Safe from several threads and processes."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def path(self, digest: bytes) -> Path:
        """Where the blob lies, or would lie."""
        name = digest.hex()
        return self.root / name[:2] / name[2:]

    def has(self, digest: bytes) -> bool:
        """Whether the blob is there; its bytes aren't looked at."""
        return self.path(digest).is_file()

    def get(self, digest: bytes, what: str = "blob") -> bytes:
        """Bytes of the blob.

        Raises:
            MissingBlob: it isn't there.
            DiskCorruption: its bytes don't have the digest, or it is larger than any blob.
            LocalError: it can't be read.
        """
        path = self.path(digest)
        try:
            if path.stat().st_size > BLOB_BYTES_MAX:
                raise DiskCorruption(f"{path} is larger than any blob ({BLOB_BYTES_MAX} bytes)")
            data = path.read_bytes()
        except FileNotFoundError:
            raise MissingBlob(what, digest, self.root) from None
        except OSError as error:
            raise LocalError(f"cannot read {path}: {error.strerror}") from error
        if content_digest(data) != digest:
            raise DiskCorruption(f"{path} does not have the content its name states")
        return data

    def put(self, data: bytes | memoryview, *, digest: bytes | None = None, verify: bool = False) -> bytes:
        """Add a blob and return its digest; durable when this returns. Adding one that is there costs a hash.

        Args:
            digest: content address of `data`, where the caller has just computed it.
            verify: whether to read what lies under the blob's name, and to replace it if that is something else.

        Raises:
            LocalError: the disk is full, or the folder can't be written.
        """
        digest = content_digest(data) if digest is None else digest
        path = self.path(digest)
        if path.is_file() and (not verify or self.is_intact(digest)):
            return digest
        with self._explained():
            # As the node's store does it: what a writer that was killed leaves is swept when a node starts there.
            folder = self.root / "tmp"
            folder.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX)
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                    Path(temporary).replace(path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
            opened = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(opened)  # the rename itself: a trainer commits to what lies here
            finally:
                os.close(opened)
        return digest

    def is_intact(self, digest: bytes, size: int | None = None) -> bool:
        """Whether the blob is there, of that size, and its bytes have the digest."""
        try:
            data = self.path(digest).read_bytes()
        except OSError:
            return False
        return (size is None or len(data) == size) and content_digest(data) == digest

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LocalError(f"cannot write to the store {self.root}: {advice(error)}") from error


def advice(error: OSError) -> str:
    """What a person can do about a disk that refuses to be written."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return "the disk is full: free some space and go on, what is stored already stays valid"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"{os.strerror(error.errno)}: make it writable for this user, or choose another folder"
    return error.strerror or str(error)
