"""Every harness takes its corpus and mutations of it: a value or the documented error, within the memory bound."""

from __future__ import annotations

import time
import tracemalloc

import harness
import pytest

MUTATIONS = 2_000
SECONDS_MAX = 1.5
"""Of mutations, for each harness; slow ones take as many as fit."""
MEASURED = 150
"""Inputs whose memory is measured, which takes several times as long."""


@pytest.mark.parametrize("name", harness.names())
def test_any_bytes_give_a_value_or_the_documented_error(name: str) -> None:
    target = harness.load(name)
    started = time.monotonic()
    accepted = 0
    for data in harness.mutations(name, target, MUTATIONS):
        accepted += target.run(data)
        if time.monotonic() - started > SECONDS_MAX:
            break
    assert accepted > 0, "no input got through: the corpus doesn't fit the code"


@pytest.mark.parametrize("name", harness.names())
def test_no_input_takes_more_memory_than_the_bound(name: str) -> None:
    target = harness.load(name)
    tracemalloc.start()
    try:
        for data in harness.mutations(name, target, MEASURED):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            target.run(data)
            assert tracemalloc.get_traced_memory()[1] - before <= target.memory_bytes_max, data.hex()
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", harness.names())
def test_the_corpus_is_what_the_generator_makes(name: str) -> None:
    # Names only: what zstd makes of the same bytes may differ between its versions.
    assert sorted(harness.corpus(name)) == sorted(harness.load(name).seeds()), "run tests/fuzz/seed_corpus.py"
