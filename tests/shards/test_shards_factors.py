"""Low-rank updates: what a shard and its factors merge to, and factors that have to be refused."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshard.conformance.vectors.generate.factors import merged_bits
from deepshard.limits import CHUNK_BYTES_MAX, LORA_RANK_MAX
from deepshard.shards.codec import decode_and_verify, decode_lora, encode_lora_entry, encode_shard
from deepshard.shards.errors import CorruptChunk
from deepshard.shards.factors import Factors, merge, merge_shard, round_factors
from deepshard.shards.layout import ITEM_BYTES
from deepshard.shards.manifest import DType, TensorEntry, TensorSlice
from deepshard.shards.planes import Bytes
from deepshard.shards.rounding import FlushedSubnormals

TENSORS = (
    TensorEntry("layers.0.up.weight", "bf16", (12, 8)),
    TensorEntry("layers.0.norm.weight", "f32", (8,)),
    TensorEntry("layers.0.down.weight", "f16", (8, 12)),
    TensorEntry("layers.0.codes", "i8", (4, 4)),
)
WHOLE = (TensorSlice(0, 0, 12), TensorSlice(1, 0, 8), TensorSlice(2, 0, 8), TensorSlice(3, 0, 4))
TORCH = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


def _factors(rows: int, columns: int, rank: int, seed: int = 0, *, size: float = 0.1) -> Factors:
    source = np.random.default_rng(seed)
    values = [(source.standard_normal(shape) * size).astype(np.float32) for shape in ((rows, rank), (rank, columns))]
    return round_factors(*values)


def _weights(tensor: TensorEntry, seed: int = 0) -> Bytes:
    """Ordinary weights of a matrix, as stored, [rows, bytes of a row]."""
    values = torch.from_numpy((np.random.default_rng(seed).standard_normal(tensor.shape) * 0.05).astype(np.float32))
    return values.to(TORCH[tensor.dtype]).view(torch.uint8).numpy().reshape(tensor.shape[0], -1).copy()


def _words(stored: Bytes, dtype: DType) -> list[int]:
    return [int(word) for word in stored.reshape(-1).view(f"<u{ITEM_BYTES[dtype]}")]


_patterns = st.one_of(
    st.integers(0, 2**16 - 1),
    st.sampled_from([0x0000, 0x8000, 0x0001, 0x8001, 0x007F, 0x0080, 0x7F7F, 0xFF7F, 0x3F80, 0x3F81, 0x0400, 0x2F80]),
)
_finite = _patterns.filter(lambda word: word & 0x7F80 != 0x7F80)


@pytest.mark.clause("8.4/12", "8.4/13")
@given(st.data(), st.sampled_from(["bf16", "f16", "f32"]), st.integers(1, 4), st.integers(1, 5), st.integers(1, 4))
@settings(max_examples=120)
def test_merging_is_what_plain_python_computes(
    data: st.DataObject, dtype: DType, rows: int, columns: int, rank: int
) -> None:
    """Against plain Python, step by step: any bit patterns, subnormals and NaN among them."""
    item = ITEM_BYTES[dtype]
    words = st.integers(0, 2 ** (8 * item) - 1) if item == 4 else _patterns
    base = data.draw(st.lists(words, min_size=rows * columns, max_size=rows * columns))
    b = data.draw(st.lists(_finite, min_size=rows * rank, max_size=rows * rank))
    a = data.draw(st.lists(_finite, min_size=rank * columns, max_size=rank * columns))
    factors = Factors(*(_bf16(part, shape) for part, shape in ((b, (rows, rank)), (a, (rank, columns)))))
    stored = np.array(base, f"<u{item}").view(np.uint8).reshape(rows, -1)
    found = _words(merge(stored, TensorEntry("w", dtype, (rows, columns)), factors), dtype)
    expected = [
        merged_bits(dtype, base[row * columns + column], b[row * rank : (row + 1) * rank], a[column::columns])
        for row in range(rows)
        for column in range(columns)
    ]
    assert [hex(word) for word in found] == [hex(word) for word in expected]


def _bf16(words: list[int], shape: tuple[int, int]) -> Any:
    return (np.array(words, "<u4") << 16).astype("<u4").view("<f4").reshape(shape)


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_merging_equals_torch_element_by_element(dtype: DType) -> None:
    """More rows than a piece, of ordinary weights: torch's products and sums, each by itself, give the same bytes."""
    tensor = TensorEntry("w", dtype, (301, 257))
    base, factors = _weights(tensor), _factors(301, 257, 9)
    b, a = (torch.from_numpy(part) for part in factors)
    total = b[:, :1] * a[:1]
    for k in range(1, 9):
        total = total + b[:, k : k + 1] * a[k : k + 1]
    weight = torch.from_numpy(base).view(TORCH[dtype]).reshape(301, 257).float()
    expected = (weight + total).to(TORCH[dtype]).view(torch.uint8).numpy().reshape(301, -1)
    assert np.array_equal(merge(base, tensor, factors), expected)
    assert not np.array_equal(base, expected)


