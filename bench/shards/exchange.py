"""One seeder to one leecher over loopback, encrypted and verified to disk, beside others and the limit of the machine.

Every side is a process of its own, and what moves is noise in files of two mebibytes, or one file of the same bytes.
Ours: `deepshard.net.Network` and `ShardExchange` with their stores, nothing left out. The limit: a plain socket, one
BLAKE3 pass, and files written and synced. `libtorrent` moves the same file over TCP, its SHA-1 or SHA-256 checked.
Times run from the first request to the last byte in a file that is where it belongs. Who isn't done after
`PATIENCE_S` is stopped, counts as if it had ended then, which is in its favour, and has no further turns.
"""

from __future__ import annotations

import hashlib
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Final

from deepshard.limits import MIB

from .models import CACHE
from .table import Row, not_measured

BLOB_BYTES: Final = 2 * MIB
FULL_BLOBS: Final = 1024
QUICK_BLOBS: Final = 16
RUNS: Final = 5
PATIENCE_S: Final = 60.0
_LIMIT: Final = "plain socket, BLAKE3, files"
_OTHERS: Final = {
    "libtorrent": ("libtorrent", "torrent"),
    "iroh, a raw QUIC stream": ("iroh", "iroh"),
    "shardcast": ("shardcast", "shardcast"),
}
"""What else moves files: its module, and that of ours which runs it."""
_HOW_TO_INSTALL: Final = "not installed: pip install --group bench (shardcast also needs wget)"
_NAME: Final = "one seeder to one leecher, to a plain socket with BLAKE3 to disk"


def noise(number: int) -> bytes:
    """Blob `number`: bytes that don't compress, the same in every process."""
    return hashlib.shake_128(number.to_bytes(8, "little")).digest(BLOB_BYTES)


def exchange_rows(quick: bool) -> list[Row]:  # noqa: FBT001  # as every row of the table
    blobs, runs = (QUICK_BLOBS, 1) if quick else (FULL_BLOBS, RUNS)
    root = CACHE / "exchange"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    try:
        source = _source(root, blobs)
        ways: dict[str, Callable[[Path], float]] = {
            "ours": partial(_timed, "ours", source, blobs),
            _LIMIT: partial(_timed, "plain", source, blobs),
        }
        for way, (module, kind) in _OTHERS.items():
            if find_spec(module) is not None and (module != "shardcast" or shutil.which("wget")):
                ways[way] = partial(_timed, kind, source, blobs)
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(runs):  # in turns, so that whatever else the machine does falls on all
            for way, call in ways.items():
                if max(taken[way], default=0.0) < PATIENCE_S:
                    target = root / "target"
                    taken[way].append(call(target))
                    shutil.rmtree(target, ignore_errors=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return _rows(taken, blobs)


def _rows(taken: dict[str, list[float]], blobs: int) -> list[Row]:
    size = blobs * BLOB_BYTES
    ours, plain = taken["ours"], taken[_LIMIT]
    beside: dict[str, float | str] = {f"{way} (GB/s)": size / median(seconds) / 1e9 for way, seconds in taken.items()}
    beside["lowest of the runs"] = min(b / a for a, b in zip(ours, plain, strict=False))
    beside["highest"] = max(b / a for a, b in zip(ours, plain, strict=False))
    rows = [Row(_NAME, median(b / a for a, b in zip(ours, plain, strict=False)), "ratio", 0.5, beside=beside)]
    for way in _OTHERS:
        name = f"  to {way}"
        if way in taken:
            stopped: dict[str, float | str] = {}
            if max(taken[way]) >= PATIENCE_S:
                stopped["stopped after (s), of (GB)"] = f"{PATIENCE_S:g}, {size / 1e9:.2f}"
            turns = zip(ours, taken[way], strict=False)
            rows.append(Row(name, median(b / a for a, b in turns), "ratio", 1.0, beside=stopped))
        else:
            rows.append(not_measured(name, "ratio", _HOW_TO_INSTALL, target=1.0))
    return rows


def _source(root: Path, blobs: int) -> Path:
    """A folder with a store of all blobs, and the same bytes as one file."""
    from deepshard.disk.chunks import ChunkStore  # noqa: PLC0415

    source = root / "source"
    store = ChunkStore(source / "store")
    with (source / "file").open("wb") as file:
        for number in range(blobs):
            data = noise(number)
            store.put(data)
            file.write(data)
    return source


def _timed(kind: str, source: Path, blobs: int, target: Path) -> float:
    with _process(kind, "seed", str(source), str(blobs)) as seeder:
        where = _line(seeder)
        with _process(kind, "leech", str(target), str(blobs), where) as leecher:
            assert leecher.stdout is not None
            if not select.select([leecher.stdout], [], [], PATIENCE_S)[0]:
                return PATIENCE_S
            return min(PATIENCE_S, float(_line(leecher)))


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise RuntimeError(f"a process of the bench ended early: {process.args!r}")
    return line


@contextmanager
def _process(kind: str, role: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", f"bench.shards.exchange_{kind}", role, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
