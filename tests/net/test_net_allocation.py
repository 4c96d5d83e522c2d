"""Memory that links free is kept for the next frame."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# 20 rounds of what a link does with two mebibytes; prints the pages that had to be fetched anew.
PROGRAM = """
import resource, sys
from deepshard.net.allocation import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def rounds(count):
    for _ in range(count):
        pieces = [bytearray(65536) for _ in range(32)]
        joined = b"".join(pieces)
        del pieces, joined
rounds(3)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
rounds(20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these options")
def test_freed_memory_is_not_fetched_again() -> None:
    def faults(mode: str) -> int:
        command = [sys.executable, "-c", PROGRAM, mode]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("kept") < 200
