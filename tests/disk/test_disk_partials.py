"""Blobs that come in ranges: kept across processes, verified as a whole, bounded in number and age."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepshard.disk.chunks import ChunkStore, MissingBlob
from deepshard.disk.leaves import LeafCache, Leaves
from deepshard.disk.partials import PartialState
from deepshard.errors import DiskCorruption
from deepshard.limits import PARTIAL_AGE_S_MAX, PARTIALS_MAX, RANGE_BLOCKS_MAX
from deepshard.primitives import CONTENT_BLOCK_BYTES, ContentHasher, block_hashes, content_digest
from deepshard.ranges import range_bytes

DATA = bytes(range(251)) * 1000  # 15 blocks and a part of one
DIGEST = content_digest(DATA)
BLOCKS = 16


@pytest.fixture(name="store")
def _store(tmp_path: Path) -> ChunkStore:
    return ChunkStore(tmp_path / "blobs")


def _blocks(first: int, count: int) -> bytes:
    return DATA[first * CONTENT_BLOCK_BYTES : (first + count) * CONTENT_BLOCK_BYTES]


def _keep(store: ChunkStore, first: int, count: int) -> PartialState:
    return store.put_range(DIGEST, _blocks(first, count), size=len(DATA), first=first)


def _partial(store: ChunkStore) -> Path:
    return store.root / "partial" / DIGEST.hex()


@pytest.mark.parametrize("order", [(0, 5, 10, 13), (13, 10, 5, 0), (10, 0, 13, 5)])
def test_ranges_in_any_order_make_the_blob(store: ChunkStore, order: tuple[int, ...]) -> None:
    counts = {0: 5, 5: 5, 10: 3, 13: 3}
    held = 0
    for number, first in enumerate(order):
        assert not store.has(DIGEST)
        state = _keep(store, first, counts[first])
        held |= ((1 << counts[first]) - 1) << first
        assert state == PartialState(len(DATA), held)
        assert state.is_complete == (number == 3)
        if not state.is_complete:
            assert store.partial(DIGEST) == ChunkStore(store.root).partial(DIGEST) == state
    assert store.get(DIGEST) == DATA
    assert store.partial(DIGEST) is None
    assert list((store.root / "partial").iterdir()) == []
    assert store.digests() == [DIGEST]


def test_a_range_of_a_blob_that_is_there_changes_nothing(store: ChunkStore) -> None:
    store.put(DATA)
    assert _keep(store, 3, 2).is_complete
    assert list((store.root / "partial").iterdir()) == []


def test_a_blob_that_is_put_whole_leaves_no_partial(store: ChunkStore) -> None:
    _keep(store, 0, 5)
    store.put(DATA)
    assert store.partial(DIGEST) is None


@pytest.mark.parametrize("place", [0, 5 * CONTENT_BLOCK_BYTES, len(DATA) - 1])
def test_what_rots_in_a_partial_is_noticed_and_discarded(store: ChunkStore, place: int) -> None:
    _keep(store, 0, 8)
    _keep(store, 9, 7)
    with _partial(store).open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    os.utime(_partial(store), ns=(0, 0))  # a coarse clock might not show that it was written to
    with pytest.raises(DiskCorruption, match=rf"partial {DIGEST.hex()} was corrupt on disk"):
        _keep(store, 8, 1)
    assert not store.has(DIGEST)
    assert store.partial(DIGEST) is None
    assert _keep(store, 0, 16).is_complete
    assert store.get(DIGEST) == DATA


@pytest.mark.clause("8.8/4")
def test_only_what_another_has_written_is_read_back(store: ChunkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    class Hasher(ContentHasher):
        def update(self, data: bytes | bytearray | memoryview) -> None:
            read.append(len(data))
            super().update(data)

    monkeypatch.setattr("deepshard.disk.partials.ContentHasher", Hasher)
    _keep(store, 0, 8)
    _keep(store, 8, 8)
    assert read == []
    assert store.get(DIGEST) == DATA

    store.delete(DIGEST)
    _keep(store, 0, 8)
    _keep(ChunkStore(store.root), 8, 8)  # as after a restart
    assert sum(read) == len(DATA)

    store.delete(DIGEST)
    _keep(store, 0, 8)
    _keep(ChunkStore(store.root), 8, 4)
    _keep(store, 12, 4)
    assert sum(read) == 2 * len(DATA)


@pytest.mark.parametrize("damage", ["empty", "cut", "grown", "magic", "size", "bits beyond"])
def test_a_footer_that_is_none_counts_as_nothing(store: ChunkStore, damage: str) -> None:
    _keep(store, 0, 8)
    whole = _partial(store).read_bytes()
    size = len(DATA).to_bytes(8, "little")
    assert whole[-16:-8] == size
    broken = {
        "empty": b"",
        "cut": whole[:-1],
        "grown": whole + b"\0",
        "magic": whole[:-1] + b"!",
        "size": whole[:-16] + (1 << 62).to_bytes(8, "little") + whole[-8:],
        "bits beyond": bytes(10) + b"\xff" + (10).to_bytes(8, "little") + whole[-8:],
    }[damage]
    _partial(store).write_bytes(broken)
    assert store.partial(DIGEST) is None
    assert _keep(store, 8, 8) == PartialState(len(DATA), 0xFF00)
    assert _keep(store, 0, 8).is_complete
    assert store.get(DIGEST) == DATA


def test_a_partial_of_another_size_is_begun_anew(store: ChunkStore) -> None:
    other = content_digest(b"x")
    store.put_range(other, bytes(CONTENT_BLOCK_BYTES), size=2 * CONTENT_BLOCK_BYTES, first=0)
    assert store.put_range(other, b"x", size=1, first=0).is_complete
    assert store.get(other) == b"x"


def test_a_writer_killed_while_it_finishes_leaves_no_blob(store: ChunkStore) -> None:
    script = (
        "import os, sys, pathlib\n"
        "from deepshard.disk.chunks import ChunkStore\n"
        "from deepshard.primitives import content_digest\n"
        "data = bytes(range(251)) * 1000\n"
        "store = ChunkStore(pathlib.Path(sys.argv[1]))\n"
        "store.put_range(content_digest(data), data[:65536], size=len(data), first=0)\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), 9)\n"
        "store.put_range(content_digest(data), data[65536:], size=len(data), first=4)\n"
    )
    result = subprocess.run([sys.executable, "-c", script, str(store.root)], check=False, timeout=120)
    assert result.returncode == -9
    assert not store.has(DIGEST)
    assert store.partial(DIGEST) is None  # its footer was cut off already
    assert _keep(store, 0, 16).is_complete


def test_a_complete_partial_is_finished_by_the_next_process(store: ChunkStore) -> None:
    _keep(store, 0, 15)
    with _partial(store).open("r+b") as file:
        file.seek(15 * CONTENT_BLOCK_BYTES)
        file.write(_blocks(15, 1))
        file.write(b"\xff\xff")
    state = ChunkStore(store.root).partial(DIGEST)
    assert state is not None
    assert state.is_complete
    assert store.get(DIGEST) == DATA


def test_many_threads_may_bring_ranges_of_one_blob(store: ChunkStore) -> None:
    failures: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for count in (1, 2):
                _keep(ChunkStore(store.root), first, count)
        except BaseException as error:  # noqa: BLE001  # reported below
            failures.append(error)

    for _ in range(5):
        threads = [threading.Thread(target=work, args=(first,)) for first in range(0, BLOCKS, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert store.get(DIGEST) == DATA
        store.delete(DIGEST)
        assert list((store.root / "partial").iterdir()) == []


def test_partials_are_bounded_in_age_and_number_and_active_ones_spared(store: ChunkStore) -> None:
    folder, now = store.root / "partial", time.time()
    ages = {f"{number:064x}": 100.0 + number for number in range(PARTIALS_MAX + 5)}
    ages |= {"a" * 64: PARTIAL_AGE_S_MAX + 10, "b" * 64: 1.0}
    for name, age in ages.items():
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (now - age, now - age))
    ChunkStore(store.root)
    kept = {file.name for file in folder.iterdir()}
    assert kept == set(sorted(ages, key=ages.__getitem__)[:PARTIALS_MAX])
    for name in kept:
        os.utime(folder / name, (now, now))
    assert not _keep(store, 0, 1).is_complete
    assert len(list(folder.iterdir())) == PARTIALS_MAX + 1


@given(st.integers(1, 200), st.integers(min_value=0))
def test_missing_runs_are_the_blocks_that_are_not_held(blocks: int, bits: int) -> None:
    state = PartialState(blocks * CONTENT_BLOCK_BYTES - 5, bits & (1 << blocks) - 1)
    runs = state.missing()
    listed = [block for first, count in runs for block in range(first, first + count)]
    assert listed == [block for block in range(blocks) if not state.held >> block & 1]
    assert state.is_complete == (not runs)
    assert state.held_bytes == sum(
        range_bytes(state.size, block, 1) for block in range(blocks) if state.held >> block & 1
    )
    for first, count in runs:
        assert first // RANGE_BLOCKS_MAX == (first + count - 1) // RANGE_BLOCKS_MAX


def test_ranges_are_read_against_remembered_leaves(store: ChunkStore) -> None:
    store.put(DATA)
    assert store.leaves(DIGEST) == Leaves(len(DATA), block_hashes(DATA))
    leaves = store.leaves(DIGEST)
    assert store.get_range(DIGEST, 0, BLOCKS) == (leaves, DATA)
    assert store.get_range(DIGEST, 15, 1) == (leaves, _blocks(15, 1))
    assert store.get_range(DIGEST, 15, 9) == (leaves, _blocks(15, 1))
    assert store.get_range(DIGEST, 16, 1) == (leaves, b"")
    fresh = ChunkStore(store.root)
    assert fresh.get_range(DIGEST, 3, 2) == (leaves, _blocks(3, 2))
    assert ChunkStore(store.root).get_range(DIGEST, 16, 1) == (leaves, b"")
    store.delete(DIGEST)
    with pytest.raises(MissingBlob):
        store.get_range(DIGEST, 0, 1)
    with pytest.raises(MissingBlob):
        store.leaves(content_digest(b"never stored"))


@pytest.mark.parametrize("is_known", [True, False])
def test_a_corrupt_range_is_never_read_and_the_blob_moved_aside(store: ChunkStore, is_known: bool) -> None:  # noqa: FBT001
    store.put(DATA)
    if is_known:
        store.leaves(DIGEST)
    path = store.root / DIGEST.hex()[:2] / DIGEST.hex()[2:]
    path.write_bytes(DATA[:40_000] + b"rot" + DATA[40_003:])
    if is_known:
        assert store.get_range(DIGEST, 0, 2)[1] == _blocks(0, 2)  # sound in itself
    with pytest.raises(DiskCorruption):
        store.get_range(DIGEST, 2, 1)
    assert not store.has(DIGEST)
    with pytest.raises(MissingBlob):
        store.leaves(DIGEST)


def test_the_cache_of_leaves_is_bounded_and_forgets_the_longest_unused() -> None:
    cache = LeafCache(hashes_max=10)
    leaves = Leaves(1, (bytes(32),) * 4)
    for name in (b"a", b"b"):
        cache.put(name, leaves)
    assert cache.get(b"a") == leaves
    cache.put(b"c", leaves)
    assert cache.get(b"b") is None
    assert cache.get(b"a") == cache.get(b"c") == leaves
    cache.put(b"c", leaves)
    cache.put(b"d", Leaves(1, (bytes(32),) * 11))
    assert all(cache.get(name) is None for name in (b"a", b"c", b"d"))
    cache.drop(b"d")
