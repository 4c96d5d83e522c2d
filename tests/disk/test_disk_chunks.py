"""The chunk store: whole blobs or none, verified on every read."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from deepshard.disk.chunks import ChunkStore, MissingBlob
from deepshard.errors import DiskCorruption, LocalError
from deepshard.limits import BLOB_BYTES_MAX
from deepshard.primitives import CONTENT_BLOCK_BYTES, content_digest


@pytest.fixture(name="store")
def _store(tmp_path: Path) -> ChunkStore:
    return ChunkStore(tmp_path / "blobs")


def _path(store: ChunkStore, digest: bytes) -> Path:
    return store.root / digest.hex()[:2] / digest.hex()[2:]


def test_what_is_put_can_be_got_listed_measured_and_deleted(store: ChunkStore) -> None:
    blobs = [b"", b"one", bytes(1000)]
    digests = [store.put(data) for data in blobs]
    assert digests == [content_digest(data) for data in blobs]
    assert [store.get(digest) for digest in digests] == blobs
    assert [store.size(digest) for digest in digests] == [0, 3, 1000]
    assert store.digests() == sorted(digests)
    assert store.total_bytes() == 1003
    assert store.has(digests[1])
    store.delete(digests[1])
    store.delete(digests[1])
    assert not store.has(digests[1])
    assert store.total_bytes() == 1000


def test_blobs_lie_under_their_address_and_outlive_the_store(store: ChunkStore) -> None:
    digest = store.put(memoryview(b"hello"))
    assert _path(store, digest).read_bytes() == b"hello"
    assert ChunkStore(store.root).get(digest) == b"hello"
    assert list((store.root / "tmp").iterdir()) == []


def test_missing_blobs_are_told_from_corrupt_ones(store: ChunkStore) -> None:
    digest = content_digest(b"never stored")
    with pytest.raises(MissingBlob, match=digest.hex()):
        store.get(digest)
    with pytest.raises(MissingBlob):
        store.size(digest)


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "empty"])
def test_a_damaged_blob_is_quarantined_and_can_be_stored_again(store: ChunkStore, damage: str) -> None:
    data = bytes(range(256)) * 8
    digest = store.put(data)
    flipped = data[:100] + bytes([data[100] ^ 4]) + data[101:]
    broken = {"flip": flipped, "cut": data[:-1], "grow": data + b"!", "empty": b""}[damage]
    _path(store, digest).write_bytes(broken)
    with pytest.raises(DiskCorruption, match=rf"blob {digest.hex()} is corrupt on disk: moved to .*/corrupt/"):
        store.get(digest)
    assert not store.has(digest)
    assert (store.root / "corrupt" / digest.hex()).read_bytes() == broken
    assert store.digests() == []
    store.put(data)
    assert store.get(digest) == data


def test_an_oversized_file_is_not_read_whole(store: ChunkStore) -> None:
    digest = store.put(b"small")
    os.truncate(_path(store, digest), 1 << 40)  # sparse
    with pytest.raises(DiskCorruption):
        store.get(digest)


def test_putting_a_blob_whose_file_lost_its_end_writes_it_again(store: ChunkStore) -> None:
    digest = store.put(b"complete")
    _path(store, digest).write_bytes(b"comp")
    store.put(b"complete")
    assert store.get(digest) == b"complete"


def test_a_given_digest_is_used(store: ChunkStore) -> None:
    data = bytes(10)
    assert store.put(data, digest=content_digest(data)) == content_digest(data)
    assert store.get(content_digest(data)) == data


def test_abandoned_temporary_files_are_swept_and_live_ones_spared(store: ChunkStore) -> None:
    folder = store.root / "tmp"
    abandoned, fresh, locked = folder / "abandoned", folder / "fresh", folder / "locked"
    for file in (abandoned, fresh, locked):
        file.write_bytes(b"half a chu")
    for file in (abandoned, locked):
        os.utime(file, (0, 0))
    with locked.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        ChunkStore(store.root)
    assert sorted(folder.iterdir()) == [fresh, locked]


def test_a_writer_killed_midway_leaves_no_blob(store: ChunkStore) -> None:
    script = (
        "import os, sys, pathlib\n"
        "from deepshard.disk.chunks import ChunkStore\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), 9)\n"
        "ChunkStore(pathlib.Path(sys.argv[1])).put(b'x' * 100_000)\n"
    )
    result = subprocess.run([sys.executable, "-c", script, str(store.root)], check=False, timeout=120)
    assert result.returncode == -9
    digest = content_digest(b"x" * 100_000)
    assert not store.has(digest)
    (left,) = (store.root / "tmp").iterdir()
    os.utime(left, (0, 0))
    again = ChunkStore(store.root)
    assert list((store.root / "tmp").iterdir()) == []
    again.put(b"x" * 100_000)
    assert again.get(digest) == b"x" * 100_000


def test_a_folder_that_could_not_be_synced_is_synced_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ChunkStore(tmp_path)
    digest = store.put(b"data", sync_folder=False)
    original = os.fsync

    def fails(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(LocalError):
        store.sync()
    synced: list[int] = []

    def record(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        original(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    store.sync()
    assert synced == [_path(store, digest).parent.stat().st_ino]


def test_folders_that_are_synced_at_the_end_are_synced_once_and_no_sooner(
    store: ChunkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    original = os.fsync

    def record(descriptor: int) -> None:
        state = os.fstat(descriptor)
        if stat.S_ISDIR(state.st_mode):
            synced.append(state.st_ino)
        original(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    digests = [store.put(bytes([number]), sync_folder=False) for number in range(40)]
    data = bytes(2 * CONTENT_BLOCK_BYTES)
    digests.append(content_digest(data))
    assert store.put_range(digests[-1], data, size=len(data), first=0, sync_folder=False).is_complete
    assert synced == []
    store.sync()
    folders = {_path(store, digest).parent for digest in digests}
    assert sorted(synced) == sorted(folder.stat().st_ino for folder in folders)
    store.sync()
    assert len(synced) == len(folders)
    store.put(bytes(3))
    assert len(synced) == len(folders) + 1


def test_what_is_put_again_is_durable_on_return_if_it_was_not_before(
    store: ChunkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = store.put(b"data", sync_folder=False)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    store.put(b"data")
    assert synced == [_path(store, digest).parent.stat().st_ino]


def test_a_full_disk_is_explained_and_leaves_nothing_behind(store: ChunkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = store.put(b"kept")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(LocalError, match=r"cannot store 5 bytes in .*the disk is full: free some space"):
            store.put(b"later")
    assert list((store.root / "tmp").iterdir()) == []
    assert store.digests() == [kept]
    store.put(b"later")
    assert store.get(content_digest(b"later")) == b"later"


def test_a_file_size_limit_is_an_error_of_ours(store: ChunkStore) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(LocalError, match="File too large"):
            store.put(bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.digests() == []


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(LocalError, match="cannot create the chunk store"):
        ChunkStore(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_root_is_explained(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(LocalError, match="make it writable"):
        ChunkStore(tmp_path / "blobs")


def test_read_only_is_explained_for_root_too(store: ChunkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(_descriptor: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "fsync", read_only)
    with pytest.raises(LocalError, match=r"Read-only file system: make it writable for this user"):
        store.put(b"data")


def test_many_threads_may_write_and_read_the_same_blobs(store: ChunkStore) -> None:
    blobs = [bytes([number]) * 2000 for number in range(8)]
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for data in blobs:
                assert store.get(ChunkStore(store.root).put(data)) == data
        except BaseException as error:  # noqa: BLE001  # reported below
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(store.digests()) == len(blobs)
    assert list((store.root / "tmp").iterdir()) == []


def test_the_bound_of_a_blob_fits_one_frame() -> None:
    assert BLOB_BYTES_MAX == 8 << 20
