"""Manifest rules: one honest manifest, and each rule broken once."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshard.encoding import encode
from deepshard.errors import MalformedMessage
from deepshard.limits import FILE_PART_BYTES_MAX, MANIFEST_FILES_MAX
from deepshard.merkle import merkle_prove, merkle_verify
from deepshard.primitives import ZERO_DIGEST, content_digest
from deepshard.shards.codec import decode_and_verify, encode_entry
from deepshard.shards.errors import (
    BadCoverage,
    DuplicateName,
    InconsistentBase,
    InvalidManifest,
    ManifestOutOfBounds,
    WrongFileParts,
    WrongShardSize,
    WrongWeightsRoot,
)
from deepshard.shards.layout import ITEM_BYTES, slice_spans
from deepshard.shards.manifest import DType, FileEntry, Manifest, ShardEntry, TensorEntry, TensorSlice
from deepshard.shards.partition import plan_shards
from deepshard.shards.rules import check_child, check_manifest, decode_manifest, manifest_digest, weights_root

TENSORS = (
    TensorEntry("a", "bf16", (4, 8)),
    TensorEntry("empty", "f32", (0, 3)),
    TensorEntry("b", "i8", (10,)),
)
PLAN = (
    (TensorSlice(0, 0, 3),),
    (TensorSlice(0, 3, 1), TensorSlice(1, 0, 0), TensorSlice(2, 0, 10)),
)
CONTENT = (bytes(range(48)), bytes(range(26)))
NEW_CONTENT = (bytes(range(48)), bytes(range(1, 27)))
CONFIG = FileEntry("config.json", 5, (content_digest(b"hello"),))


def _manifest(*, content: tuple[bytes, ...] = CONTENT, parent: Manifest | None = None) -> Manifest:
    bases: tuple[bytes | None, ...] = (None, None) if parent is None else CONTENT
    shards = tuple(
        encode_entry(TENSORS, slices, decoded, base=base)[0]
        for slices, decoded, base in zip(PLAN, content, bases, strict=True)
    )
    parent_digest = ZERO_DIGEST if parent is None else manifest_digest(parent)
    return Manifest(1, parent_digest, weights_root(TENSORS, shards), TENSORS, shards, (CONFIG,))


HONEST = _manifest()
CHILD = _manifest(content=NEW_CONTENT, parent=HONEST)


def _with(manifest: Manifest = HONEST, **changes: Any) -> Manifest:
    changed = msgspec.structs.replace(manifest, **changes)
    if "weights_root" not in changes:
        changed = msgspec.structs.replace(changed, weights_root=weights_root(changed.tensors, changed.shards))
    return changed


def _with_shard(number: int, manifest: Manifest = HONEST, **changes: Any) -> Manifest:
    shards = list(manifest.shards)
    shards[number] = msgspec.structs.replace(shards[number], **changes)
    return _with(manifest, shards=tuple(shards))


def _sliced(*plan: tuple[TensorSlice, ...]) -> Manifest:
    shards = []
    for slices in plan:
        size = sum(piece.row_count * (16, 12, 1)[piece.tensor] for piece in slices if piece.tensor < 3)
        shards.append(ShardEntry(slices, size, content_digest(bytes(size)), "planes", bytes(32), 1, ZERO_DIGEST))
    return _with(shards=tuple(shards))


def _plain(*slices: TensorSlice, size: int) -> ShardEntry:
    return ShardEntry(slices, size, content_digest(bytes(size)), "planes", bytes(32), 1, ZERO_DIGEST)


def _banded(*cuts: tuple[int, int, int, int]) -> Manifest:
    """Tensor 0 cut into first row, rows, first column and columns, a shard each; the others whole."""
    shards = [_plain(TensorSlice(0, *cut), size=cut[1] * (cut[3] or 8) * 2) for cut in cuts]
    return _with(shards=(*shards, _plain(TensorSlice(1, 0, 0), TensorSlice(2, 0, 10), size=10)))


def _without_rows() -> Manifest:
    shards = _banded((0, 4, 0, 4), (0, 4, 4, 4)).shards
    bands = TensorSlice(1, 0, 0, 0, 2), TensorSlice(1, 0, 0, 2, 1), TensorSlice(2, 0, 10)
    return _with(shards=(*shards[:2], _plain(*bands, size=10)))


def test_a_tensor_may_be_cut_into_bands_of_columns() -> None:
    for manifest in (
        _banded((0, 4, 0, 4), (0, 4, 4, 4)),
        _banded((0, 1, 0, 1), (1, 3, 0, 1), (0, 4, 1, 7)),
        _banded((0, 3, 0, 5), (3, 1, 0, 5), (0, 2, 5, 3), (2, 2, 5, 3)),
    ):
        check_manifest(manifest)
        assert decode_manifest(encode(manifest)) == manifest


def test_honest_manifests_pass_and_survive_the_wire() -> None:
    for manifest in (HONEST, CHILD):
        check_manifest(manifest)
        assert decode_manifest(encode(manifest)) == manifest
    check_child(CHILD, HONEST)
    assert manifest_digest(HONEST) == content_digest(encode(HONEST))


BROKEN: dict[str, tuple[Manifest, type[InvalidManifest], str]] = {
    "tensor name twice": (
        _with(tensors=(*TENSORS[:2], TensorEntry("a", "i8", (10,)))),
        DuplicateName,
        "two tensors are called a",
    ),
    "tensor name like a path": (
        _with(tensors=(*TENSORS[:2], TensorEntry("../b", "i8", (10,)))),
        ManifestOutOfBounds,
        "cannot be encoded",
    ),
    "tensor name with a line break": (
        _with(tensors=(*TENSORS[:2], TensorEntry("b\n", "i8", (10,)))),
        ManifestOutOfBounds,
        "cannot be encoded",
    ),
    "too many dimensions": (
        _with(tensors=(*TENSORS[:2], TensorEntry("b", "i8", (10, *[1] * 8)))),
        ManifestOutOfBounds,
        "has 9 dimensions",
    ),
    "unknown tensor": (_sliced((TensorSlice(3, 0, 1),)), BadCoverage, "tensor 3 of 3"),
    "rows beyond the tensor": (_sliced((TensorSlice(0, 0, 5),)), BadCoverage, "ends at row 5 of a, which has 4"),
    "first rows missing": (_sliced((TensorSlice(0, 1, 3),)), BadCoverage, "tensor 0 from row 1, expected .* row 0"),
    "rows twice": (
        _sliced((TensorSlice(0, 0, 3),), (TensorSlice(0, 2, 2),)),
        BadCoverage,
        "tensor 0 from row 2, expected tensor 0 from row 3",
    ),
    "a gap": (_sliced((TensorSlice(0, 0, 2), TensorSlice(0, 3, 1))), BadCoverage, "from row 3, expected .* row 2"),
    "out of order": (_sliced((TensorSlice(2, 0, 10),)), BadCoverage, "expected tensor 0"),
    "empty tensor left out": (
        _sliced((TensorSlice(0, 0, 4), TensorSlice(2, 0, 10))),
        BadCoverage,
        "expected tensor 1",
    ),
    "slice without rows": (
        _sliced((TensorSlice(0, 0, 0), TensorSlice(0, 0, 4))),
        BadCoverage,
        "holds no rows of tensor 0",
    ),
    "last tensor missing": (_sliced((TensorSlice(0, 0, 4), TensorSlice(1, 0, 0))), BadCoverage, "row 0 of tensor 2"),
    "no shards": (_with(shards=()), BadCoverage, "row 0 of tensor 0"),
    "last rows missing": (
        _sliced((TensorSlice(0, 0, 4), TensorSlice(1, 0, 0), TensorSlice(2, 0, 9))),
        BadCoverage,
        "before row 9 of tensor 2",
    ),
    "columns beyond the tensor": (_banded((0, 4, 4, 5)), BadCoverage, "columns 4 to 9 of a, which has 8"),
    "all columns as a band": (_banded((0, 4, 0, 8)), BadCoverage, "columns 0 to 8 of a, which has 8"),
    "columns that begin without a width": (_banded((0, 4, 1, 0)), BadCoverage, "columns 1 to 1 of a"),
    "columns missing": (_banded((0, 4, 0, 2)), BadCoverage, "expected tensor 0 from row 0, column 2"),
    "columns twice": (_banded((0, 4, 0, 4), (0, 4, 2, 6)), BadCoverage, "column 2, expected tensor 0 .* column 4"),
    "bands out of order": (_banded((0, 4, 4, 4), (0, 4, 0, 4)), BadCoverage, "column 4, expected tensor 0 from row 0"),
    "rows before columns": (
        _banded((0, 2, 0, 4), (0, 2, 4, 4), (2, 2, 0, 4), (2, 2, 4, 4)),
        BadCoverage,
        "column 4, expected tensor 0 from row 2",
    ),
    "a band that changes its width": (
        _banded((0, 2, 0, 2), (2, 2, 0, 3)),
        BadCoverage,
        "3 columns of tensor 0 from row 2, the rows above have 2",
    ),
    "a band that ends in whole rows": (_banded((0, 2, 0, 2), (2, 2, 0, 0)), BadCoverage, "0 columns of tensor 0"),
    "a band without rows": (_without_rows(), BadCoverage, "holds no rows of tensor 1"),
    "wrong size": (_with_shard(0, decoded_bytes=47), WrongShardSize, "declares 47 bytes, its slices are 48"),
    "size that overflows a chunk": (
        _with(tensors=(TensorEntry("a", "f32", (4, 2**31 - 1, 2**31 - 1)), *TENSORS[1:])),
        WrongShardSize,
        "more than 4194304 bytes",
    ),
    "wrong root": (_with(weights_root=ZERO_DIGEST), WrongWeightsRoot, "declares weights root 0000"),
    "delta without a base": (_with_shard(0, CHILD, base=ZERO_DIGEST), InconsistentBase, "xor-planes and base 0000"),
    "base without a delta": (_with_shard(0, base=content_digest(b"")), InconsistentBase, "codec planes and base"),
    "delta without a parent": (_with(CHILD, parent=ZERO_DIGEST), InconsistentBase, "has no parent"),
    "raw that is not its content": (_with_shard(0, codec="raw"), WrongShardSize, "stored raw"),
    "file name twice": (
        _with(files=(CONFIG, msgspec.structs.replace(CONFIG, name="Config.json"))),
        DuplicateName,
        "two files are called Config.json",
    ),
    "file name like a path": (
        _with(files=(msgspec.structs.replace(CONFIG, name="../x"),)),
        ManifestOutOfBounds,
        "cannot be encoded",
    ),
    "too many files": (
        _with(files=tuple(FileEntry(f"f{number}", 0, ()) for number in range(MANIFEST_FILES_MAX + 1))),
        ManifestOutOfBounds,
        "65 files",
    ),
    "a part too few": (
        _with(files=(FileEntry("f", FILE_PART_BYTES_MAX + 1, (bytes(32),)),)),
        WrongFileParts,
        "has 1 parts, expected 2",
    ),
    "a part too many": (_with(files=(FileEntry("f", 0, (bytes(32),)),)), WrongFileParts, "has 1 parts, expected 0"),
}


@pytest.mark.clause("8.3/1", "8.3/3")
@pytest.mark.parametrize("case", BROKEN)
def test_each_rule_broken_once(case: str) -> None:
    manifest, error, message = BROKEN[case]
    with pytest.raises(error, match=message):
        check_manifest(manifest)
    # A peer's bytes meet the same rule; bounds of fields already in the decoder.
    with pytest.raises((error, MalformedMessage)):
        decode_manifest(encode(manifest))


_shapes = st.one_of(st.just(()), st.tuples(st.integers(0, 9)), st.tuples(st.integers(0, 9), st.integers(0, 9)))


@given(st.lists(st.tuples(st.sampled_from(list(ITEM_BYTES)), _shapes), max_size=8), st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_what_is_planned_and_encoded_is_a_valid_manifest_that_decodes(
    table: list[tuple[DType, tuple[int, ...]]], seed: int
) -> None:
    tensors = tuple(TensorEntry(f"t{number}", dtype, shape) for number, (dtype, shape) in enumerate(table))
    source = np.random.default_rng(seed)
    plan = plan_shards(tensors)
    contents = [source.bytes(sum(size for _, size in slice_spans(tensors, slices))) for slices in plan]
    encoded = [encode_entry(tensors, slices, data) for slices, data in zip(plan, contents, strict=True)]
    shards = tuple(entry for entry, _ in encoded)
    manifest = Manifest(1, ZERO_DIGEST, weights_root(tensors, shards), tensors, shards, ())
    check_manifest(manifest)
    for (entry, chunk), data in zip(encoded, contents, strict=True):
        assert decode_and_verify(entry, manifest.tensors, chunk) == data


@pytest.mark.clause("8.2/7")
def test_the_weights_root_ignores_how_shards_are_stored_and_sees_what_they_hold() -> None:
    full = _manifest(content=NEW_CONTENT)
    assert full.weights_root == CHILD.weights_root != HONEST.weights_root
    assert full.shards[1].chunk != CHILD.shards[1].chunk
    renamed = (TensorEntry("z", "bf16", (4, 8)), *TENSORS[1:])
    assert weights_root(renamed, HONEST.shards) != HONEST.weights_root


@pytest.mark.clause("8.2/7")
def test_a_shard_can_be_proven_under_the_weights_root() -> None:
    leaves = [encode(TENSORS), *(shard.decoded_digest for shard in HONEST.shards)]
    merkle_verify(HONEST.weights_root, HONEST.shards[1].decoded_digest, merkle_prove(leaves, 2), leaf_count=len(leaves))


CHILDREN: dict[str, tuple[Manifest, str]] = {
    "another parent": (_with(CHILD, parent=content_digest(b"")), "names parent"),
    "other tensors": (_with(CHILD, tensors=(TensorEntry("z", "bf16", (4, 8)), *TENSORS[1:])), "different tensors"),
    "other files": (_with(CHILD, files=(FileEntry("config.json", 2, (content_digest(b"{}"),)),)), "tokenizer files"),
    "another number of shards": (_with(CHILD, shards=CHILD.shards[:1]), "1 shards, its parent 2"),
    "another cut": (_with_shard(0, CHILD, slices=(TensorSlice(0, 0, 2),)), "shard 0 is cut differently"),
    "a foreign base": (_with_shard(1, CHILD, base=content_digest(b"")), r"shard 1, a\[3:4\] and 2 more, builds on"),
}


@pytest.mark.clause("8.3/2")
@pytest.mark.parametrize("case", CHILDREN)
def test_a_child_must_fit_its_parent(case: str) -> None:
    child, message = CHILDREN[case]
    with pytest.raises(InconsistentBase, match=message):
        check_child(child, HONEST)


def test_a_child_may_replace_a_shard_in_full() -> None:
    full, _ = encode_entry(TENSORS, PLAN[1], NEW_CONTENT[1])
    child = _with(CHILD, shards=(CHILD.shards[0], full))
    check_manifest(child)
    check_child(child, HONEST)
