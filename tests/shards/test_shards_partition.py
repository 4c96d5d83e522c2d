"""Partition: every row once, in order, within the bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshard.limits import CHUNK_DECODED_BYTES_MAX, CHUNK_DECODED_BYTES_TARGET, FILE_PART_BYTES_MAX, SHARD_SLICES_MAX
from deepshard.primitives import ZERO_DIGEST
from deepshard.shards.layout import (
    file_part_count,
    row_bytes,
    row_elements,
    slice_spans,
    split_file,
    tensor_bytes,
    tensor_rows,
)
from deepshard.shards.manifest import DType, Manifest, ShardEntry, TensorEntry, TensorSlice
from deepshard.shards.partition import plan_shards
from deepshard.shards.rules import check_manifest, weights_root

_dtypes: list[DType] = ["bf16", "f16", "f32", "i8"]
_names = st.sampled_from(["a", "layers.0.o_proj.weight", "layers.1.q_proj.weight", "layers.1.w2.weight"])
_shapes = st.one_of(
    st.just(()),
    st.tuples(st.integers(0, 5000)),
    st.tuples(st.integers(0, 20_000), st.integers(0, 300)),
    st.tuples(st.integers(0, 40), st.integers(1, 300), st.integers(1, 300)),
)


@st.composite
def _tables(draw: st.DrawFn) -> list[TensorEntry]:
    kinds = draw(st.lists(st.tuples(_names, st.sampled_from(_dtypes), _shapes), max_size=12))
    return [TensorEntry(f"t{number}.{name}", dtype, shape) for number, (name, dtype, shape) in enumerate(kinds)]


@given(_tables())
@settings(max_examples=60, deadline=None)
def test_every_element_of_every_tensor_once_in_order_within_bounds(tensors: list[TensorEntry]) -> None:
    plan = plan_shards(tensors)
    marked = [np.zeros((tensor_rows(tensor), row_elements(tensor)), np.int8) for tensor in tensors]
    flat = [piece for shard in plan for piece in shard]
    assert [piece.tensor for piece in flat] == sorted(piece.tensor for piece in flat)
    for piece in flat:
        columns = (
            slice(piece.column_start, piece.column_start + piece.column_count) if piece.column_count else slice(None)
        )
        marked[piece.tensor][piece.row_start : piece.row_start + piece.row_count, columns] += 1
    assert all((seen == 1).all() for seen in marked)
    assert {piece.tensor for piece in flat} == set(range(len(tensors)))
    for shard in plan:
        size = sum(length for _, length in slice_spans(tensors, shard))
        assert size <= CHUNK_DECODED_BYTES_TARGET or len(shard) == 1 == shard[0].row_count
    shards = [ShardEntry(cut, _size(tensors, cut), bytes(32), "planes", bytes(32), 1, ZERO_DIGEST) for cut in plan]
    check_manifest(Manifest(1, ZERO_DIGEST, weights_root(tensors, shards), tuple(tensors), tuple(shards), ()))


def _size(tensors: list[TensorEntry], cut: tuple[TensorSlice, ...]) -> int:
    return sum(length for _, length in slice_spans(tensors, cut))


def test_a_large_tensor_is_cut_into_even_ranges_on_the_bounds_of_ranks() -> None:
    (tensor,) = tensors = [TensorEntry("embed", "bf16", (49152, 576))]
    plan = plan_shards(tensors)
    counts = [shard[0].row_count for shard in plan]
    assert len(plan) == 32  # 54 MiB in 28 shards of at most 2 MiB, and on to a multiple of 8
    assert max(counts) - min(counts) <= 1
    assert sum(counts) == tensor_rows(tensor)
    assert {49152 * rank // 8 for rank in range(8)} <= {shard[0].row_start for shard in plan}


def test_matrices_whose_inputs_are_split_are_cut_into_bands_of_columns() -> None:
    tensors = [TensorEntry("model.layers.0.mlp.down_proj.weight", "bf16", (4096, 14336))]
    plan = plan_shards(tensors)
    assert {(cut[0].column_start, cut[0].column_count) for cut in plan} == {(1792 * rank, 1792) for rank in range(8)}
    first = [cut[0] for cut in plan if cut[0].column_start == 0]
    assert [cut.row_start for cut in first] == [512 * piece for piece in range(8)]
    assert all(len(cut) == 1 for cut in plan)
    assert plan_shards([TensorEntry("model.layers.0.mlp.up_proj.weight", "bf16", (14336, 4096))])[0] == (
        TensorSlice(0, 0, 14336 // 56),
    )


def test_tensors_of_two_layers_never_share_a_shard() -> None:
    names = [
        "model.embed.weight",
        *(f"model.layers.{layer}.{kind}" for layer in range(3) for kind in "ab"),
        "norm.weight",
    ]
    tensors = [TensorEntry(name, "bf16", (4,)) for name in names] + [TensorEntry("wide", "bf16", (4, 1000))]
    plan = [[names[cut.tensor] for cut in shard] for shard in plan_shards(tensors) if shard[0].tensor < len(names)]
    assert plan == [names[:1], names[1:3], names[3:5], names[5:7], names[7:]]


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


def test_rows_between_target_and_maximum_stand_alone() -> None:
    assert plan_shards([TensorEntry("wide", "i8", (2, CHUNK_DECODED_BYTES_MAX))]) == [
        (TensorSlice(0, 0, 1),),
        (TensorSlice(0, 1, 1),),
    ]


def test_rows_that_no_shard_can_hold_are_cut_into_columns() -> None:
    """Experts of a layer, stacked: a row is a whole expert."""
    tensors = [TensorEntry("model.layers.0.mlp.experts.gate_up_proj", "bf16", (32, 2048, 1536))]
    plan = plan_shards(tensors)
    assert plan == [(TensorSlice(0, row, 1, column, 1 << 20),) for column in (0, 1 << 20, 2 << 20) for row in range(32)]
    assert plan_shards([TensorEntry("wide", "i8", (1, CHUNK_DECODED_BYTES_MAX + 1))])[0] == (
        TensorSlice(0, 0, 1, 0, (CHUNK_DECODED_BYTES_MAX + 1) // 17),
    )


def test_sizes() -> None:
    assert [tensor_bytes(TensorEntry("t", dtype, (2, 3))) for dtype in _dtypes] == [12, 12, 24, 6]
    assert (tensor_rows(TensorEntry("t", "f32", ())), row_bytes(TensorEntry("t", "f32", ()))) == (1, 4)


@pytest.mark.parametrize(("size", "parts"), [(0, 0), (1, 1), (FILE_PART_BYTES_MAX, 1), (FILE_PART_BYTES_MAX + 1, 2)])
def test_files_split_into_full_parts_and_a_rest(size: int, parts: int) -> None:
    data = bytes(size)
    assert file_part_count(size) == parts == len(split_file(data))
    assert b"".join(split_file(data)) == data
