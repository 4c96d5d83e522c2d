"""Partition: every row once, in order, within the bounds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshard.errors import LocalError
from deepshard.limits import CHUNK_DECODED_BYTES_MAX, CHUNK_DECODED_BYTES_TARGET, FILE_PART_BYTES_MAX, SHARD_SLICES_MAX
from deepshard.shards.layout import file_part_count, row_bytes, slice_spans, split_file, tensor_bytes, tensor_rows
from deepshard.shards.manifest import DType, TensorEntry, TensorSlice
from deepshard.shards.partition import plan_shards

_dtypes: list[DType] = ["bf16", "f16", "f32", "i8"]
_shapes = st.one_of(
    st.just(()),
    st.tuples(st.integers(0, 5000)),
    st.tuples(st.integers(0, 60_000), st.integers(0, 600)),
    st.tuples(st.integers(0, 40), st.integers(1, 300), st.integers(1, 300)),
)


@st.composite
def _tables(draw: st.DrawFn) -> list[TensorEntry]:
    kinds = draw(st.lists(st.tuples(st.sampled_from(_dtypes), _shapes), max_size=12))
    return [TensorEntry(f"t{number}", dtype, shape) for number, (dtype, shape) in enumerate(kinds)]


@given(_tables())
@settings(max_examples=100)
def test_every_row_of_every_tensor_once_in_order_within_bounds(tensors: list[TensorEntry]) -> None:
    plan = plan_shards(tensors)
    next_row = dict.fromkeys(range(len(tensors)), 0)
    flat = [piece for shard in plan for piece in shard]
    assert [piece.tensor for piece in flat] == sorted(piece.tensor for piece in flat)
    for piece in flat:
        assert piece.row_start == next_row[piece.tensor]
        next_row[piece.tensor] += piece.row_count
    assert next_row == {number: tensor_rows(tensor) for number, tensor in enumerate(tensors)}
    assert {piece.tensor for piece in flat} == set(range(len(tensors)))
    for shard in plan:
        size = sum(length for _, length in slice_spans(tensors, shard))
        assert size <= CHUNK_DECODED_BYTES_TARGET or len(shard) == 1 == shard[0].row_count


def test_a_large_tensor_is_cut_into_even_ranges() -> None:
    (tensor,) = tensors = [TensorEntry("embed", "bf16", (49152, 576))]
    plan = plan_shards(tensors)
    counts = [shard[0].row_count for shard in plan]
    assert len(plan) == 28  # 54 MiB at 1820 rows of 1152 bytes a shard
    assert max(counts) - min(counts) <= 1
    assert sum(counts) == tensor_rows(tensor)


def test_small_neighbours_share_a_shard_and_stay_beside_large_ones_in_order() -> None:
    tensors = [
        TensorEntry("norm", "bf16", (576,)),
        TensorEntry("scale", "f32", ()),
        TensorEntry("empty", "i8", (0, 7)),
        TensorEntry("big", "i8", (3, CHUNK_DECODED_BYTES_TARGET)),
        TensorEntry("last", "bf16", (3, 0)),
    ]
    assert plan_shards(tensors) == [
        (TensorSlice(0, 0, 576), TensorSlice(1, 0, 1), TensorSlice(2, 0, 0)),
        (TensorSlice(3, 0, 1),),
        (TensorSlice(3, 1, 1),),
        (TensorSlice(3, 2, 1),),
        (TensorSlice(4, 0, 3),),
    ]
    assert plan_shards([]) == []


def test_many_tiny_tensors_do_not_exceed_the_slices_of_a_shard() -> None:
    tensors = [TensorEntry(f"s{number}", "i8", ()) for number in range(SHARD_SLICES_MAX + 1)]
    tensors += [TensorEntry("large", "i8", (32 * SHARD_SLICES_MAX,))]
    assert [len(shard) for shard in plan_shards(tensors)][:2] == [SHARD_SLICES_MAX, 1]


def test_a_small_model_is_spread_too() -> None:
    tensors = [TensorEntry(f"t{number}", "bf16", (64, 64)) for number in range(32)]
    assert [len(shard) for shard in plan_shards(tensors)] == [2] * 16


def test_rows_between_target_and_maximum_stand_alone_and_larger_ones_are_an_error() -> None:
    assert plan_shards([TensorEntry("wide", "i8", (2, CHUNK_DECODED_BYTES_MAX))]) == [
        (TensorSlice(0, 0, 1),),
        (TensorSlice(0, 1, 1),),
    ]
    with pytest.raises(LocalError, match=r"cannot cut wide of shape \(1, 4194305\).*one row is 4194305 bytes"):
        plan_shards([TensorEntry("wide", "i8", (1, CHUNK_DECODED_BYTES_MAX + 1))])


def test_sizes() -> None:
    assert [tensor_bytes(TensorEntry("t", dtype, (2, 3))) for dtype in _dtypes] == [12, 12, 24, 6]
    assert (tensor_rows(TensorEntry("t", "f32", ())), row_bytes(TensorEntry("t", "f32", ()))) == (1, 4)


@pytest.mark.parametrize(("size", "parts"), [(0, 0), (1, 1), (FILE_PART_BYTES_MAX, 1), (FILE_PART_BYTES_MAX + 1, 2)])
def test_files_split_into_full_parts_and_a_rest(size: int, parts: int) -> None:
    data = bytes(size)
    assert file_part_count(size) == parts == len(split_file(data))
    assert b"".join(split_file(data)) == data
