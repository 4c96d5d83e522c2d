"""Parts of a model: every rank and stage gets what it needs, and little else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshard.errors import UsageError
from deepshard.primitives import ZERO_DIGEST
from deepshard.shards.layout import row_elements, slice_spans, tensor_bytes, tensor_rows
from deepshard.shards.manifest import Manifest, ShardEntry, TensorEntry
from deepshard.shards.partition import is_input_split, plan_shards
from deepshard.shards.selection import Part, layer_count, shards_for


def llama(layers: int, *, hidden: int = 4096, inner: int = 14336, vocabulary: int = 128256) -> list[TensorEntry]:
    """The tensors of Llama 3 8B where nothing else is said."""
    shapes = {"model.embed_tokens": (vocabulary, hidden), "model.norm": (hidden,), "lm_head": (vocabulary, hidden)}
    for number in range(layers):
        layer = f"model.layers.{number}"
        shapes |= {f"{layer}.{name}_layernorm": (hidden,) for name in ("input", "post_attention")}
        shapes |= {f"{layer}.self_attn.{name}_proj": (hidden // (1 + 3 * (name in "kv")), hidden) for name in "qkvo"}
        shapes |= {f"{layer}.mlp.{name}_proj": (inner, hidden) for name in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj"] = (hidden, inner)
    return [TensorEntry(f"{name}.weight", "bf16", shapes[name]) for name in sorted(shapes)]


def planned(tensors: list[TensorEntry]) -> Manifest:
    cuts = plan_shards(tensors)
    sizes = [sum(size for _, size in slice_spans(tensors, cut)) for cut in cuts]
    shards = [
        ShardEntry(cut, size, bytes(32), "planes", bytes(32), 1, ZERO_DIGEST)
        for cut, size in zip(cuts, sizes, strict=True)
    ]
    return Manifest(1, ZERO_DIGEST, ZERO_DIGEST, tuple(tensors), tuple(shards), ())


def fetched(manifest: Manifest, part: Part) -> int:
    return sum(manifest.shards[number].decoded_bytes for number in shards_for(manifest, part))


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_rank_of_an_8b_model_fetches_its_part_and_nothing_else(ranks: int) -> None:
    tensors = llama(32)
    manifest = planned(tensors)
    needed = sum(tensor_bytes(tensor) // (ranks if len(tensor.shape) == 2 else 1) for tensor in tensors)
    for rank in range(ranks):
        assert fetched(manifest, Part(rank=rank, ranks=ranks)) == needed


def test_a_stage_fetches_its_layers_and_nothing_else() -> None:
    tensors = llama(4, hidden=256, inner=1024, vocabulary=512)
    manifest = planned(tensors)
    assert layer_count(tensors) == 4
    for first, end in ((0, 2), (1, 3), (2, 4)):
        wanted = [
            tensor
            for tensor in tensors
            if any(f"layers.{number}." in tensor.name for number in range(first, end))
            or (first == 0 and "embed" in tensor.name)
            or (end == 4 and tensor.name in {"model.norm.weight", "lm_head.weight"})
        ]
        part = Part(layers=(first, end))
        assert fetched(manifest, part) == sum(map(tensor_bytes, wanted))
        held = {
            manifest.tensors[cut.tensor].name
            for number in shards_for(manifest, part)
            for cut in manifest.shards[number].slices
        }
        assert held == {tensor.name for tensor in wanted}


def test_the_last_stage_of_a_tied_model_has_the_embedding_too() -> None:
    tensors = [tensor for tensor in llama(2, hidden=64, inner=128, vocabulary=256) if "lm_head" not in tensor.name]
    manifest = planned(tensors)
    last = shards_for(manifest, Part(layers=(1, 2)))
    held = {manifest.tensors[cut.tensor].name for number in last for cut in manifest.shards[number].slices}
    assert "model.embed_tokens.weight" in held


@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 8), st.sampled_from([96, 576, 1000]))
@settings(max_examples=40, deadline=None)
def test_the_shards_of_a_rank_hold_all_of_its_rows_and_columns(layers: int, ranks: int, rank: int, hidden: int) -> None:
    manifest = planned(llama(layers, hidden=hidden, inner=3 * hidden, vocabulary=2000))
    rank %= ranks
    chosen = shards_for(manifest, Part(rank=rank, ranks=ranks))
    pieces = [cut for number in chosen for cut in manifest.shards[number].slices]
    for number, tensor in enumerate(manifest.tensors):
        rows, columns = tensor_rows(tensor), row_elements(tensor)
        own_rows, own_columns = set(range(rows)), set(range(columns))
        if is_input_split(tensor):
            own_columns = set(range(columns * rank // ranks, -(-columns * (rank + 1) // ranks)))
        elif len(tensor.shape) == 2:
            own_rows = set(range(rows * rank // ranks, -(-rows * (rank + 1) // ranks)))
        cuts = [cut for cut in pieces if cut.tensor == number]
        for column in {min(own_columns), max(own_columns)}:
            covering = [
                cut for cut in cuts if not cut.column_count or 0 <= column - cut.column_start < cut.column_count
            ]
            assert own_rows <= {row for cut in covering for row in range(cut.row_start, cut.row_start + cut.row_count)}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part(layers=(0, 5)), "no layers 0 to 4: the model has 4"),
        (Part(layers=(2, 2)), "no layers 2 to 1"),
        (Part(layers=(-1, 2)), "no layers -1 to 1"),
        (Part(rank=2, ranks=2), "no rank 2 of 2"),
        (Part(rank=-1, ranks=2), "no rank -1 of 2"),
    ],
)
def test_what_does_not_exist_is_named(part: Part, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        shards_for(planned(llama(4, hidden=64, inner=128, vocabulary=64)), part)
