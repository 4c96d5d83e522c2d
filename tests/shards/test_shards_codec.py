"""The chunk codec: exact, bounded, and smaller than what goes in."""

from __future__ import annotations

import struct
from contextlib import suppress

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshard.errors import LocalError
from deepshard.limits import CHUNK_BYTES_MAX, CHUNK_DECODED_BYTES_MAX
from deepshard.primitives import ZERO_DIGEST, content_digest
from deepshard.shards.codec import decode_and_verify, decode_shard, encode_entry, encode_shard
from deepshard.shards.errors import BadCoverage, CorruptChunk, WrongShardSize
from deepshard.shards.layout import ITEM_BYTES
from deepshard.shards.manifest import DType, TensorEntry, TensorSlice

Spans = list[tuple[DType, int]]
DTYPES: list[DType] = list(ITEM_BYTES)


@st.composite
def _shards(draw: st.DrawFn) -> tuple[Spans, bytes]:
    spans: Spans = [
        (dtype, count * ITEM_BYTES[dtype])
        for dtype, count in draw(st.lists(st.tuples(st.sampled_from(DTYPES), st.integers(0, 80)), max_size=6))
    ]
    size = sum(length for _, length in spans)
    seed = draw(st.integers(0, 2**32 - 1))
    levels = draw(st.sampled_from([1, 4, 256]))
    return spans, np.random.default_rng(seed).integers(0, levels, size, np.uint8).tobytes()


def _bf16_gaussian(elements: int, seed: int = 0) -> bytes:
    values = (np.random.default_rng(seed).standard_normal(elements) * 0.02).astype("<f4")
    return (values.view("<u4") >> 16).astype("<u2").tobytes()


@given(_shards())
@settings(max_examples=80)
def test_planes_round_trip_for_any_mix_of_dtypes(shard: tuple[Spans, bytes]) -> None:
    spans, decoded = shard
    chunk = encode_shard(decoded, spans, "planes")
    assert bytes(decode_shard(chunk, spans, "planes")) == decoded
    assert len(chunk) <= len(decoded) + 37


