"""`chunks.json`: chunks of every codec, and those that have to be refused (chapter 8.4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from deepshard.conformance.vectors.document import Json, accept, digest_of, document, refuse
from deepshard.conformance.vectors.generate.framing import raw, rle, zstd
from deepshard.conformance.vectors.generate.lora import lora_cases
from deepshard.conformance.vectors.generate.planes import (
    MIXED,
    TENSORS,
    Compress,
    chunk_of,
    entry_of,
    planes_of,
    span_bytes,
    squeezed,
    stored,
    xor,
)
from deepshard.primitives import expand
from deepshard.shards.manifest import Codec, ShardEntry, TensorEntry, TensorSlice

_FORMS: Final = ("8.2/3", "8.2/4", "8.2/5", "8.4/1", "8.4/2", "8.4/3", "8.4/4", "8.4/5", "8.4/9")
_ADDRESS, _FORM, _DECODED = ("8.4/6",), ("8.4/7", "8.4/5"), ("8.4/8",)
_BAD: Final = "CorruptChunk"
_ROWS: Final = (TensorSlice(0, 0, 6),)
_ONES: Final = b"\x80\x3f" * 48
"""bf16 1.0 in all places, so that both planes are of one byte."""


def make() -> Json:
    """The file."""
    return document(
        "chunks",
        "Chunks (chapter 8.4): what they decode to, and those that have to be refused.",
        [*_good(), *_wrong_address(), *_wrong_forms(), *_wrong_planes(), *_wrong_content(), *lora_cases()],
    )


def _content(slices: tuple[TensorSlice, ...], name: str) -> bytes:
    size = sum(span_bytes(TENSORS[part.tensor], part) for part in slices)
    return expand(digest_of(name), "vector shard", size)


def _fields(
    entry: ShardEntry,
    chunk: bytes,
    *,
    tensors: tuple[TensorEntry, ...] = TENSORS,
    base: bytes | None = None,
    **results: bytes,
) -> Json:
    return {"tensors": tensors, "shard": entry, "chunk": chunk, "base": base, **results}


def _good() -> Iterator[Json]:
    mixed, before = _content(MIXED, "mixed"), _content(MIXED, "before")
    changed = bytearray(before)
    for place in (0, 17, len(before) - 1):
        changed[place] ^= 0x55
    after = bytes(changed)
    for name, slices, decoded in (("one tensor", _ROWS, _content(_ROWS, "rows")), ("all types", MIXED, mixed)):
        for compress in (stored, squeezed):
            chunk = chunk_of(planes_of(decoded, TENSORS, slices), compress)
            fields = _fields(entry_of(slices, decoded, "planes", chunk), chunk, decoded=decoded)
            yield accept(f"planes: {name}, {compress.__name__}", _FORMS, **fields)
        yield accept(
            f"raw: {name}", _FORMS, **_fields(entry_of(slices, decoded, "raw", decoded), decoded, decoded=decoded)
        )
    chunk = chunk_of(planes_of(_ONES, TENSORS, _ROWS))
    fields = _fields(entry_of(_ROWS, _ONES, "planes", chunk), chunk, decoded=_ONES)
    yield accept("planes: compressed", _FORMS, **fields)
    two = (TensorEntry("t", "bf16", (2,)),)
    halves, pair = (TensorSlice(0, 0, 2),), bytes.fromhex("803f00c0")
    chunk = bytes.fromhex("010200000002000000" + "7f800080")
    fields = _fields(entry_of(halves, pair, "planes", chunk), chunk, tensors=two, decoded=pair)
    yield accept("planes: the example of 8.4", _FORMS, **fields)
    for name, decoded in (("a few bytes changed", after), ("nothing changed", before)):
        chunk = chunk_of(planes_of(xor(decoded, before), TENSORS, MIXED))
        entry = entry_of(MIXED, decoded, "xor-planes", chunk, before)
        yield accept(f"xor-planes: {name}", _FORMS, **_fields(entry, chunk, base=before, decoded=decoded))
    none = (TensorSlice(4, 0, 0),)
    for codec, chunk in (("planes", b"\x01"), ("raw", b"")):
        form: Codec = "planes" if codec == "planes" else "raw"
        fields = _fields(entry_of(none, b"", form, chunk), chunk, decoded=b"")
        yield accept(f"{codec}: a shard without elements", _FORMS, **fields)


def _wrong_address() -> Iterator[Json]:
    decoded = _content(_ROWS, "rows")
    chunk = chunk_of(planes_of(decoded, TENSORS, _ROWS))
    entry = entry_of(_ROWS, decoded, "planes", chunk)
    bent = chunk[:-1] + bytes([chunk[-1] ^ 1])
    for name, given in (
        ("a bit changed", bent),
        ("a byte missing", chunk[:-1]),
        ("a byte more", chunk + b"\x00"),
        ("empty", b""),
    ):
        yield refuse(f"address: {name}", _ADDRESS, _BAD, **_fields(entry, given))
    longer = replace(entry, chunk_bytes=len(chunk) + 1)
    yield refuse("address: another size in the manifest", _ADDRESS, _BAD, **_fields(longer, chunk))


def _named(name: str, chunk: bytes, *, decoded: bytes = _ONES, clauses: tuple[str, ...] = _FORM, why: str = "") -> Json:
    """A chunk of the right address whose bytes aren't as they should be."""
    return refuse(name, clauses, _BAD, why=why, **_fields(entry_of(_ROWS, decoded, "planes", chunk), chunk))


