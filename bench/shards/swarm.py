"""A swarm under attack, and the memory that moving a large model takes: real processes over loopback, TCP.

Under attack: four seeders hold the whole model. When a third of it has come one of them is killed and another begins to
send corrupt ranges; when half of it has come a third is killed. What the leecher has received by then, counted on its
links with every header, handshake and tag, is set against the bytes of the blobs.

Memory: one seeder, one leecher. The seeder's blobs are sparse files, each with a number of its own in front, so that
only the leecher's side is written to disk; the path from the file to the socket is the same.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

from deepshard.primitives import CONTENT_BLOCK_BYTES, block_hashes, content_address

from .exchange import BLOB_BYTES, noise
from .models import CACHE
from .swarm_peer import key_of
from .table import Row

SEEDERS: Final = 4
FULL_BLOBS: Final = 512
QUICK_BLOBS: Final = 64
RUNS: Final = 5
MEMORY_FULL_BLOBS: Final = 8_000_000_000 // BLOB_BYTES + 1
MEMORY_QUICK_BLOBS: Final = 64
_KILLED, _KILLED_LATER, _CORRUPT = 1, 2, 3


def swarm_rows(quick: bool) -> list[Row]:  # noqa: FBT001  # as every row of the table
    blobs, runs = (QUICK_BLOBS, 1) if quick else (FULL_BLOBS, RUNS)
    with _folder("swarm") as root:
        digests = _noise_store(root / "source", blobs)
        (root / "digests").write_bytes(b"".join(digests))
        reports = []
        for _ in range(runs):
            reports.append(_under_attack(root, blobs))
            shutil.rmtree(root / "target")
    size = blobs * BLOB_BYTES
    refetched = [(report["received"] - size) / size * 100 for report in reports]
    corrupt = key_of(_CORRUPT).public.hex()
    named = [report["corrupt"] == [corrupt] and corrupt not in report["connected"] for report in reports]
    beside: dict[str, float | str] = {
        "highest of the runs (%)": max(refetched),
        "of that: answers that came to nothing (%)": median(r["wasted"] / size * 100 for r in reports),
        "size (MB)": size / 1e6,
        "speed (MB/s)": median(size / report["seconds"] for report in reports) / 1e6,
    }
    name = f"{SEEDERS} seeders, two killed, one corrupt midway"
    return [
        Row(f"{name}: blobs that came", min(report["verified"] for report in reports) / blobs, "share", 1.0),
        Row(f"{name}: refetched", median(refetched), "%", 2.0, at_least=False, beside=beside),
        Row(f"{name}: the corrupt one named and banned", sum(named) / len(named), "share", 1.0),
    ]


def memory_rows(quick: bool) -> list[Row]:  # noqa: FBT001
    return memory_rows_of(MEMORY_QUICK_BLOBS if quick else MEMORY_FULL_BLOBS)


def memory_rows_of(blobs: int) -> list[Row]:
    """Peaks of both sides; one run, since the peak of a run is what counts."""
    with _folder("memory") as root, ExitStack() as stack:
        digests = _sparse_store(root / "source", blobs)
        (root / "digests").write_bytes(b"".join(digests))
        seeder = stack.enter_context(_peer("seed", root / "source", "1"))
        leecher = stack.enter_context(
            _peer("leech", root / "target", str(root / "digests"), str(BLOB_BYTES), _line(seeder))
        )
        report = _finished(leecher)
        seeder_bytes = int(_asked(seeder, "memory"))
    size = blobs * BLOB_BYTES
    name = f"memory while moving a model of {size / 1e9:.1f} GB"
    beside: dict[str, float | str] = {"speed (MB/s)": size / report["seconds"] / 1e6}
    return [
        Row(f"{name}: seeder", seeder_bytes / 1e6, "MB", 200, at_least=False, beside=beside),
        Row(f"{name}: leecher", report["memory"] / 1e6, "MB", 200, at_least=False),
    ]


def _under_attack(root: Path, blobs: int) -> dict[str, Any]:
    with ExitStack() as stack:
        seeders = {
            number: stack.enter_context(_peer("seed", root / "source", str(number))) for number in range(1, SEEDERS + 1)
        }
        where = [_line(seeder) for seeder in seeders.values()]
        leecher = stack.enter_context(_peer("leech", root / "target", str(root / "digests"), str(BLOB_BYTES), *where))
        _until_done(leecher, blobs // 3)
        _tell(seeders[_CORRUPT], "corrupt")
        seeders[_KILLED].kill()
        _until_done(leecher, blobs // 2)
        seeders[_KILLED_LATER].kill()
        return _finished(leecher)


def _noise_store(folder: Path, blobs: int) -> list[bytes]:
    from deepshard.disk.chunks import ChunkStore  # noqa: PLC0415

    store = ChunkStore(folder)
    return [store.put(noise(number)) for number in range(blobs)]


def _sparse_store(folder: Path, blobs: int) -> list[bytes]:
    """Blobs that are empty but for their number, as the store lays them out."""
    (rest,) = set(block_hashes(bytes(CONTENT_BLOCK_BYTES)))
    digests = []
    for number in range(blobs):
        head = number.to_bytes(8, "little")
        first = block_hashes(head.ljust(CONTENT_BLOCK_BYTES, b"\0"))
        digest = content_address(BLOB_BYTES, first + (rest,) * (BLOB_BYTES // CONTENT_BLOCK_BYTES - 1))
        path = folder / digest.hex()[:2] / digest.hex()[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(head)
            file.truncate(BLOB_BYTES)
        digests.append(digest)
    return digests


def _until_done(leecher: subprocess.Popen[str], blobs: int) -> None:
    while _line(leecher) != f"done {blobs}":
        pass


def _finished(leecher: subprocess.Popen[str]) -> dict[str, Any]:
    while (line := _line(leecher)).startswith("done"):
        pass
    report: dict[str, Any] = json.loads(line)
    return report


def _asked(process: subprocess.Popen[str], question: str) -> str:
    _tell(process, question)
    return _line(process)


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise RuntimeError(f"a process of the bench ended early: {process.args!r}")
    return line


@contextmanager
def _peer(role: str, folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command: Sequence[str] = [sys.executable, "-m", "bench.shards.swarm_peer", role, str(folder), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def _folder(name: str) -> Iterator[Path]:
    root = CACHE / name
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)