@given(_shards(), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_xor_planes_round_trip_against_any_base(shard: tuple[Spans, bytes], seed: int) -> None:
    spans, decoded = shard
    base = np.random.default_rng(seed).integers(0, 256, len(decoded), np.uint8).tobytes()
    chunk = encode_shard(decoded, spans, "xor-planes", base=base)
    assert decode_shard(chunk, spans, "xor-planes", base=base) == decoded


def test_planes_of_known_elements_hold_exponent_then_mantissa_and_sign() -> None:
    # 1.0 is 0x3F80 (exponent 127), -2.0 is 0xC000 (exponent 128): rotated 0x7F00 and 0x8080.
    decoded = struct.pack("<2H", 0x3F80, 0xC000)
    chunk = encode_shard(decoded, [("bf16", 4)], "planes")
    assert chunk == struct.pack("<B2I", 1, 2, 2) + b"\x7f\x80" + b"\x00\x80"


def test_f32_planes_run_from_the_exponent_down() -> None:
    chunk = encode_shard(struct.pack("<I", 0x81020304), [("f32", 4)], "planes")  # rotated: 0x02820304
    assert chunk == struct.pack("<B4I", 1, 1, 1, 1, 1) + b"\x02\x82\x03\x04"


def test_slices_of_one_dtype_are_gathered_across_others() -> None:
    spans: Spans = [("i8", 1), ("f16", 2), ("i8", 2)]
    decoded = b"A" + struct.pack("<H", 0x8001) + b"BC"
    chunk = encode_shard(decoded, spans, "planes")
    assert chunk == struct.pack("<B3I", 1, 1, 1, 3) + b"\x00\x81" + b"ABC"
    assert bytes(decode_shard(chunk, spans, "planes")) == decoded


def test_raw_is_the_bytes_themselves() -> None:
    assert encode_shard(b"abcd", [("f32", 4)], "raw") == b"abcd"
    assert bytes(decode_shard(b"abcd", [("f32", 4)], "raw")) == b"abcd"
    with pytest.raises(CorruptChunk, match="raw chunk is 3 bytes, expected 4"):
        decode_shard(b"abc", [("f32", 4)], "raw")


def test_bf16_weights_shrink_below_three_quarters_and_below_plain_zstd() -> None:
    decoded = _bf16_gaussian(1 << 19)
    chunk = encode_shard(decoded, [("bf16", len(decoded))], "planes")
    assert len(chunk) < 0.72 * len(decoded)
    assert len(chunk) < len(zstandard.ZstdCompressor(level=3).compress(decoded))


def test_a_delta_costs_what_changed() -> None:
    base = _bf16_gaussian(1 << 19)
    words = np.frombuffer(base, "<u2").copy()
    changed = np.random.default_rng(1).choice(len(words), len(words) // 20, replace=False)
    words[changed] ^= np.uint16(1)
    chunk = encode_shard(words.tobytes(), [("bf16", len(base))], "xor-planes", base=base)
    assert len(chunk) < 0.05 * len(base)


def test_random_bytes_are_stored_not_inflated() -> None:
    decoded = np.random.default_rng(2).integers(0, 256, CHUNK_DECODED_BYTES_MAX, np.uint8).tobytes()
    chunk = encode_shard(decoded, [("f32", len(decoded))], "planes")
    assert len(chunk) == len(decoded) + 17 <= CHUNK_BYTES_MAX
    assert decode_shard(chunk, [("f32", len(decoded))], "planes") == decoded


@pytest.mark.clause("8.4/9")
def test_a_chunk_may_be_compressed_in_any_way() -> None:
    decoded = bytes(range(64)) * 64
    spans: Spans = [("bf16", len(decoded))]
    chunks = {encode_shard(decoded, spans, "planes", level=level) for level in (-5, 1, 3, 19)}
    planes = decoded[1::2], decoded[::2]
    chunks.add(_chunk_of(*((_rotated(planes)[k], False) for k in (0, 1))))
    assert len(chunks) > 2
    assert {bytes(decode_shard(chunk, spans, "planes")) for chunk in chunks} == {decoded}


def _rotated(planes: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """High and low bytes of 16-bit elements after the rotation of clause 8.4/3, word for word."""
    elements = [high << 8 | low for high, low in zip(*planes, strict=True)]
    turned = [(element >> 6 & 0x1FE | element >> 15) << 7 | element & 0x7F for element in elements]
    return bytes(element >> 8 for element in turned), bytes(element & 0xFF for element in turned)


def _chunk_of(*planes: tuple[bytes, bool]) -> bytes:
    table = [len(data) | (int(is_frame) << 31) for data, is_frame in planes]
    return struct.pack(f"<B{len(table)}I", 1, *table) + b"".join(data for data, _ in planes)


@pytest.mark.clause("8.4/5", "8.4/7")
@pytest.mark.parametrize(
    ("chunk", "reason"),
    [
        (b"", "ends in its header of 5"),
        (b"\x01\x00\x00", "ends in its header of 5"),
        (b"\x02" + _chunk_of((b"x" * 64, False))[1:], "version 2, expected 1"),
        (_chunk_of((b"x" * 64, False)) + b"!", "header says 69"),
        (_chunk_of((b"x" * 64, False))[:-1], "header says 69"),
        (_chunk_of((b"x" * 63, False)), "stored plane is 63 bytes, expected 64"),
        (_chunk_of((b"x" * 64, True)), "has to be stored"),
        (_chunk_of((b"not zstd", True)), "is broken"),
        (_chunk_of((zstandard.ZstdCompressor().compress(bytes(65)), True)), "declares 65 bytes, expected 64"),
        (_chunk_of((zstandard.ZstdCompressor().compress(bytes(2**22)), True)), "has to be stored"),
        (_chunk_of((zstandard.ZstdCompressor().compress(bytes(64))[:-2], True)), "is broken"),
        (_chunk_of((zstandard.ZstdCompressor().compress(bytes(64)) + b"\0", True)), "is broken"),
        (_chunk_of((zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64)), True)), "declares"),
        (_chunk_of((struct.pack("<II", 0x184D2A50, 0), True)), "declares 0 bytes|holds 0 bytes|is broken"),
        (_chunk_of((struct.pack("<II", 0x184D2A50, 64), True)), "holds 0 bytes|is broken"),
    ],
)
def test_broken_chunks_are_corrupt(chunk: bytes, reason: str) -> None:
    with pytest.raises(CorruptChunk, match=reason) as caught:
        decode_shard(chunk, [("i8", 64)], "planes", name="layer")
    assert caught.value.shard == "layer"


@pytest.mark.clause("8.4/7")
def test_a_bomb_is_refused_by_its_declared_size() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(64 << 20))
    assert len(bomb) < 10_000
    with pytest.raises(CorruptChunk, match=f"declares {64 << 20} bytes, expected {1 << 20}"):
        decode_shard(_chunk_of((bomb, True)), [("i8", 1 << 20)], "planes")


