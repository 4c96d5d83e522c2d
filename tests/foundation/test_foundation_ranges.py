"""Content addresses and range proofs: any split gives the same address, any change is refused."""

from __future__ import annotations

from functools import cache

import pytest
from blake3 import blake3
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deepshard.errors import MalformedMessage, RemoteError
from deepshard.primitives import (
    CONTENT_BLOCK_BYTES,
    ContentHasher,
    block_hashes,
    content_address,
    content_digest,
    expand,
    node_hash,
    tagged_hash,
)
from deepshard.ranges import (
    CorruptRange,
    block_count,
    proof_length,
    range_bytes,
    range_proof,
    verify_leaves,
    verify_range,
)

BLOCKS_MAX = 70
sizes = st.integers(0, BLOCKS_MAX * CONTENT_BLOCK_BYTES)


@cache
def _data(size: int) -> bytes:
    return expand(b"range tests", "range tests", BLOCKS_MAX * CONTENT_BLOCK_BYTES)[:size]


def _leaf(block: bytes) -> bytes:
    return blake3(block, derive_key_context="deepshard 2026-11 v1 range leaf").digest()


def _tree(leaves: list[bytes]) -> bytes:
    """The definition of chapter 1.5, word for word."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return tagged_hash("merkle node", _tree(leaves[:split]), _tree(leaves[split:]))


def _subtrees(leaves: list[bytes], low: int, first: int, count: int) -> list[bytes]:
    """The walk of clause 1.5/6, word for word."""
    high = low + len(leaves)
    if first + count <= low or high <= first:
        return [_tree(leaves)]
    if first <= low and high <= first + count:
        return []
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    left, right = leaves[:split], leaves[split:]
    return _subtrees(left, low, first, count) + _subtrees(right, low + split, first, count)


def _blocks(data: bytes) -> list[bytes]:
    starts = range(0, len(data), CONTENT_BLOCK_BYTES) or range(1)
    return [data[start : start + CONTENT_BLOCK_BYTES] for start in starts]


@pytest.mark.clause("1.5/2", "1.5/3", "1.5/4")
@pytest.mark.parametrize("blocks", range(1, BLOCKS_MAX + 1))
def test_the_address_is_the_one_defined(blocks: int) -> None:
    for size in {0, 1, blocks * CONTENT_BLOCK_BYTES, blocks * CONTENT_BLOCK_BYTES - 1}:
        data = _data(size)
        leaves = [_leaf(block) for block in _blocks(data)]
        assert block_hashes(data) == tuple(leaves)
        expected = tagged_hash("content", size.to_bytes(8, "little"), _tree(leaves))
        assert content_digest(data) == content_address(size, leaves) == expected
    assert node_hash(bytes(32), b"\1" * 32) == tagged_hash("merkle node", bytes(32), b"\1" * 32)


@given(sizes, st.lists(st.integers(0, 3 * CONTENT_BLOCK_BYTES), max_size=30))
@example(CONTENT_BLOCK_BYTES, [CONTENT_BLOCK_BYTES - 1, 0, 1])
@example(3 * CONTENT_BLOCK_BYTES, [CONTENT_BLOCK_BYTES, CONTENT_BLOCK_BYTES + 1])
@settings(max_examples=60)
def test_any_split_of_a_stream_gives_the_address_of_the_whole(size: int, pieces: list[int]) -> None:
    data = _data(size)
    hasher = ContentHasher()
    at = 0
    for piece in pieces:
        hasher.update(memoryview(data)[at : at + piece])
        at = min(size, at + piece)
        assert hasher.size == at
        assert hasher.digest() == content_address(at, hasher.leaves)
    hasher.update(bytearray(data[at:]))
    assert hasher.leaves == block_hashes(data)
    assert hasher.digest() == content_digest(data)


def test_no_two_sizes_of_zeros_share_an_address() -> None:
    near = [0, 1, 2, CONTENT_BLOCK_BYTES - 1, CONTENT_BLOCK_BYTES, CONTENT_BLOCK_BYTES + 1, 2 * CONTENT_BLOCK_BYTES]
    assert len({content_digest(bytes(size)) for size in near}) == len(near)


@pytest.mark.clause("1.5/7")
@pytest.mark.parametrize("blocks", range(1, BLOCKS_MAX + 1))
def test_every_range_of_every_size_is_proved(blocks: int) -> None:
    size = blocks * CONTENT_BLOCK_BYTES - (blocks * 37 % CONTENT_BLOCK_BYTES if blocks > 1 else CONTENT_BLOCK_BYTES)
    data = _data(size)
    leaves = list(block_hashes(data))
    address = content_digest(data)
    assert block_count(size) == blocks
    for first in range(blocks):
        for count in range(1, blocks - first + 1):
            proof = range_proof(leaves, first, count)
            assert len(proof) == proof_length(blocks, first, count)
            verify_leaves(address, size=size, first=first, leaves=leaves[first : first + count], proof=proof)
            if count in {1, 2, blocks - first} or first in {0, 3}:
                assert list(proof) == _subtrees(leaves, 0, first, count)
    assert range_proof(leaves, 0, blocks) == ()
    part = data[-CONTENT_BLOCK_BYTES * 2 :] if blocks == 1 else data[(blocks - 1) * CONTENT_BLOCK_BYTES :]
    assert range_bytes(size, blocks - 1, 1) == len(part)
    proof = range_proof(leaves, blocks - 1, 1)
    verify_range(address, size=size, first=blocks - 1, count=1, data=part, proof=proof)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, int, int]:
    size = draw(sizes)
    blocks = block_count(size)
    first = draw(st.integers(0, blocks - 1))
    return size, first, draw(st.integers(1, blocks - first))


def _cut(size: int, first: int, count: int) -> bytes:
    return _data(size)[first * CONTENT_BLOCK_BYTES : (first + count) * CONTENT_BLOCK_BYTES]


@pytest.mark.clause("1.5/7")
@given(ranges(), st.data())
def test_every_changed_bit_is_refused(chosen: tuple[int, int, int], data: st.DataObject) -> None:
    size, first, count = chosen
    address, leaves, part = content_digest(_data(size)), block_hashes(_data(size)), _cut(*chosen)
    proof = range_proof(leaves, first, count)
    verify_range(address, size=size, first=first, count=count, data=part, proof=proof)
    if part:
        bit = data.draw(st.integers(0, len(part) * 8 - 1))
        changed = bytearray(part)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptRange):
            verify_range(address, size=size, first=first, count=count, data=changed, proof=proof)
    if proof:
        index, bit = data.draw(st.integers(0, len(proof) - 1)), data.draw(st.integers(0, 255))
        wrong = bytearray(proof[index])
        wrong[bit // 8] ^= 1 << bit % 8
        mended = (*proof[:index], bytes(wrong), *proof[index + 1 :])
        with pytest.raises(CorruptRange):
            verify_range(address, size=size, first=first, count=count, data=part, proof=mended)
    for bit in range(64):
        with pytest.raises(RemoteError):
            verify_range(address, size=size ^ 1 << bit, first=first, count=count, data=part, proof=proof)
    for bit in range(16):
        with pytest.raises(RemoteError):
            verify_range(address, size=size, first=first ^ 1 << bit, count=count, data=part, proof=proof)
        with pytest.raises(RemoteError):
            verify_range(address, size=size, first=first, count=count ^ 1 << bit, data=part, proof=proof)
    with pytest.raises(CorruptRange):
        verify_range(bytes(32), size=size, first=first, count=count, data=part, proof=proof)


@pytest.mark.clause("1.5/7")
@given(ranges(), st.binary(min_size=32, max_size=32), st.data())
def test_proofs_and_data_of_another_length_are_refused_before_anything_is_hashed(
    chosen: tuple[int, int, int], extra: bytes, data: st.DataObject
) -> None:
    size, first, count = chosen
    leaves, part = block_hashes(_data(size)), _cut(*chosen)
    address, proof = content_address(size, leaves), range_proof(leaves, first, count)
    for wrong in ((*proof, extra), proof[:-1], tuple(digest[:-1] for digest in proof)):
        if wrong != proof:
            with pytest.raises(MalformedMessage, match="hashes"):
                verify_range(address, size=size, first=first, count=count, data=part, proof=wrong)
    for cut in (part + b"!", part[:-1], part + bytes(CONTENT_BLOCK_BYTES), part[CONTENT_BLOCK_BYTES:]):
        if cut != part:
            with pytest.raises(MalformedMessage, match="range of"):
                verify_range(address, size=size, first=first, count=count, data=cut, proof=proof)
    beyond = data.draw(st.integers(block_count(size) - first + 1, 2**62))
    for place, number in ((first, beyond), (first, 0), (first, -1), (-1, count), (block_count(size), 1)):
        with pytest.raises(MalformedMessage, match="blocks from block"):
            verify_range(address, size=size, first=place, count=number, data=part, proof=proof)


@pytest.mark.parametrize("size", [-1, 2**63, 2**64, 2**200])
def test_sizes_that_are_none_are_refused(size: int) -> None:
    with pytest.raises(MalformedMessage, match="range of data of"):
        verify_range(bytes(32), size=size, first=0, count=1, data=b"", proof=())


def test_a_claim_of_a_huge_size_costs_nothing() -> None:
    size = 2**63 - 1
    length = proof_length(block_count(size), 2**40, 64)
    assert length == 43
    part = bytes(64 * CONTENT_BLOCK_BYTES)
    with pytest.raises(CorruptRange):
        verify_range(bytes(32), size=size, first=2**40, count=64, data=part, proof=(bytes(32),) * length)


def test_a_range_isnt_proved_at_another_place_of_equal_blocks() -> None:
    data = bytes(4 * CONTENT_BLOCK_BYTES) + b"end"
    leaves = block_hashes(data)
    proof = range_proof(leaves, 0, 1)
    with pytest.raises(RemoteError):
        verify_leaves(content_digest(data), size=len(data), first=4, leaves=leaves[:1], proof=proof)
