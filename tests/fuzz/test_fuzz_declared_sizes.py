"""Sizes that peers declare, up to 2^64, are checked before anything is allocated for them."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import declared_sizes
import pytest

from deepshard.limits import MIB

GROWTH_KIB_MAX = 16 * 1024
"""Of a process that is told of 2^64 bytes some ten thousand times."""


@pytest.mark.parametrize("family", declared_sizes.FAMILIES)
def test_what_is_declared_is_not_allocated(family: str) -> None:
    cases = declared_sizes.FAMILIES[family]
    declared_sizes.refused(next(cases()))
    refusals = 0
    tracemalloc.start()
    try:
        for number, case in enumerate(cases()):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            refusals += declared_sizes.refused(case)
            peak = tracemalloc.get_traced_memory()[1] - before
            assert peak <= declared_sizes.MEMORY_BYTES_MAX.get(family, MIB), f"{family}, case {number}: {peak} bytes"
    finally:
        tracemalloc.stop()
    assert refusals or family in {"packet_sizes", "sealed_fields", "handshake_lengths"}  # sessions raise nothing


def test_the_process_does_not_grow_either() -> None:
    command = [sys.executable, declared_sizes.__file__]
    grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(grown) <= GROWTH_KIB_MAX


def test_the_measure_sees_what_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(declared_sizes.FAMILIES, "careless", lambda: iter([lambda: bytes(2 * MIB)]))
    with pytest.raises(AssertionError, match="careless, case 0"):
        test_what_is_declared_is_not_allocated("careless")