@pytest.mark.clause("8.4/5", "8.4/7")
def test_a_frame_that_declares_less_than_it_holds_is_refused() -> None:
    frame = bytearray(zstandard.ZstdCompressor(level=19).compress(bytes(64 << 20)))
    assert zstandard.get_frame_parameters(bytes(frame)).content_size == 64 << 20
    position = bytes(frame).index(struct.pack("<I", 64 << 20))
    frame[position : position + 4] = struct.pack("<I", 1 << 20)
    with pytest.raises(CorruptChunk, match="is broken"):
        decode_shard(_chunk_of((bytes(frame), True)), [("i8", 1 << 20)], "planes")


@given(st.integers(0, 2**16), st.integers(1, 255), st.integers(0, 2**16))
@settings(max_examples=100)
def test_flipped_and_truncated_chunks_decode_or_are_corrupt(position: int, mask: int, cut: int) -> None:
    decoded = _bf16_gaussian(500)
    spans: Spans = [("bf16", 1000)]
    chunk = bytearray(encode_shard(decoded, spans, "planes"))
    chunk[position % len(chunk)] ^= mask
    for broken in (bytes(chunk), bytes(chunk[: cut % len(chunk)])):
        with suppress(CorruptChunk):
            assert len(decode_shard(broken, spans, "planes")) == len(decoded)


@given(st.binary(max_size=300), _shards())
@settings(max_examples=100)
def test_arbitrary_bytes_decode_or_are_corrupt(chunk: bytes, shard: tuple[Spans, bytes]) -> None:
    spans, decoded = shard
    with suppress(CorruptChunk):
        assert len(decode_shard(chunk, spans, "planes")) == len(decoded)


TENSORS = (TensorEntry("a.weight", "bf16", (50, 8)), TensorEntry("a.scale", "f32", ()))
SLICES = (TensorSlice(0, 10, 40), TensorSlice(1, 0, 1))
DECODED = _bf16_gaussian(320) + struct.pack("<f", 0.5)
BASE = _bf16_gaussian(320, seed=1) + struct.pack("<f", 0.25)


def test_an_entry_describes_its_chunk_and_verifies() -> None:
    entry, chunk = encode_entry(TENSORS, SLICES, DECODED)
    assert (entry.slices, entry.decoded_bytes, entry.chunk_bytes) == (SLICES, 644, len(chunk))
    assert (entry.codec, entry.base) == ("planes", ZERO_DIGEST)
    assert (entry.decoded_digest, entry.chunk) == (content_digest(DECODED), content_digest(chunk))
    assert decode_and_verify(entry, TENSORS, chunk) == DECODED


def test_a_delta_entry_needs_its_very_base() -> None:
    entry, chunk = encode_entry(TENSORS, SLICES, DECODED, base=BASE)
    assert (entry.codec, entry.base) == ("xor-planes", content_digest(BASE))
    assert decode_and_verify(entry, TENSORS, chunk, BASE) == DECODED
    with pytest.raises(LocalError, match="got nothing"):
        decode_and_verify(entry, TENSORS, chunk)
    with pytest.raises(LocalError, match=r"a\.weight\[10:50\] and 1 more builds on"):
        decode_and_verify(entry, TENSORS, chunk, DECODED)


@pytest.mark.clause("8.4/6")
def test_a_wrong_chunk_is_named_before_it_is_decompressed() -> None:
    entry, chunk = encode_entry(TENSORS, SLICES, DECODED)
    flipped = bytes([chunk[0] ^ 1]) + chunk[1:]
    with pytest.raises(CorruptChunk, match="are not the chunk") as caught:
        decode_and_verify(entry, TENSORS, flipped)
    assert caught.value.shard == "a.weight[10:50] and 1 more"


@pytest.mark.clause("8.4/8")
def test_a_manifest_that_lies_about_the_content_is_found_out() -> None:
    entry, chunk = encode_entry(TENSORS, SLICES, DECODED)
    lie = type(entry)(SLICES, 644, content_digest(b"else"), "planes", entry.chunk, entry.chunk_bytes, ZERO_DIGEST)
    with pytest.raises(CorruptChunk, match="does not decode to"):
        decode_and_verify(lie, TENSORS, chunk)
    short = type(entry)(SLICES, 640, entry.decoded_digest, "planes", entry.chunk, entry.chunk_bytes, ZERO_DIGEST)
    with pytest.raises(WrongShardSize, match="declares 640 bytes, its slices are 644"):
        decode_and_verify(short, TENSORS, chunk)
    with pytest.raises(BadCoverage, match="names tensor 1 of 1"):
        decode_and_verify(entry, TENSORS[:1], chunk)
