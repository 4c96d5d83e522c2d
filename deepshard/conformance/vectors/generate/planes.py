"""Shards and chunks as chapter 8.4 words them, in plain Python: planes, XOR, and zstd frames written by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from deepshard.conformance.vectors.generate.framing import rle, zstd
from deepshard.primitives import ZERO_DIGEST, content_digest
from deepshard.shards.manifest import Codec, DType, ShardEntry, TensorEntry, TensorSlice

WIDTHS: Final[dict[DType, int]] = {"bf16": 2, "f16": 2, "f32": 4, "i8": 1}
TENSORS: Final = (
    TensorEntry("embed", "bf16", (6, 8)),
    TensorEntry("norm", "f32", (5,)),
    TensorEntry("scale", "f16", ()),
    TensorEntry("quantised", "i8", (3, 7)),
    TensorEntry("empty", "bf16", (0, 8)),
)
MIXED: Final = (
    TensorSlice(0, 2, 4),
    TensorSlice(1, 0, 5),
    TensorSlice(2, 0, 1),
    TensorSlice(3, 0, 3),
    TensorSlice(4, 0, 0),
)
Compress = Callable[[bytes], tuple[bytes, bool]]
"""Encoded plane, and whether it is compressed."""


def span_bytes(tensor: TensorEntry, part: TensorSlice) -> int:
    """Bytes of a slice."""
    columns = part.column_count
    if not columns:
        columns = 1
        for dimension in tensor.shape[1:]:
            columns *= dimension
    return part.row_count * columns * WIDTHS[tensor.dtype]


def planes_of(decoded: bytes, tensors: Sequence[TensorEntry], slices: Sequence[TensorSlice]) -> list[bytes]:
    """The planes of a shard in their order."""
    elements: dict[DType, bytes] = {}
    at = 0
    for part in slices:
        tensor = tensors[part.tensor]
        size = span_bytes(tensor, part)
        elements[tensor.dtype] = elements.get(tensor.dtype, b"") + decoded[at : at + size]
        at += size
    planes: list[bytes] = []
    for dtype, width in WIDTHS.items():
        data = elements.get(dtype, b"")
        words = [int.from_bytes(data[place : place + width], "little") for place in range(0, len(data), width)]
        if width > 1:
            low = 8 * width - 9
            tops = [(word >> low, word & (1 << low) - 1) for word in words]
            words = [((top << 1 | top >> 8) & 0x1FF) << low | rest for top, rest in tops]
        if words:
            planes += (bytes(word >> 8 * (width - 1 - k) & 0xFF for word in words) for k in range(width))
    return planes


def stored(plane: bytes) -> tuple[bytes, bool]:
    """A plane as it is."""
    return plane, False


def squeezed(plane: bytes) -> tuple[bytes, bool]:
    """A plane of one repeated byte compressed, any other as it is."""
    if len(plane) > 12 and len(set(plane)) == 1:
        return zstd(rle(plane[0], len(plane), last=True), size=len(plane)), True
    return plane, False


def chunk_of(planes: Sequence[bytes], compress: Compress = squeezed, *, version: int = 1) -> bytes:
    """A chunk of these planes."""
    encoded = [compress(plane) for plane in planes]
    table = b"".join((len(data) | is_frame << 31).to_bytes(4, "little") for data, is_frame in encoded)
    return bytes([version]) + table + b"".join(data for data, _ in encoded)


def xor(one: bytes, other: bytes) -> bytes:
    """Bytes that differ, where they differ."""
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def entry_of(
    slices: tuple[TensorSlice, ...], decoded: bytes, codec: Codec, chunk: bytes, base: bytes = b""
) -> ShardEntry:
    """The manifest's entry of a shard."""
    address = content_digest(base) if codec in {"xor-planes", "lora"} else ZERO_DIGEST
    return ShardEntry(slices, len(decoded), content_digest(decoded), codec, content_digest(chunk), len(chunk), address)