@pytest.mark.clause("8.4/12")
@given(st.lists(st.integers(1, 11), max_size=3, unique=True), st.lists(st.integers(1, 7), max_size=2, unique=True))
@settings(max_examples=40)
def test_parts_merge_to_what_the_whole_has_there(rows: list[int], columns: list[int]) -> None:
    tensor, factors = TENSORS[0], _factors(12, 8, 3)
    base = _weights(tensor)
    whole = merge(base, tensor, factors)
    tops, lefts = [0, *sorted(rows), 12], [0, *sorted(columns), 8]
    for left, right in pairwise(lefts):
        band = (left, right - left) if right - left < 8 else (0, 0)
        cuts = [TensorSlice(0, top, end - top, *band) for top, end in pairwise(tops)]
        inside = slice(2 * left, 2 * right)
        found = merge_shard(base[:, inside].reshape(-1), TENSORS, cuts, {0: factors})
        assert found.tobytes() == whole[:, inside].tobytes()


def test_a_shard_of_several_tensors_changes_where_it_has_factors() -> None:
    norm, codes = np.full(32, 7, np.uint8), np.arange(16, dtype=np.uint8)
    up, down = _weights(TENSORS[0]), _weights(TENSORS[2])
    base = np.concatenate([up.reshape(-1), norm, down.reshape(-1), codes])
    factors = {0: _factors(12, 8, 2), 2: _factors(8, 12, 5, 1)}
    decoded = merge_shard(base, TENSORS, WHOLE, factors)
    expected = [merge(up, TENSORS[0], factors[0]), norm, merge(down, TENSORS[2], factors[2]), codes]
    assert decoded.tobytes() == b"".join(part.tobytes() for part in expected)
    entry, chunk = encode_lora_entry(WHOLE, decoded.data, base=base.data, factors=factors)
    assert struct.unpack_from("<4H", chunk) == (2, 0, 5, 0)
    assert entry.codec == "lora"
    assert decode_and_verify(entry, TENSORS, chunk, base.data) == decoded.data


def test_shards_of_one_tensor_share_a_chunk() -> None:
    base, factors = _weights(TENSORS[0]), _factors(12, 8, 2)
    cuts = (TensorSlice(0, 0, 5),), (TensorSlice(0, 5, 7),)
    made = []
    for slices in cuts:
        part = base[slices[0].row_start :][: slices[0].row_count].reshape(-1)
        decoded = merge_shard(part, TENSORS, slices, {0: factors})
        entry, chunk = encode_lora_entry(slices, decoded.data, base=part.data, factors={0: factors})
        assert decode_and_verify(entry, TENSORS, chunk, part.data) == decoded.data
        made.append(chunk)
    assert made[0] == made[1]


def _chunk(ranks: list[int], elements: bytes) -> bytes:
    return struct.pack(f"<{len(ranks)}H", *ranks) + encode_shard(elements, [("bf16", len(elements))], "planes")


