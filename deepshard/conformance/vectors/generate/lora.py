"""The part of `chunks.json` that is about factors: chunks of codec `lora` (chapter 8.4)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final

from deepshard.conformance.vectors.document import Json, accept, digest_of, refuse
from deepshard.conformance.vectors.generate.factors import lora_chunk, merged_bits
from deepshard.conformance.vectors.generate.planes import WIDTHS, entry_of
from deepshard.primitives import expand
from deepshard.shards.manifest import TensorEntry, TensorSlice

_GOOD: Final = ("8.4/10", "8.4/12", "8.4/13")
_FORM: Final = ("8.4/11",)
_BAD: Final = "CorruptChunk"
_TENSORS: Final = (
    TensorEntry("up", "bf16", (6, 8)),
    TensorEntry("norm", "f32", (5,)),
    TensorEntry("half", "f16", (4, 6)),
    TensorEntry("single", "f32", (3, 5)),
    TensorEntry("codes", "i8", (3, 7)),
    TensorEntry("heads", "bf16", (2, 2, 3)),
)
_ALL: Final = tuple(TensorSlice(number, 0, tensor.shape[0]) for number, tensor in enumerate(_TENSORS))
_SPECIAL: Final = (0x0000, 0x8000, 0x0001, 0x8001, 0x007F, 0x0080, 0x7F7F, 0xFF7F, 0x3F80, 0xBF80, 0x2000, 0x5F80)
"""bf16: zeros, subnormals, the smallest normal and the largest numbers, ones, and two whose square is near 1."""
Factors = dict[int, tuple[int, list[int], list[int]]]
"""Rank, B and A in row-major order, as bits, by number of the tensor."""


def lora_cases() -> Iterator[Json]:
    """Good ones, then those that have to be refused."""
    yield from _good()
    yield from _bad()


def _size(part: TensorSlice) -> int:
    columns = part.column_count
    if not columns:
        columns = 1
        for dimension in _TENSORS[part.tensor].shape[1:]:
            columns *= dimension
    return part.row_count * columns


def _base(slices: Sequence[TensorSlice], name: str) -> bytes:
    """Finite numbers of all sizes."""
    data = b""
    for part in slices:
        width = WIDTHS[_TENSORS[part.tensor].dtype]
        drawn = expand(digest_of(f"{name} {part}"), "vector shard", _size(part) * width)
        words = [bytearray(drawn[at : at + width]) for at in range(0, len(drawn), width)]
        for word in words:
            if width > 1:
                word[-1] &= 0xBF  # so that no exponent is all ones
        data += b"".join(words)
    return data


def _factors(ranks: dict[int, int], name: str) -> Factors:
    """Ordinary numbers: of an exponent from 2^-8 to 2^-1."""
    made: Factors = {}
    for number, rank in ranks.items():
        rows, columns = _TENSORS[number].shape
        drawn = expand(digest_of(f"{name} {number}"), "vector factors", 2 * rank * (rows + columns))
        words = [int.from_bytes(drawn[at : at + 2], "little") for at in range(0, len(drawn), 2)]
        turned = [word & 0x80FF | 0x3B80 + (word & 0x0300) for word in words]
        made[number] = rank, turned[: rank * rows], turned[rank * rows :]
    return made


def _elements(factors: Factors) -> bytes:
    words = [word for number in sorted(factors) for part in factors[number][1:] for word in part]
    return struct.pack(f"<{len(words)}H", *words)


def _ranks(slices: Sequence[TensorSlice], factors: Factors) -> list[int]:
    return [factors[number][0] if number in factors else 0 for number in dict.fromkeys(part.tensor for part in slices)]


def _merged(base: bytes, slices: Sequence[TensorSlice], factors: Factors) -> bytes:
    """The decoded shard, element by element."""
    decoded, at = bytearray(base), 0
    for part in slices:
        tensor = _TENSORS[part.tensor]
        width, columns = WIDTHS[tensor.dtype], _size(part) // max(1, part.row_count)
        for place in range(_size(part) if part.tensor in factors else 0):
            rank, b, a = factors[part.tensor]
            row, column = part.row_start + place // columns, part.column_start + place % columns
            where = slice(at + place * width, at + (place + 1) * width)
            bits = int.from_bytes(base[where], "little")
            new = merged_bits(tensor.dtype, bits, b[row * rank : (row + 1) * rank], a[column :: tensor.shape[1]])
            decoded[where] = new.to_bytes(width, "little")
        at += _size(part) * width
    return bytes(decoded)


def _case(name: str, slices: tuple[TensorSlice, ...], base: bytes, factors: Factors) -> Json:
    decoded = _merged(base, slices, factors)
    chunk = lora_chunk(_ranks(slices, factors), _elements(factors))
    entry = entry_of(slices, decoded, "lora", chunk, base)
    return accept(f"lora: {name}", _GOOD, **_fields(entry, chunk, base), decoded=decoded)


def _fields(entry: Any, chunk: bytes, base: bytes, tensors: tuple[TensorEntry, ...] = _TENSORS) -> Json:  # noqa: ANN401
    return {"tensors": tensors, "shard": entry, "chunk": chunk, "base": base}


def _good() -> Iterator[Json]:
    two = (TensorEntry("t", "bf16", (2, 1)),)
    slices, base, decoded = (TensorSlice(0, 0, 2),), bytes.fromhex("803f00c0"), bytes.fromhex("903f10c0")
    chunk = bytes.fromhex("0100" + "01" + "0300000003000000" + "7e7f7d" + "008000")
    entry = entry_of(slices, decoded, "lora", chunk, base)
    assert chunk == lora_chunk([1], bytes.fromhex("003f80bf803e"))
    yield accept("lora: the example of 8.4", _GOOD, **_fields(entry, chunk, base, two), decoded=decoded)
    yield _case("all types", _ALL, _base(_ALL, "all"), _factors({0: 3, 2: 2, 3: 4}, "all"))
    yield _case("no factors", _ALL, _base(_ALL, "none"), {})
    up = _factors({0: 3}, "up")
    for name, part in (
        ("rows", TensorSlice(0, 1, 4)),
        ("a band", TensorSlice(0, 0, 6, 2, 5)),
        ("rows of a band", TensorSlice(0, 3, 2, 7, 1)),
    ):
        yield _case(f"{name}, by the factors of the whole tensor", (part,), _base((part,), name), up)
    halves = TensorSlice(0, 0, 6, 0, 4), TensorSlice(0, 0, 6, 4, 4), TensorSlice(1, 0, 5)
    yield _case("two bands of one tensor, which has one rank", halves, _base(halves, "halves"), up)
    half = _factors({2: 1}, "half")
    yield _case("large halves", _ALL[2:3], struct.pack("<24H", *([0x7BFF, 0xFBFF] * 12)), half)
    for number, name in ((0, "bf16"), (2, "f16"), (3, "f32")):
        yield _special(number, name)
    yield _order()


def _special(number: int, dtype: str) -> Json:
    """Zeros, subnormals, infinities and NaN in the base; the largest and smallest factors."""
    rows, columns = _TENSORS[number].shape
    b = [_SPECIAL[(5 * place) % len(_SPECIAL)] for place in range(2 * rows)]
    a = [_SPECIAL[(7 * place + 3) % len(_SPECIAL)] for place in range(2 * columns)]
    words = {
        "bf16": (0x0000, 0x8000, 0x7F80, 0xFF80, 0x7FC1, 0xFF81, 0x0001, 0x7F7F, 0x3F80),
        "f16": (0x0000, 0x8000, 0x7C00, 0xFC00, 0x7E01, 0xFC01, 0x0001, 0x7BFF, 0x3C00),
        "f32": (0, 2**31, 0x7F800000, 0xFF800000, 0x7FC00001, 0xFF800001, 1, 0x7F7FFFFF, 0x3F800000),
    }[dtype]
    width = 4 if dtype == "f32" else 2
    base = b"".join(words[place % len(words)].to_bytes(width, "little") for place in range(rows * columns))
    return _case(f"numbers at the edges, {dtype}", _ALL[number : number + 1], base, {number: (2, b, a)})


def _order() -> Json:
    """1 + 2^-24 + 2^-24 is 1 in this order, and more in the other; the base comes last."""
    rows, columns = _TENSORS[3].shape
    b = [0x3F80, 0x3380, 0x3380] * rows
    a = [0x3F80] * (3 * columns)
    return _case("sums in their order, unfused", _ALL[3:4], bytes(4 * rows * columns), {3: (3, b, a)})


def _bad() -> Iterator[Json]:
    part = (TensorSlice(0, 0, 6),)
    base, good = _base(part, "bad"), _elements(_factors({0: 2}, "bad"))
    infinite, nan = good[:-2] + b"\x80\x7f", b"\xc1\xff" + good[2:]
    chunk = lora_chunk([2], good)
    for name, given in (
        ("empty", b""),
        ("an end within its ranks", b"\x02"),
        ("the ranks alone", b"\x02\x00"),
        ("another version", chunk[:2] + b"\x02" + chunk[3:]),
        ("a rank too small", lora_chunk([1], good)),
        ("a rank too large", lora_chunk([3], good)),
        ("a rank of 0 with factors", lora_chunk([0], good)),
        ("a rank too many", lora_chunk([2, 0], good)),
        ("a rank above 128", lora_chunk([129], bytes(2 * 129 * 14))),
        ("a byte behind it", chunk + b"\x00"),
        ("a byte missing", chunk[:-1]),
        ("an infinite factor", lora_chunk([2], infinite)),
        ("a factor that is no number", lora_chunk([2], nan)),
    ):
        yield _refused(name, part, base, given)
    others = ((1, "a tensor of one dimension"), (4, "a tensor of i8"), (5, "a tensor of three dimensions"))
    for number, name in others:
        slices = _ALL[number : number + 1]
        yield _refused(f"factors of {name}", slices, _base(slices, name), lora_chunk([1], bytes(2 * 10)))
    wide = (TensorEntry("wide", "bf16", (2**20, 2**20)),)
    slices = (TensorSlice(0, 0, 2),)
    entry = entry_of(slices, bytes(2**22), "lora", lora_chunk([128], bytes(20)), bytes(2**22))
    fields = _fields(entry, lora_chunk([128], bytes(20)), bytes(2**22), wide)
    yield refuse("lora: factors of 512 MiB", _FORM, _BAD, why="nothing is allocated for them", **fields)
    fused = _merged(base, part, _factors({0: 2}, "other"))
    entry = entry_of(part, fused, "lora", chunk, base)
    yield refuse("lora: factors of another update", ("8.4/8",), _BAD, **_fields(entry, chunk, base))


def _refused(name: str, slices: tuple[TensorSlice, ...], base: bytes, chunk: bytes) -> Json:
    entry = entry_of(slices, base, "lora", chunk, base)
    tensors = _TENSORS[: slices[0].tensor + 1]
    return refuse(f"lora: {name}", _FORM, _BAD, **_fields(entry, chunk, base, tensors))
