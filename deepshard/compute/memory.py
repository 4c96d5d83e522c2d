"""How much memory a job may use, from what the machine has left."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Final

from deepshard.limits import MIB

AVAILABLE_SHARE: Final = 0.5
"""Of what is available a job plans to use so much: caches of the disk and other nodes of the machine want some too."""
RETURNED_BYTES: Final = 1 * MIB
"""Blocks from this size on go back to the system when they are freed, if `return_freed` was called."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""Parameters of mallopt(3)."""
_MEMINFO: Final = Path("/proc/meminfo")
_GROUP: Final = Path("/sys/fs/cgroup")


def memory_limit(given_bytes: int) -> int:
    """The limit that a person gave, or, for 0, a share of what is available."""
    return given_bytes or int(AVAILABLE_SHARE * available_bytes())


def available_bytes(meminfo: Path = _MEMINFO, group: Path = _GROUP) -> int:
    """Bytes that can be used without swapping: the kernel's estimate, or what the control group leaves if that is less.

    Where the kernel gives none (other than Linux), half of the machine's memory.
    """
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text("ascii").splitlines() if ":" in line)
        available = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    try:
        limit = int((group / "memory.max").read_text("ascii"))
        used = int((group / "memory.current").read_text("ascii"))
        details = (group / "memory.stat").read_text("ascii").splitlines()
        cached = sum(int(line.split()[1]) for line in details if line.startswith("inactive_file "))
    except (OSError, ValueError):  # no control group, or one without a limit, which reads "max"
        return available
    return max(0, min(available, limit - used + cached))


def return_freed() -> None:
    """Have the C library give freed memory back at once, for the rest of the process; where that is glibc.

    By itself it raises both thresholds to the size of what is freed, up to 32 and 64 MiB, and keeps that much in each
    thread's arena: measured, 230 MB beside 190 MB in use.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, RETURNED_BYTES)
            mallopt(_M_TRIM_THRESHOLD, RETURNED_BYTES)


def in_mib(size: int) -> str:
    """Bytes for people."""
    return f"{size / MIB:,.1f} MiB"
