"""`manifests.json`: manifests that keep every rule, and one for each rule that is broken (chapters 8.2 and 8.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from msgspec.structs import replace

from deepshard.conformance.vectors.document import Json, accept, digest_of, document, refuse
from deepshard.conformance.vectors.generate.merkle import root_of
from deepshard.conformance.vectors.generate.planes import MIXED, TENSORS, chunk_of, entry_of, planes_of, span_bytes, xor
from deepshard.encoding import encode
from deepshard.primitives import ZERO_DIGEST, content_digest, expand
from deepshard.shards.manifest import FileEntry, Manifest, ShardEntry, TensorEntry, TensorSlice

_GOOD: Final = ("8.2/1", "8.2/5", "8.2/6", "8.2/7", "8.3/1")
_RULES, _CHILD, _OVERFLOW, _PARTS = ("8.3/1",), ("8.3/2",), ("8.3/1", "8.3/3"), ("8.1/2", "8.3/1")
_PART_BYTES: Final = 4 * 1024 * 1024
_SLICES: Final = ((TensorSlice(0, 0, 2),), MIXED)


def make() -> Json:
    """The file."""
    groups = (
        _whole(),
        _encodings(),
        _names(),
        _bounds(),
        _coverage(),
        _bands(),
        _sizes(),
        _bases(),
        _files(),
        _children(),
    )
    return document(
        "manifests",
        "Manifests (chapters 8.2 and 8.3): good ones, and one for each way to break a rule.",
        [case for group in groups for case in group],
    )


def _decoded(number: int, version: int) -> bytes:
    size = sum(span_bytes(TENSORS[part.tensor], part) for part in _SLICES[number])
    return expand(digest_of(f"shard {number} of version {version}"), "vector shard", size)


def _plain_shard(number: int, version: int = 0) -> ShardEntry:
    decoded = _decoded(number, version)
    chunk = chunk_of(planes_of(decoded, TENSORS, _SLICES[number]))
    return entry_of(_SLICES[number], decoded, "planes", chunk)


def _delta_shard(number: int) -> ShardEntry:
    decoded, base = _decoded(number, 1), _decoded(number, 0)
    chunk = chunk_of(planes_of(xor(decoded, base), TENSORS, _SLICES[number]))
    return entry_of(_SLICES[number], decoded, "xor-planes", chunk, base)


def _raw_shard(number: int) -> ShardEntry:
    decoded = _decoded(number, 0)
    return entry_of(_SLICES[number], decoded, "raw", decoded)


_FILES: Final = (
    FileEntry("config.json", 100, (digest_of("config"),)),
    FileEntry("empty", 0, ()),
    FileEntry("tokenizer.json", _PART_BYTES + 1, (digest_of("part 0"), digest_of("part 1"))),
)


def _rooted(manifest: Manifest) -> Manifest:
    """The manifest with the root that its tensors and shards have."""
    leaves = [encode(manifest.tensors), *(shard.decoded_digest for shard in manifest.shards)]
    return replace(manifest, weights_root=root_of(leaves))


_BASE: Final = _rooted(Manifest(1, ZERO_DIGEST, ZERO_DIGEST, TENSORS, (_plain_shard(0), _plain_shard(1)), _FILES))
_BASE_ADDRESS: Final = content_digest(encode(_BASE))
_NEXT: Final = _rooted(replace(_BASE, parent=_BASE_ADDRESS, shards=(_delta_shard(0), _plain_shard(1))))


def _fields(manifest: Manifest, /, **more: Any) -> Json:  # noqa: ANN401
    return {"encoded": encode(manifest), **more}


def _whole() -> Iterator[Json]:
    stored = _rooted(replace(_BASE, shards=(_raw_shard(0), _plain_shard(1))))
    empty = _rooted(Manifest(1, ZERO_DIGEST, ZERO_DIGEST, (), (), ()))
    for name, manifest in (("a first version", _BASE), ("a delta", _NEXT), ("a raw shard", stored), ("nothing", empty)):
        digest = content_digest(encode(manifest))
        yield accept(f"good: {name}", _GOOD, **_fields(manifest, manifest=manifest, digest=digest))
    same = "the root doesn't depend on how anything is compressed"
    assert stored.weights_root == _BASE.weights_root, same


def _bad(name: str, error: str, manifest: Manifest, clauses: Sequence[str] = _RULES, why: str = "") -> Json:
    return refuse(name, clauses, error, why=why, **_fields(manifest))


def _encodings() -> Iterator[Json]:
    good = encode(_BASE)
    for name, data in (("a byte behind it", good + b"\x00"), ("cut short", good[:-1]), ("nothing", b"")):
        yield refuse(f"encoding: {name}", (*_RULES, "2.4/2"), "MalformedMessage", encoded=data)
    for name, changes in (("format 0", {"format": 0}), ("format 2", {"format": 2})):
        yield _bad(f"encoding: {name}", "MalformedMessage", replace(_BASE, **changes))
    first = _BASE.shards[0]
    for name, shard in (
        ("a shard without slices", replace(first, slices=())),
        ("a shard above its bound", replace(first, decoded_bytes=4 * 1024 * 1024 + 1)),
        ("a chunk above its bound", replace(first, chunk_bytes=4 * 1024 * 1024 + 64 * 1024 + 1)),
    ):
        yield _bad(f"encoding: {name}", "MalformedMessage", replace(_BASE, shards=(shard, *_BASE.shards[1:])))


def _names() -> Iterator[Json]:
    for name in ("", "a b", "a/b", "\xe9", "a\n", "x" * 257):
        manifest = replace(_BASE, tensors=(replace(TENSORS[0], name=name), *TENSORS[1:]))
        label = f"a tensor called {name!r}" if len(name) < 9 else "a tensor with a name of 257 letters"
        yield _bad(label, "MalformedMessage", _rooted(manifest), (*_RULES, "8.2/2"))
    for name in ("", ".hidden", "..", "a/b", "a\\b", "a\n", "x" * 65):
        files = (replace(_FILES[0], name=name),)
        label = f"a file called {name!r}" if len(name) < 9 else "a file with a name of 65 letters"
        yield _bad(label, "MalformedMessage", replace(_BASE, files=files), (*_RULES, "8.2/2"))
    twice = (TENSORS[0], replace(TENSORS[1], name=TENSORS[0].name), *TENSORS[2:])
    yield _bad("two tensors of one name", "DuplicateName", _rooted(replace(_BASE, tensors=twice)))
    alike = (_FILES[0], replace(_FILES[0], name="CONFIG.json"))
    yield _bad("two files that differ in capitals", "DuplicateName", replace(_BASE, files=alike))


def _bounds() -> Iterator[Json]:
    deep = (replace(TENSORS[0], shape=(6, 8, *([1] * 7))), *TENSORS[1:])
    yield _bad("nine dimensions", "ManifestOutOfBounds", _rooted(replace(_BASE, tensors=deep)))
    files = tuple(FileEntry(f"file-{number}", 0, ()) for number in range(65))
    yield _bad("65 files", "ManifestOutOfBounds", replace(_BASE, files=files))
    many = replace(_BASE.shards[0], slices=(TensorSlice(0, 0, 0),) * 4097)
    manifest = replace(_BASE, shards=(many, *_BASE.shards[1:]))
    yield _bad("a shard of 4,097 slices", "ManifestOutOfBounds", manifest)


def _with_slices(first: tuple[TensorSlice, ...], second: tuple[TensorSlice, ...] = MIXED) -> Manifest:
    """Both shards cut in another way, with sizes that fit."""
    cut = []
    for shard, slices in zip(_BASE.shards, (first, second), strict=True):
        size = sum(span_bytes(TENSORS[part.tensor], part) for part in slices if part.tensor < len(TENSORS))
        cut.append(replace(shard, slices=slices, decoded_bytes=size))
    return _rooted(replace(_BASE, shards=tuple(cut)))


def _coverage() -> Iterator[Json]:
    wrong = {
        "a tensor that doesn't exist": _with_slices((TensorSlice(5, 0, 1),)),
        "rows behind a tensor's end": _with_slices((TensorSlice(0, 5, 2),)),
        "a row left out": _with_slices((TensorSlice(0, 0, 1),)),
        "a row twice": _with_slices((TensorSlice(0, 0, 3),)),
        "rows that begin later": _with_slices((TensorSlice(0, 1, 1),)),
        "the end left out": _with_slices(_SLICES[0], MIXED[:-1]),
        "tensors in another order": _with_slices(_SLICES[0], (MIXED[1], MIXED[0], *MIXED[2:])),
        "a slice of no rows of a tensor that has some": _with_slices((*_SLICES[0], TensorSlice(0, 2, 0))),
        "shards exchanged": _rooted(replace(_BASE, shards=_BASE.shards[::-1])),
        "no shards": _rooted(replace(_BASE, shards=())),
    }
    for name, manifest in wrong.items():
        yield _bad(f"coverage: {name}", "BadCoverage", manifest)


def _banded(*cuts: tuple[int, int, int, int]) -> Manifest:
    """Tensor 0, of 6 rows and 8 columns, cut into first row, rows, first column and columns, a shard each."""
    shards = []
    for number, cut in enumerate(cuts):
        slices = (TensorSlice(0, *cut),)
        decoded = expand(digest_of(f"band {number}"), "vector shard", span_bytes(TENSORS[0], slices[0]))
        shards.append(entry_of(slices, decoded, "planes", chunk_of(planes_of(decoded, TENSORS, slices))))
    decoded = expand(
        digest_of("rest"), "vector shard", sum(span_bytes(TENSORS[part.tensor], part) for part in MIXED[1:])
    )
    shards.append(entry_of(MIXED[1:], decoded, "planes", chunk_of(planes_of(decoded, TENSORS, MIXED[1:]))))
    return _rooted(replace(_BASE, shards=tuple(shards)))


def _bands() -> Iterator[Json]:
    right = {
        "two bands": ((0, 6, 0, 4), (0, 6, 4, 4)),
        "bands of two widths, cut into other rows": ((0, 1, 0, 1), (1, 5, 0, 1), (0, 6, 1, 7)),
    }
    for name, cuts in right.items():
        manifest = _banded(*cuts)
        digest = content_digest(encode(manifest))
        yield accept(f"bands: {name}", (*_GOOD, "8.2/4"), **_fields(manifest, manifest=manifest, digest=digest))
    wrong = {
        "columns behind the end": ((0, 6, 4, 5),),
        "all columns": ((0, 6, 0, 8),),
        "a first column without a width": ((0, 6, 1, 0),),
        "a band left out": ((0, 6, 0, 4),),
        "a column twice": ((0, 6, 0, 4), (0, 6, 3, 5)),
        "in another order": ((0, 6, 4, 4), (0, 6, 0, 4)),
        "rows before columns": ((0, 3, 0, 4), (0, 3, 4, 4), (3, 3, 0, 4), (3, 3, 4, 4)),
        "another width below": ((0, 3, 0, 2), (3, 3, 0, 3), (0, 6, 3, 5)),
        "whole rows below": ((0, 3, 0, 2), (3, 3, 0, 0)),
    }
    for name, cuts in wrong.items():
        yield _bad(f"bands: {name}", "BadCoverage", _banded(*cuts), (*_RULES, "8.2/4"))


def _sizes() -> Iterator[Json]:
    first, *rest = _BASE.shards
    for more in (-1, 1):
        shard = replace(first, decoded_bytes=first.decoded_bytes + more)
        yield _bad(f"decoded_bytes {more:+d}", "WrongShardSize", replace(_BASE, shards=(shard, *rest)))
    wide = (TensorEntry("huge", "f32", (1, 2**31 - 1, 2**31 - 1, 2**31 - 1)),)
    shard = replace(first, slices=(TensorSlice(0, 0, 1),))
    manifest = _rooted(Manifest(1, ZERO_DIGEST, ZERO_DIGEST, wide, (shard,), ()))
    yield _bad("a row of 2^95 bytes", "WrongShardSize", manifest, _OVERFLOW, "sizes don't overflow")
    small = 2**31 - 1
    wraps = (TensorEntry("wraps", "f32", (4, 2**30, 2**30, 4)),)
    shard = replace(first, slices=(TensorSlice(0, 0, 4),), decoded_bytes=0)
    manifest = _rooted(Manifest(1, ZERO_DIGEST, ZERO_DIGEST, wraps, (shard,), ()))
    yield _bad("a size that is 0 modulo 2^64", "WrongShardSize", manifest, _OVERFLOW, "sizes don't overflow")
    rows = (TensorEntry("rows", "i8", (small,)),)
    shard = replace(first, slices=(TensorSlice(0, 1, small),))
    manifest = _rooted(Manifest(1, ZERO_DIGEST, ZERO_DIGEST, rows, (shard,), ()))
    yield _bad("rows that end at 2^31", "BadCoverage", manifest, _OVERFLOW)
    raw = _raw_shard(0)
    for name, changes in (("address", {"chunk": digest_of("other")}), ("size", {"chunk_bytes": raw.chunk_bytes + 1})):
        manifest = replace(_BASE, shards=(replace(raw, **changes), *rest))
        yield _bad(f"a raw chunk of another {name}", "WrongShardSize", manifest)
    clauses = (*_RULES, "8.2/7")
    yield _bad("another weights root", "WrongWeightsRoot", replace(_BASE, weights_root=digest_of("root")), clauses)
    shard = replace(first, decoded_digest=digest_of("other shard"))
    yield _bad("another decoded digest", "WrongWeightsRoot", replace(_BASE, shards=(shard, *rest)), clauses)


def _bases() -> Iterator[Json]:
    first, *rest = _BASE.shards
    based = replace(first, base=digest_of("base"))
    yield _bad("a base for planes", "InconsistentBase", replace(_BASE, shards=(based, *rest)))
    delta = _NEXT.shards[0]
    bare = replace(delta, base=ZERO_DIGEST)
    yield _bad("xor-planes without a base", "InconsistentBase", replace(_NEXT, shards=(bare, *rest)))
    orphan = _rooted(replace(_NEXT, parent=ZERO_DIGEST))
    yield _bad("a base without a parent", "InconsistentBase", orphan)
    factors = replace(delta, codec="lora", base=ZERO_DIGEST)
    yield _bad("lora without a base", "InconsistentBase", replace(_NEXT, shards=(factors, *rest)))


def _files() -> Iterator[Json]:
    parts = tuple(digest_of(f"part {number}") for number in range(3))
    for size, right in ((0, 0), (1, 1), (_PART_BYTES, 1), (_PART_BYTES + 1, 2), (2 * _PART_BYTES, 2)):
        for count in {right - 1, right + 1} - {-1}:
            files = (FileEntry("model.bin", size, parts[:count]),)
            name = f"a file of {size} bytes in {count} parts"
            yield _bad(name, "WrongFileParts", replace(_BASE, files=files), _PARTS)
    for size, right in ((_PART_BYTES, 1), (2 * _PART_BYTES, 2)):
        manifest = replace(_BASE, files=(FileEntry("model.bin", size, parts[:right]),))
        digest = content_digest(encode(manifest))
        name = f"good: a file of {size} bytes in {right} parts"
        yield accept(name, _PARTS, **_fields(manifest, manifest=manifest, digest=digest))


def _children() -> Iterator[Json]:
    parent = {"parent_encoded": encode(_BASE)}
    address = content_digest(encode(_NEXT))
    yield accept("child: a delta", (*_GOOD, *_CHILD), **_fields(_NEXT, manifest=_NEXT, digest=address, **parent))
    factors = replace(_NEXT, shards=(replace(_NEXT.shards[0], codec="lora"), _NEXT.shards[1]))
    address = content_digest(encode(factors))
    yield accept("child: factors", (*_GOOD, *_CHILD), **_fields(factors, manifest=factors, digest=address, **parent))
    after = replace(_NEXT, parent=content_digest(encode(_NEXT)))
    address, grandparent = content_digest(encode(after)), {"parent_encoded": encode(_NEXT)}
    kept = (*_CHILD, "8.3/4")
    yield accept("child: a delta that is kept", kept, **_fields(after, manifest=after, digest=address, **grandparent))
    for name, changes in (
        ("chunk", {"chunk": digest_of("chunk")}),
        ("codec", {"codec": "lora"}),
        ("size", {"chunk_bytes": after.shards[0].chunk_bytes + 1}),
    ):
        changed = replace(after, shards=(replace(after.shards[0], **changes), after.shards[1]))
        yield refuse(f"child: kept but for its {name}", kept, "InconsistentBase", **_fields(changed, **grandparent))
    whole = _rooted(replace(_NEXT, shards=(_plain_shard(0, 1), _plain_shard(1, 1))))
    address = content_digest(encode(whole))
    yield accept("child: no deltas", _CHILD, **_fields(whole, manifest=whole, digest=address, **parent))
    renamed = (replace(TENSORS[0], name="embedding"), *TENSORS[1:])
    merged = ((TensorSlice(0, 0, 6), *MIXED[1:]),)
    other = replace(_NEXT.shards[0], base=digest_of("base"))
    joined = replace(
        _plain_shard(1), slices=merged[0], decoded_bytes=_BASE.shards[0].decoded_bytes + _BASE.shards[1].decoded_bytes
    )
    wrong = {
        "another parent": replace(_NEXT, parent=digest_of("parent")),
        "a parent that isn't named": _rooted(replace(_BASE, shards=(_plain_shard(0, 1), _plain_shard(1, 1)))),
        "other tensors": _rooted(replace(_NEXT, tensors=renamed)),
        "other files": replace(_NEXT, files=_FILES[:1]),
        "another base": replace(_NEXT, shards=(other, _NEXT.shards[1])),
        "fewer shards": _rooted(replace(_NEXT, shards=(joined,))),
    }
    for name, manifest in wrong.items():
        yield refuse(f"child: {name}", _CHILD, "InconsistentBase", **_fields(manifest, **parent))
    moved = _with_slices((TensorSlice(0, 0, 3),), (TensorSlice(0, 3, 3), *MIXED[1:]))
    recut = _rooted(replace(moved, parent=_BASE_ADDRESS))
    yield refuse("child: shards cut elsewhere", _CHILD, "InconsistentBase", **_fields(recut, **parent))
