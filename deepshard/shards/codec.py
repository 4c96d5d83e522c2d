"""The chunk codec: byte planes, XOR against a base, zstd.

Trained weights are nearly incompressible but for their exponents, so the nine highest bits of each element are rotated
left by one, which puts the sign beside the mantissa and fills the top byte with the exponent (for bf16 and f32
exactly), and byte k of all elements becomes plane k, compressed on its own (the idea of ZipNN, arXiv 2411.05239,
section 3). A delta is the XOR with the base's decoded bytes, cut the same way: unchanged elements are runs of zero
bytes, and the result is exact.

Form of a `planes` or `xor-planes` chunk, integers little-endian:

    version       1 byte, 1
    plane table   4 bytes for each plane: bit 31 set if the plane is a zstd frame, bits 0 to 30 its encoded length
    planes        the encoded planes in the order of the table, nothing after them

The planes follow from the manifest: for each dtype present in the shard, in the order bf16, f16, f32, i8, the elements
of all its slices of that dtype, concatenated; from the most significant byte to the least. A plane is a frame only if
that is shorter than the plane itself, so a chunk is at most 37 bytes longer than its shard. A `raw` chunk is the
decoded shard. A `lora` chunk holds the factors of a low-rank update of the base: see `factors`.

numpy is imported here and in `factors`, `planes` and `rounding` and nowhere else in this room; the control plane
imports none of them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import zstandard

from deepshard.errors import LocalError
from deepshard.primitives import ZERO_DIGEST, content_digest
from deepshard.shards.errors import CorruptChunk, WrongShardSize
from deepshard.shards.factors import Factors, merge_shard, pack_factors, read_ranks, unpack_factors
from deepshard.shards.layout import ITEM_BYTES, shard_name, slice_spans
from deepshard.shards.manifest import DELTA_CODECS, Codec, DType, ShardEntry, TensorEntry, TensorSlice
from deepshard.shards.planes import CONTEXTS, DEFAULT_LEVEL, Bytes, compress_plane, join_elements, split_elements

Spans = Sequence[tuple[DType, int]]
"""Dtype and bytes of each slice, in the order of the decoded shard; see `layout.slice_spans`."""
Buffer = bytes | bytearray | memoryview
"""Bytes that aren't copied without need: a memoryview here is flat and of unsigned bytes."""

_VERSION: Final = 1
_ZSTD_FLAG: Final = 1 << 31


def encode_shard(
    decoded: Buffer,
    spans: Spans,
    codec: Codec,
    *,
    base: Buffer | None = None,
    level: int = DEFAULT_LEVEL,
) -> bytes:
    """Encode the decoded bytes of a shard into its chunk.

    Args:
        decoded: the slices' elements, little-endian, concatenated.
        base: the parent's decoded shard, of the same length; for `xor-planes` and only there.
        level: zstd's compression level where a plane repeats itself.
    """
    assert len(decoded) == _total(spans)
    assert (base is not None) == (codec == "xor-planes")
    if codec == "raw":
        return bytes(decoded)
    data = np.frombuffer(decoded, np.uint8)
    if base is not None:
        assert len(base) == len(decoded)
        data = data ^ np.frombuffer(base, np.uint8)
    table: list[int] = []
    encoded: list[bytes | memoryview] = []
    for item_bytes, elements in _gather(data, spans):
        for plane in split_elements(elements, item_bytes):
            frame = compress_plane(plane, level)
            encoded.append(np.ascontiguousarray(plane).data if frame is None else frame)
            table.append(len(encoded[-1]) | (0 if frame is None else _ZSTD_FLAG))
    return struct.pack(f"<B{len(table)}I", _VERSION, *table) + b"".join(encoded)