_UP = (TensorSlice(0, 0, 12),)


@pytest.mark.clause("8.4/11")
@pytest.mark.parametrize(
    ("slices", "chunk", "reason"),
    [
        (_UP, b"", "ends in its 1 ranks"),
        (_UP, b"\x02", "ends in its 1 ranks"),
        (_UP, b"\x02\x00", "ends in its header of 9"),
        (_UP, _chunk([1], bytes(80)), "stored plane is 40 bytes, expected 20|declares 40 bytes, expected 20"),
        (_UP, _chunk([3], bytes(80)), "declares 40 bytes, expected 60|has to be stored"),
        (_UP, _chunk([0], bytes(80)), "chunk is .* its header says|ends in its header|header says"),
        (_UP, _chunk([2], bytes(80)) + b"\x00", "header says"),
        (_UP, _chunk([129], bytes(80)), "rank 129, the limit is 128"),
        (_UP, _chunk([2], bytes(78) + b"\x80\x7f"), "not finite"),
        (_UP, _chunk([2], b"\xc0\xff" + bytes(78)), "not finite"),
        ((TensorSlice(1, 0, 8),), _chunk([1], bytes(18)), "norm.weight is no matrix"),
        ((TensorSlice(3, 0, 4),), _chunk([1], bytes(16)), "codes is no matrix"),
    ],
)
def test_broken_factors_are_corrupt(slices: tuple[TensorSlice, ...], chunk: bytes, reason: str) -> None:
    base = bytes(192)[: {0: 192, 1: 32, 3: 16}[slices[0].tensor]]
    with pytest.raises(CorruptChunk, match=reason) as caught:
        decode_lora(chunk, TENSORS, slices, base, name="layer")
    assert caught.value.shard == "layer"


@pytest.mark.clause("8.4/11")
def test_factors_larger_than_a_chunk_are_refused_before_anything_is_allocated() -> None:
    wide = (TensorEntry("wide", "bf16", (2**20, 2**20)),)
    slices = (TensorSlice(0, 0, 2),)
    with pytest.raises(CorruptChunk, match=f"factors are {4 * 2**20 * LORA_RANK_MAX} bytes, the limit is"):
        decode_lora(_chunk([LORA_RANK_MAX], bytes(40)), wide, slices, bytes(2**22))


def test_the_largest_factors_fit_a_chunk() -> None:
    noise = np.random.default_rng(5).integers(0, 256, 2**22, np.uint8)
    noise[1::2] = noise[1::2] & 0x3F | noise[::2] & 0x80  # no infinities
    factors = noise.view("<u2").astype("<u4") << 16
    b = factors.astype("<u4").view("<f4").reshape(-1, 128)
    square = Factors(b[:8192], np.ascontiguousarray(b[8192:].T))
    _, chunk = encode_lora_entry((TensorSlice(0, 0, 1),), bytes(2), base=bytes(2), factors={0: square})
    assert len(chunk) <= CHUNK_BYTES_MAX


@given(st.integers(0, 2**16), st.integers(1, 255))
@settings(max_examples=60)
def test_a_flipped_bit_is_refused(place: int, mask: int) -> None:
    base, factors = _weights(TENSORS[0]).reshape(-1), {0: _factors(12, 8, 2)}
    decoded = merge_shard(base, TENSORS, _UP, factors)
    entry, chunk = encode_lora_entry(_UP, decoded.data, base=base.data, factors=factors)
    flipped = bytearray(chunk)
    flipped[place % len(chunk)] ^= mask
    with pytest.raises(CorruptChunk):
        decode_and_verify(entry, TENSORS, bytes(flipped), base.data)


def test_a_thread_that_flushes_subnormals_does_not_blame_the_sender() -> None:
    tensor, factors = TENSORS[0], _factors(12, 8, 2)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor can't flush subnormal numbers")
    try:
        with pytest.raises(FlushedSubnormals, match="subnormal"):
            merge(_weights(tensor), tensor, factors)
    finally:
        torch.set_flush_denormal(False)
