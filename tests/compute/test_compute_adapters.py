"""LoRA recipes: what is trained, what is stored of it, and that every holder has the same weights."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from test_compute_training import BATCH, HELDOUT, PLAN, quiet, sketch_distance_bp, train_job

from deepshard.compute.adapters import Adapters, NoSuchLayers, first_factor
from deepshard.compute.jobs import ModelRef, Profile, TrainResult
from deepshard.compute.models import build_model, model_directory
from deepshard.compute.pieces import ShardReader
from deepshard.compute.scoring import profile
from deepshard.compute.store import BlobStore
from deepshard.compute.training import train
from deepshard.compute.verifying import verify_model
from deepshard.compute.weights import Weights, load_weights, merged_tensors, read_manifest, store_model
from deepshard.ledger.params import LoraRecipe, Recipe
from deepshard.shards.comparison import compare
from deepshard.shards.factors import round_factors
from deepshard.shards.rules import check_child, manifest_digest

LORA = LoraRecipe(rank=4, alpha=8)
RECIPE = Recipe(3, 2, 10_000_000, 0, 64, LORA)
PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture(scope="module")
def trained(tiny: ModelRef) -> dict[str, TrainResult]:
    torch.set_num_threads(1)
    store = Path(tiny.store)
    return {
        "one": train(train_job(tiny, store, recipe=RECIPE), quiet),
        "two": train(train_job(tiny, store, recipe=RECIPE, micro_batch=2), quiet),
    }


@pytest.fixture(scope="module")
def second(tiny: ModelRef, trained: dict[str, TrainResult]) -> TrainResult:
    """A round on the result of the first, of some layers only."""
    base = ModelRef(manifest=trained["one"].manifest, store=tiny.store)
    recipe = Recipe(1, 4, 10_000_000, 0, 64, LoraRecipe(2, 2, ("q_proj", "0.mlp.down_proj")))
    return train(train_job(base, Path(tiny.store), recipe=recipe, order_seed=b"\1" * 32), quiet)


def ref(tiny: ModelRef, result: TrainResult) -> ModelRef:
    return ModelRef(manifest=result.manifest, store=tiny.store)


def changed_names(old: Weights, new: Weights) -> set[str]:
    return {name for name, tensor in old.tensors.items() if not torch.equal(tensor, new.tensors[name])}


def last_part(name: str) -> str:
    return name.split(".")[-2]


@pytest.mark.clause("11.10/6")
def test_a_holder_merges_the_factors_to_the_trainers_bytes(tiny: ModelRef, trained: dict[str, TrainResult]) -> None:
    """The holder has the base's chunks and fetches the new version's: what decodes has the root that was trained."""
    base, manifest = load_weights(tiny, quiet), read_manifest(ref(tiny, trained["one"]))
    new = load_weights(ref(tiny, trained["one"]), quiet, base=base)
    assert {last_part(name) for name in changed_names(base, new)} == PROJECTIONS
    again = store_model(new.tensors, manifest.files, BlobStore(tiny.store), quiet)[0]
    assert again.weights_root == manifest.weights_root == trained["one"].weights_root
    assert verify_model(manifest, BlobStore(tiny.store), lambda *_: None) == []


def test_only_factors_are_shipped(tiny: ModelRef, trained: dict[str, TrainResult]) -> None:
    old, new = read_manifest(tiny), read_manifest(ref(tiny, trained["one"]))
    found = compare(old, new)
    assert {shard.codec for shard in new.shards if shard not in old.shards} == {"lora"}
    matrices = [entry.shape for entry in new.tensors if last_part(entry.name) in PROJECTIONS]
    factors = sum(LORA.rank * 2 * sum(shape) for shape in matrices)
    assert found.bytes_to_fetch == trained["one"].encoded_bytes
    assert 0.5 * factors < found.bytes_to_fetch < 1.02 * factors
    chunks = [shard.chunk for shard in new.shards if shard.codec == "lora"]
    assert len(set(chunks)) < len(chunks)  # the shards of one matrix share theirs


def test_losses_fall_and_machines_agree(tiny: ModelRef, trained: dict[str, TrainResult]) -> None:
    losses = trained["one"].losses
    assert losses[-1] < losses[0] - 0.3
    assert trained["two"].losses == pytest.approx(losses, abs=1e-3)
    refs = tuple(ref(tiny, result) for result in trained.values())
    job = Profile(base=tiny, submissions=refs, probes=(*BATCH, HELDOUT, HELDOUT), plan=PLAN, seed=bytes(32))
    one, two = profile(job, quiet).submissions
    assert sketch_distance_bp(one, two) < 20
    assert min(score.log_prob for score in one.profile[:4]) > 200


def test_training_twice_gives_the_same_bytes(tiny: ModelRef, trained: dict[str, TrainResult]) -> None:
    assert train(train_job(tiny, Path(tiny.store), recipe=RECIPE), quiet) == trained["one"]


def test_factors_stack_on_factors(tiny: ModelRef, trained: dict[str, TrainResult], second: TrainResult) -> None:
    first = load_weights(ref(tiny, trained["one"]), quiet)
    last = load_weights(ref(tiny, second), quiet)
    changed = changed_names(first, last)
    assert {last_part(name) for name in changed} == {"q_proj", "down_proj"}
    assert [name for name in changed if last_part(name) == "down_proj"] == ["model.layers.0.mlp.down_proj.weight"]
    on_first = load_weights(ref(tiny, second), quiet, base=first)
    assert changed_names(last, on_first) == set()


@pytest.mark.clause("8.3/4")
def test_what_stays_equal_keeps_its_parents_entry_also_if_that_is_a_delta(
    tiny: ModelRef, trained: dict[str, TrainResult], second: TrainResult
) -> None:
    old, new = read_manifest(ref(tiny, trained["one"])), read_manifest(ref(tiny, second))
    kept = [shard for shard, before in zip(new.shards, old.shards, strict=True) if shard == before]
    assert {shard.codec for shard in kept} == {"planes", "lora"}
    check_child(new, old)
    assert compare(old, new).bytes_to_fetch == second.encoded_bytes < 0.3 * trained["one"].encoded_bytes


def test_pieces_of_a_version_on_factors_are_what_the_whole_is(
    tiny: ModelRef, trained: dict[str, TrainResult], second: TrainResult
) -> None:
    """Read piece by piece beside its base, from which some of its entries, deltas among them, are kept."""
    store, names = BlobStore(tiny.store), list(load_weights(tiny, quiet).tensors)
    for older, newer in ((tiny, ref(tiny, trained["one"])), (ref(tiny, trained["one"]), ref(tiny, second))):
        base = ShardReader(read_manifest(older), store)
        reader = ShardReader(read_manifest(newer), store, base)
        own, theirs = reader.read(reader.whole("all", names))
        for found, expected in ((own, load_weights(newer, quiet)), (theirs, load_weights(older, quiet))):
            assert [name for name in names if not torch.equal(found[name], expected.tensors[name])] == []


def test_a_flipped_chunk_of_factors_is_named(tiny: ModelRef, trained: dict[str, TrainResult], tmp_path: Path) -> None:
    manifest, source, store = read_manifest(ref(tiny, trained["two"])), BlobStore(tiny.store), BlobStore(tmp_path)
    chunks = [shard.chunk for shard in (*manifest.shards, *read_manifest(tiny).shards)]
    for digest in (*chunks, *(part for file in manifest.files for part in file.parts), tiny.manifest):
        store.put(source.get(digest))
    number = next(place for place, shard in enumerate(manifest.shards) if shard.codec == "lora")
    path = store.path(manifest.shards[number].chunk)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    faults = verify_model(manifest, store, lambda *_: None)
    sharing = [shard for shard in manifest.shards if shard.chunk == manifest.shards[number].chunk]
    assert len(faults) == len(sharing)
    assert all(path.name[:12] in fault.reason for fault in faults)


@pytest.mark.parametrize("most", [1_000, 4_000_000])
def test_a_chunk_of_factors_is_no_larger_than_chunks_may_be(
    tiny: ModelRef, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepshard.compute.weights.CHUNK_DECODED_BYTES_MAX", most)
    base, store = load_weights(tiny, quiet), BlobStore(tiny.store)
    name = "model.layers.1.mlp.up_proj.weight"
    rows, columns = base.tensors[name].shape
    factors = {name: round_factors(np.full((rows, 2), 0.5, np.float32), np.full((2, columns), 0.25, np.float32))}
    merged = merged_tensors(base, factors)
    assert torch.equal(merged[name], (base.tensors[name].float() + 0.25).bfloat16())
    made, _ = store_model(merged, base.manifest.files, store, quiet, base=base, depth=1, factors=factors)
    found = load_weights(ModelRef(manifest=manifest_digest(made), store=tiny.store), quiet)
    assert changed_names(base, found) == {name}
    assert torch.equal(found.tensors[name], merged[name])
    assert ("lora" in {shard.codec for shard in made.shards}) == (most > 1_000)


@pytest.mark.parametrize("layers", [("attention",), ("q_proj", "lm_head"), ("embed_tokens",), ("proj",)])
def test_a_recipe_for_layers_that_are_not_there_is_refused(tiny: ModelRef, layers: tuple[str, ...]) -> None:
    recipe = msgspec.structs.replace(RECIPE, lora=LoraRecipe(2, 2, layers))
    with pytest.raises(NoSuchLayers, match=f"layer {layers[-1]} is the name of no linear layer"):
        train(train_job(tiny, Path(tiny.store), recipe=recipe), quiet)


@pytest.mark.clause("11.10/6")
def test_the_model_computes_what_merging_gives(tiny: ModelRef) -> None:
    """With factors that aren't zero the trained model's outputs are those of the weights plus alpha / rank * B A."""
    weights = load_weights(tiny, quiet)
    with model_directory(weights.manifest, BlobStore(tiny.store)) as directory:
        model = build_model(directory, weights.tensors)
        adapted = build_model(directory, weights.tensors)
    adapters = Adapters(adapted, LORA, list(weights.tensors), bytes(32))
    name = "model.layers.1.mlp.up_proj.weight"
    with torch.no_grad():
        adapters.parameters[f"{name}.lora_b"].normal_(generator=torch.Generator().manual_seed(1))
    factors = adapters.factors()[name]
    added = torch.from_numpy(factors.b) @ torch.from_numpy(factors.a)
    with torch.no_grad():
        model.get_submodule(name.removesuffix(".weight")).weight += added
        numbers = torch.tensor([[1, 5, 9, 200, 31]])
        found, expected = (each(input_ids=numbers).logits for each in (adapted, model))
    assert float((found - expected).abs().max()) < 0.02 * float(expected.abs().max())
    assert float(added.abs().max()) > 0.1


@pytest.mark.clause("11.10/6")
def test_the_first_factors_come_from_the_rounds_seed() -> None:
    first = first_factor(bytes(32), "model.layers.0.mlp.up_proj.weight", 3, 16)
    assert first.dtype == np.float32
    assert first.shape == (3, 16)
    assert np.abs(first).max() < 0.25
    # The first three u16 are 63116, 64434 and 51914; sqrt(columns) is 4.
    assert [float(value) * 4 * 65_536 for value in first[0, :3]] == [60_697, 63_333, 38_293]
    assert not np.array_equal(first, first_factor(b"\1" * 32, "model.layers.0.mlp.up_proj.weight", 3, 16))