def _wrong_forms() -> Iterator[Json]:
    planes = planes_of(_ONES, TENSORS, _ROWS)
    good = chunk_of(planes, stored)
    sizes = [len(plane).to_bytes(4, "little") for plane in planes]
    content = b"".join(planes)
    yield _named("form: version 0", chunk_of(planes, stored, version=0))
    yield _named("form: version 2", chunk_of(planes, stored, version=2))
    yield _named("form: empty", b"")
    yield _named("form: an end within its table", good[:8])
    yield _named("form: the table alone", good[:9])
    yield _named("form: a byte missing", good[:-1])
    yield _named("form: a byte behind it", good + b"\x00")
    yield _named("form: a plane too few", b"\x01" + sizes[0] + planes[0])
    yield _named("form: a plane too many", b"\x01" + b"".join(sizes) + sizes[0] + content + planes[0])
    short = b"\x01" + (47).to_bytes(4, "little") + (49).to_bytes(4, "little") + content
    yield _named("form: stored planes of other lengths", short)
    huge = b"\x01" + (2**31 - 1).to_bytes(4, "little") + sizes[1] + content
    yield _named("form: a plane of 2 GiB that isn't there", huge)
    whole = b"\x01" + (2**32 - 1).to_bytes(4, "little") * 2
    yield _named("form: compressed planes of 2 GiB that aren't there", whole)


def _wrong_planes() -> Iterator[Json]:
    planes = planes_of(_ONES, TENSORS, _ROWS)
    good = zstd(rle(planes[0][0], 48, last=True), size=48)

    def first(frame: bytes) -> Compress:
        return lambda plane: (frame, True) if plane is planes[0] else (plane, False)

    long = zstd(raw(planes[0][:38]), rle(planes[0][0], 10, last=True), size=48)
    frames: list[tuple[str, bytes, str]] = [
        ("a content size one more", zstd(rle(0x7F, 48, last=True), size=49), ""),
        ("a content size one less", zstd(rle(0x7F, 48, last=True), size=47), ""),
        ("a content size of 2^62", zstd(rle(0x7F, 48, last=True), size=2**62), "nothing is allocated for it"),
        ("no content size", zstd(rle(0x7F, 48, last=True), size=None, window=0), ""),
        ("more content than declared", zstd(rle(0x7F, 1 << 17, last=True), size=48), "a bomb"),
        ("less content than declared", zstd(rle(0x7F, 40, last=True), size=48), ""),
        ("a dictionary", zstd(rle(0x7F, 48, last=True), size=48, dictionary=1), ""),
        ("a byte behind it", good + b"\x00", ""),
        ("a second frame", good + zstd(raw(b"", last=True), size=0), ""),
        ("a skippable frame behind it", good + bytes.fromhex("502a4d1800000000"), ""),
        ("its last byte cut off", good[:-1], ""),
        ("no zstd at all", b"\x7f" * 20, ""),
        ("nothing", b"", ""),
        ("as long as the plane", long, "it has to be stored"),
    ]
    for name, frame, why in frames:
        chunk = chunk_of(planes, first(frame))
        yield _named(f"compressed plane: {name}", chunk, why=why)


def _wrong_content() -> Iterator[Json]:
    other = b"\x00\x40" * 48
    chunk = chunk_of(planes_of(other, TENSORS, _ROWS))
    why = "it decodes, but to another shard than the manifest names"
    yield _named("content: another shard", chunk, clauses=_DECODED, why=why)
    unrotated = b"\x01" + (48).to_bytes(4, "little") * 2 + b"\x3f" * 48 + b"\x80" * 48
    yield _named(
        "content: not rotated", unrotated, clauses=_DECODED, why="the nine highest bits are rotated left by one"
    )
    planes = planes_of(_ONES, TENSORS, _ROWS)
    backwards = chunk_of([planes[1], planes[0]])
    yield _named("content: planes in the other order", backwards, clauses=_DECODED, why="the most significant first")
    before = _content(MIXED, "before")
    added = bytes((a + b) % 256 for a, b in zip(before, before[::-1], strict=True))
    chunk = chunk_of(planes_of(added, TENSORS, MIXED))
    entry = entry_of(MIXED, before[::-1], "xor-planes", chunk, before)
    yield refuse("content: a difference that isn't XOR", _DECODED, _BAD, **_fields(entry, chunk, base=before))
