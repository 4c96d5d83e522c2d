"""Memory of all descendants of this process, read from /proc."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import trio

SAMPLE_INTERVAL_S = 1.0
_PROC = Path("/proc")

Measure = Literal["pss", "rss", "none"]


def descendants(root: int) -> list[int]:
    """Process ids of all descendants of `root`, without it; a snapshot that may be out of date at once."""
    children: dict[int, list[int]] = defaultdict(list)
    if not _PROC.is_dir():
        return []
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            parent = _parent_of(entry)
            if parent is not None:
                children[parent].append(int(entry.name))
    found: list[int] = []
    queue = [root]
    while queue:
        below = children[queue.pop()]
        found += below
        queue += below
    return found


def _parent_of(entry: Path) -> int | None:
    try:
        stat = (entry / "stat").read_text()
    except OSError:
        return None  # it ended meanwhile
    # The name in parentheses may hold spaces and parentheses itself; the state and the parent follow the last one.
    return int(stat.rpartition(")")[2].split()[1])


def memory_bytes(pid: int) -> tuple[int, Measure]:
    """Memory of a process: its proportional set size, or its resident set where the kernel doesn't tell; 0 if gone."""
    try:
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024, "pss"
    except OSError:
        pass
    try:
        resident = int((_PROC / str(pid) / "statm").read_text().split()[1])
    except OSError:
        return 0, "none"
    return resident * os.sysconf("SC_PAGE_SIZE"), "rss"


@dataclass
class MemoryPeak:
    """Largest sum seen over all descendants, in bytes, how it was measured, and how many processes it covered."""

    peak_bytes: int = 0
    measure: Measure = "none"
    processes: int = 0

    def sample(self) -> None:
        """Measure once."""
        readings = [memory_bytes(pid) for pid in descendants(os.getpid())]
        total = sum(size for size, _ in readings)
        if total > self.peak_bytes:
            # One process read as RSS makes the sum an upper bound, and is what the report must say.
            self.measure = "rss" if any(measure == "rss" for _, measure in readings) else "pss"
            self.peak_bytes, self.processes = total, len(readings)

    async def watch(self) -> None:
        """Sample once a second until cancelled, in a thread: reading page tables takes milliseconds."""
        while True:
            await trio.to_thread.run_sync(self.sample)
            await trio.sleep(SAMPLE_INTERVAL_S)
