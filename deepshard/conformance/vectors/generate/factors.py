"""Factors as chapter 8.4 words them, in plain Python: one element at a time, by numbers of 64 bits.

A product or a sum of two binary32 numbers, computed in binary64 and then rounded to binary32, is what binary32 itself
gives: binary64 has more than twice as many digits and two (Figueroa, SIGNUM Newsletter 30(3), 1995).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Final

from deepshard.conformance.vectors.generate.planes import Compress, chunk_of, squeezed
from deepshard.shards.manifest import DType

_NAN: Final[dict[DType, int]] = {"bf16": 0x7FC0, "f16": 0x7E00, "f32": 0x7FC00000}


def merged_bits(dtype: DType, base: int, b: Sequence[int], a: Sequence[int]) -> int:
    """Bits of one element: its base's, with its row of B and its column of A, all as bits."""
    total = _single(_value("bf16", b[0]) * _value("bf16", a[0]))
    for left, right in zip(b[1:], a[1:], strict=True):
        total = _single(total + _single(_value("bf16", left) * _value("bf16", right)))
    return _rounded(dtype, _single(_value(dtype, base) + total))


def lora_chunk(ranks: Sequence[int], elements: bytes, compress: Compress = squeezed) -> bytes:
    """A chunk of these ranks and bf16 elements."""
    words = [int.from_bytes(elements[at : at + 2], "little") for at in range(0, len(elements), 2)]
    turned = [(word << 1 & 0xFF00) | (word >> 8 & 0x80) | (word & 0x7F) for word in words]
    planes = [bytes(word >> 8 for word in turned), bytes(word & 0xFF for word in turned)] if words else []
    return b"".join(rank.to_bytes(2, "little") for rank in ranks) + chunk_of(planes, compress)


def _value(dtype: DType, bits: int) -> float:
    if dtype == "f16":
        half: float = struct.unpack("<e", bits.to_bytes(2, "little"))[0]
        return half
    word = bits << 16 if dtype == "bf16" else bits
    single: float = struct.unpack("<f", word.to_bytes(4, "little"))[0]
    return single


def _single(value: float) -> float:
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return rounded


def _rounded(dtype: DType, value: float) -> int:
    if math.isnan(value):
        return _NAN[dtype]
    if dtype == "f16":
        try:
            return int.from_bytes(struct.pack("<e", value), "little")
        except OverflowError:
            return 0xFC00 if value < 0 else 0x7C00
    bits = int.from_bytes(struct.pack("<f", value), "little")
    if dtype == "f32":
        return bits
    above, rest = bits >> 16, bits & 0xFFFF
    return above + (rest > 0x8000 or (rest == 0x8000 and above & 1 == 1))