def decode_shard(chunk: bytes, spans: Spans, codec: Codec, *, base: Buffer | None = None, name: str = "") -> memoryview:
    """Invert `encode_shard`. `name` is the shard's, for the error.

    Memory is bounded by `spans` whatever the chunk says: every plane's length is known before it is decompressed.

    Raises:
        CorruptChunk: the chunk isn't an encoding of a shard of these spans.
    """
    assert (base is not None) == (codec == "xor-planes")
    total = _total(spans)
    if codec == "raw":
        if len(chunk) != total:
            raise CorruptChunk(name, f"raw chunk is {len(chunk)} bytes, expected {total}")
        return memoryview(chunk)
    sizes = _dtype_sizes(spans)
    lengths = [size // ITEM_BYTES[dtype] for dtype, size in sizes.items() for _ in range(ITEM_BYTES[dtype])]
    planes = iter(_read_planes(chunk, lengths, name))
    joined: dict[DType, Bytes] = {}
    for dtype in sizes:
        item_bytes = ITEM_BYTES[dtype]
        joined[dtype] = join_elements([next(planes) for _ in range(item_bytes)], item_bytes)
    data = _scatter(joined, spans)
    if base is not None:
        assert len(base) == total
        data = data ^ np.frombuffer(base, np.uint8)
    return data.data.toreadonly()


def encode_entry(
    tensors: Sequence[TensorEntry],
    slices: tuple[TensorSlice, ...],
    decoded: Buffer,
    *,
    base: Buffer | None = None,
    level: int = DEFAULT_LEVEL,
) -> tuple[ShardEntry, bytes]:
    """Encode a shard and describe it for the manifest: as a delta where the parent's decoded `base` is given."""
    codec: Codec = "planes" if base is None else "xor-planes"
    chunk = encode_shard(decoded, slice_spans(tensors, slices), codec, base=base, level=level)
    return _entry(slices, decoded, codec, chunk, base), chunk


def encode_lora_entry(
    slices: tuple[TensorSlice, ...],
    decoded: Buffer,
    *,
    base: Buffer,
    factors: Mapping[int, Factors],
) -> tuple[ShardEntry, bytes]:
    """Describe a shard that is its parent's decoded `base` merged with factors, by number of their tensor."""
    ranks, elements = pack_factors(slices, factors)
    chunk = ranks + encode_shard(elements, [("bf16", len(elements))], "planes")
    return _entry(slices, decoded, "lora", chunk, base), chunk


def decode_and_verify(
    entry: ShardEntry, tensors: Sequence[TensorEntry], chunk: bytes, base: Buffer | None = None
) -> memoryview:
    """Decoded bytes of a shard of a checked manifest; the chunk's address is verified before anything is decompressed.

    Args:
        base: decoded bytes of the parent's shard where the entry names one; ignored elsewhere.

    Raises:
        CorruptChunk: the chunk isn't the one named, or doesn't decode to what the manifest says.
        WrongShardSize: the manifest's slices don't come to its size.
        LocalError: the base is missing, or isn't the one the entry builds on: the caller's mistake.
    """
    name = shard_name(tensors, entry.slices)
    spans = slice_spans(tensors, entry.slices)
    if entry.decoded_bytes != _total(spans):
        raise WrongShardSize(f"shard {name} declares {entry.decoded_bytes} bytes, its slices are {_total(spans)}")
    if len(chunk) != entry.chunk_bytes or content_digest(chunk) != entry.chunk:
        raise CorruptChunk(name, f"{len(chunk)} bytes are not the chunk {entry.chunk.hex()}")
    needs_base = entry.codec in DELTA_CODECS
    if needs_base and (base is None or len(base) != entry.decoded_bytes or content_digest(base) != entry.base):
        got = "nothing" if base is None else content_digest(base).hex()
        raise LocalError(f"shard {name} builds on the decoded shard {entry.base.hex()}, got {got}")
    if entry.codec == "lora":
        assert base is not None
        decoded = decode_lora(chunk, tensors, entry.slices, base, name=name)
    else:
        decoded = decode_shard(chunk, spans, entry.codec, base=base if needs_base else None, name=name)
    if content_digest(decoded) != entry.decoded_digest:
        raise CorruptChunk(name, f"chunk {entry.chunk.hex()} does not decode to {entry.decoded_digest.hex()}")
    return decoded


def decode_lora(
    chunk: bytes, tensors: Sequence[TensorEntry], slices: Sequence[TensorSlice], base: Buffer, *, name: str = ""
) -> memoryview:
    """The decoded shard that a `lora` chunk makes of its base, the parent's.

    Raises:
        CorruptChunk: the chunk isn't one of a shard of these slices.
        FlushedSubnormals: this thread doesn't compute as IEEE 754 says.
    """
    ranks, start, size = read_ranks(chunk, tensors, slices, name)
    elements = decode_shard(chunk[start:], [("bf16", size)], "planes", name=name)
    factors = unpack_factors(np.frombuffer(elements, np.uint8), ranks, tensors, name)
    return merge_shard(np.frombuffer(base, np.uint8), tensors, slices, factors).data.toreadonly()


def _entry(
    slices: tuple[TensorSlice, ...], decoded: Buffer, codec: Codec, chunk: bytes, base: Buffer | None
) -> ShardEntry:
    return ShardEntry(
        slices=slices,
        decoded_bytes=len(decoded),
        decoded_digest=content_digest(decoded),
        codec=codec,
        chunk=content_digest(chunk),
        chunk_bytes=len(chunk),
        base=ZERO_DIGEST if base is None else content_digest(base),
    )


def _total(spans: Spans) -> int:
    return sum(size for _, size in spans)


def _dtype_sizes(spans: Spans) -> dict[DType, int]:
    sizes = {dtype: sum(size for kind, size in spans if kind == dtype) for dtype in ITEM_BYTES}
    return {dtype: size for dtype, size in sizes.items() if size}


def _gather(data: Bytes, spans: Spans) -> list[tuple[int, Bytes]]:
    """Element size and elements of each dtype present; no copy where there is only one."""
    sizes = _dtype_sizes(spans)
    if len(sizes) == 1:
        return [(ITEM_BYTES[dtype], data) for dtype in sizes]
    parts: dict[DType, list[Bytes]] = {dtype: [] for dtype in sizes}
    start = 0
    for dtype, size in spans:
        if size:
            parts[dtype].append(data[start : start + size])
        start += size
    return [(ITEM_BYTES[dtype], np.concatenate(pieces)) for dtype, pieces in parts.items()]


def _scatter(joined: dict[DType, Bytes], spans: Spans) -> Bytes:
    if len(joined) == 1:
        return next(iter(joined.values()))
    data = np.empty(_total(spans), np.uint8)
    taken = dict.fromkeys(joined, 0)
    start = 0
    for dtype, size in spans:
        if size:
            data[start : start + size] = joined[dtype][taken[dtype] : taken[dtype] + size]
            taken[dtype] += size
        start += size
    return data


def _read_planes(chunk: bytes, lengths: Sequence[int], name: str) -> list[Bytes]:
    header_bytes = 1 + 4 * len(lengths)
    if len(chunk) < header_bytes:
        raise CorruptChunk(name, f"chunk of {len(chunk)} bytes ends in its header of {header_bytes}")
    version, *table = struct.unpack_from(f"<B{len(lengths)}I", chunk)
    if version != _VERSION:
        raise CorruptChunk(name, f"chunk has version {version}, expected {_VERSION}")
    encoded_bytes = sum(word & ~_ZSTD_FLAG for word in table)
    if len(chunk) != header_bytes + encoded_bytes:
        raise CorruptChunk(name, f"chunk is {len(chunk)} bytes, its header says {header_bytes + encoded_bytes}")
    planes: list[Bytes] = []
    start = header_bytes
    for word, length in zip(table, lengths, strict=True):
        size = word & ~_ZSTD_FLAG
        piece = memoryview(chunk)[start : start + size]
        start += size
        planes.append(np.frombuffer(_read_plane(piece, length, name, is_frame=bool(word & _ZSTD_FLAG)), np.uint8))
    return planes


def _read_plane(piece: memoryview, length: int, name: str, *, is_frame: bool) -> bytes | memoryview:
    if not is_frame:
        if len(piece) != length:
            raise CorruptChunk(name, f"stored plane is {len(piece)} bytes, expected {length}")
        return piece
    if len(piece) >= length:
        raise CorruptChunk(name, f"compressed plane is {len(piece)} bytes for {length}: it has to be stored")
    try:
        # One-shot decompression allocates what the frame declares and ignores its own bound, so the declaration is
        # checked first; it then fills exactly that buffer. Output beyond it, or data after the frame, is an error.
        declared = zstandard.get_frame_parameters(piece).content_size
        if declared != length:
            raise CorruptChunk(name, f"compressed plane declares {declared} bytes, expected {length}")
        data = CONTEXTS.decompressor.decompress(piece, max_output_size=length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptChunk(name, f"compressed plane is broken: {error}") from None
    if len(data) != length:
        raise CorruptChunk(name, f"compressed plane holds {len(data)} bytes, expected {length}")
    return data
