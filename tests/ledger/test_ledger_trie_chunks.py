"""A state in proven pieces: they make up the whole, in any order, and nothing but the truth passes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from deepshard.encoding import decode, encode
from deepshard.errors import MalformedMessage, RemoteError
from deepshard.ledger.trie import EMPTY_ROOT, ENTRY_OVERHEAD_BYTES, ProofStep, Trie, path_of, trie_of
from deepshard.ledger.trie_chunks import (
    PATHS,
    Coverage,
    InvalidStateChunk,
    StateChunk,
    assemble,
    chunk_at,
    cursor_of,
    verify_chunk,
)
from deepshard.limits import BODY_BYTES_MAX, SNAPSHOT_CHUNK_BYTES_MAX

ENTRIES = st.dictionaries(st.binary(max_size=6), st.binary(max_size=40), max_size=60)


def trie_with(count: int, value_bytes: int = 10) -> Trie:
    return trie_of((b"key %d" % i, bytes([i % 256]) * value_bytes) for i in range(count))


def walk(trie: Trie, bytes_max: int) -> Iterator[StateChunk]:
    """Chunk after chunk, each asked for where the one before ends."""
    at = 0
    while at < PATHS:
        chunk = chunk_at(trie, cursor_of(at), bytes_max=bytes_max)
        paths = verify_chunk(trie.root, chunk)
        assert paths.start == at, "neighbours adjoin"
        at = paths.stop
        yield chunk


@pytest.mark.clause("10.8/7")
@settings(max_examples=80, deadline=None)
@given(ENTRIES, st.integers(0, 2000), st.randoms(use_true_random=False))
def test_chunks_adjoin_and_make_up_the_state_in_any_order(
    entries: dict[bytes, bytes], bytes_max: int, rng: random.Random
) -> None:
    trie = trie_of(entries.items())
    chunks = list(walk(trie, bytes_max))
    assert sum(len(chunk.entries) for chunk in chunks) == len(entries)
    rng.shuffle(chunks)
    coverage = Coverage()
    for number, chunk in enumerate(chunks):
        assert coverage.is_complete is False, number
        assert coverage.add(verify_chunk(trie.root, chunk))
        assert not coverage.add(verify_chunk(trie.root, chunk)), "nothing new the second time"
    assert coverage.is_complete
    assert coverage.gaps() == []
    rebuilt = assemble(chunks)
    assert rebuilt.root == trie.root
    assert list(rebuilt.items()) == sorted(entries.items())


@pytest.mark.clause("10.8/4")
@settings(max_examples=60, deadline=None)
@given(ENTRIES, st.integers(0, 2000), st.binary(min_size=32, max_size=32))
def test_any_path_is_answered_by_the_chunk_that_is_responsible_for_it(
    entries: dict[bytes, bytes], bytes_max: int, cursor: bytes
) -> None:
    trie = trie_of(entries.items())
    chunk = chunk_at(trie, cursor, bytes_max=bytes_max)
    paths = verify_chunk(trie.root, chunk)
    assert paths.start <= int.from_bytes(cursor, "big") < paths.stop
    assert decode(encode(chunk), StateChunk, bytes_max=BODY_BYTES_MAX) == chunk
    size = sum(len(key) + len(value) + ENTRY_OVERHEAD_BYTES for key, value in chunk.entries)
    assert len(chunk.entries) <= 1 or size <= bytes_max
    mine = {key for key, _ in chunk.entries}
    for key in entries:
        assert (int.from_bytes(path_of(key), "big") in paths) == (key in mine), "all of its paths, and no other"


def test_gaps_name_exactly_what_is_missing() -> None:
    trie = trie_with(200)
    chunks = list(walk(trie, 2000))
    assert len(chunks) > 8
    held = chunks[::3]
    coverage = Coverage()
    for chunk in held:
        coverage.add(verify_chunk(trie.root, chunk))
    missing = [verify_chunk(trie.root, chunk) for number, chunk in enumerate(chunks) if number % 3]
    for gap in coverage.gaps():
        inside = [paths for paths in missing if paths.start in gap]
        assert (inside[0].start, inside[-1].stop) == (gap.start, gap.stop)
    assert sum(gap.stop - gap.start for gap in coverage.gaps()) == sum(one.stop - one.start for one in missing)


def test_servers_may_cut_the_tree_differently() -> None:
    trie = trie_with(300)
    coarse, fine = list(walk(trie, 9000)), list(walk(trie, 1500))
    assert len(fine) > 2 * len(coarse)
    coverage = Coverage()
    taken = [chunk for chunk in [*fine[::2], *coarse] if coverage.add(verify_chunk(trie.root, chunk))]
    assert coverage.is_complete
    assert assemble(taken).root == trie.root


def test_an_entry_beyond_the_bound_is_a_chunk_of_its_own() -> None:
    trie = trie_with(40).set(b"large", bytes(SNAPSHOT_CHUNK_BYTES_MAX + 1))
    chunks = list(walk(trie, SNAPSHOT_CHUNK_BYTES_MAX))
    alone = [chunk for chunk in chunks if b"large" in dict(chunk.entries)]
    assert [len(chunk.entries) for chunk in alone] == [1]
    assert len(chunks) == len(alone[0].steps) + 1
    assert assemble(chunks).root == trie.root


@pytest.mark.clause("10.8/6")
def test_the_empty_state_is_one_chunk_without_entries() -> None:
    empty = StateChunk((), ())
    assert chunk_at(Trie(), bytes(32)) == empty
    assert verify_chunk(EMPTY_ROOT, empty) == range(PATHS)
    with pytest.raises(InvalidStateChunk):
        verify_chunk(trie_with(3).root, empty)
    with pytest.raises(MalformedMessage):
        verify_chunk(EMPTY_ROOT, StateChunk((ProofStep(0, bytes(32)),), ()))


def alterations(chunk: StateChunk, others: list[StateChunk]) -> Iterator[tuple[str, StateChunk]]:
    """Every kind of change to a chunk with at least two entries and two steps."""
    entries, steps = chunk.entries, chunk.steps
    changed_key, changed_value = (entries[1][0] + b"x", entries[1][1]), (entries[1][0], entries[1][1] + b"x")
    yield "a value", replace(chunk, entries=(entries[0], changed_value, *entries[2:]))
    yield "a key", replace(chunk, entries=(entries[0], changed_key, *entries[2:]))
    yield "the first entry missing", replace(chunk, entries=entries[1:])
    yield "the last entry missing", replace(chunk, entries=entries[:-1])
    yield "an entry twice", replace(chunk, entries=(entries[0], *entries))
    yield "reordered", replace(chunk, entries=entries[::-1])
    yield "no entries", replace(chunk, entries=())
    for number, other in enumerate(others):
        surplus = tuple(sorted((*entries, other.entries[0]), key=lambda entry: path_of(entry[0])))
        yield f"an entry of chunk {number}", replace(chunk, entries=surplus)
        yield f"the steps of chunk {number}", replace(chunk, steps=other.steps)
    yield "no steps", replace(chunk, steps=())
    yield "a step too few at the root", replace(chunk, steps=steps[1:])
    yield "a step too few below", replace(chunk, steps=steps[:-1])
    yield "steps reordered", replace(chunk, steps=steps[::-1])
    yield "a step twice", replace(chunk, steps=(steps[0], *steps))
    yield "a surplus step", replace(chunk, steps=(*steps, ProofStep(255, bytes(32))))
    for number, step in enumerate(steps):
        for field in ({"sibling": bytes(32)}, {"bit": (step.bit + 1) % 256}, {"bit": max(step.bit - 1, 0)}):
            changed: Any = replace(step, **field)
            if changed != step:
                yield f"step {number}: {field}", replace(chunk, steps=(*steps[:number], changed, *steps[number + 1 :]))


def refused(root: bytes, chunk: StateChunk) -> bool:
    try:
        verify_chunk(root, chunk)
    except (MalformedMessage, InvalidStateChunk):
        return True
    return False


@pytest.mark.clause("10.8/5", "10.8/7")
@pytest.mark.parametrize("count", [8, 50, 400])
def test_nothing_altered_missing_surplus_or_reordered_passes(count: int) -> None:
    trie = trie_with(count)
    chunks = [chunk for chunk in walk(trie, 400) if len(chunk.entries) > 1 and len(chunk.steps) > 1]
    assert chunks
    for chunk in chunks[:12]:
        others = [other for other in chunks if other is not chunk][:3]
        for name, altered in alterations(chunk, others):
            assert refused(trie.root, altered), name
        with pytest.raises(InvalidStateChunk):
            verify_chunk(bytes(32), chunk)


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 60), st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_refused(count: int, byte: int, bit: int) -> None:
    trie = trie_with(count)
    encoded = bytearray(encode(chunk_at(trie, path_of(b"key 1"), bytes_max=500)))
    encoded[byte % len(encoded)] ^= 1 << bit
    with pytest.raises(RemoteError):
        verify_chunk(trie.root, decode(bytes(encoded), StateChunk, bytes_max=BODY_BYTES_MAX))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=3), st.binary(max_size=3)), max_size=40))
def test_a_map_made_at_once_is_the_one_made_entry_by_entry(entries: list[tuple[bytes, bytes]]) -> None:
    one_by_one = Trie()
    for key, value in entries:
        one_by_one = one_by_one.set(key, value)
    at_once = trie_of(entries)
    assert at_once.root == one_by_one.root
    assert list(at_once.items()) == list(one_by_one.items())
    grown = at_once.set(b"more", b"1").delete(b"")
    assert grown.root == one_by_one.set(b"more", b"1").delete(b"").root
