"""A GGUF file streamed is a GGUF file read by transformers, bit for bit."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from deepshard.compute import importing
from deepshard.compute.importing import import_model
from deepshard.compute.jobs import ImportModel, ModelRef, Progress
from deepshard.compute.models import build_model, load_tokenizer, model_directory, tied_names
from deepshard.compute.store import BlobStore
from deepshard.compute.tiny import _tokenizer, corpus
from deepshard.compute.tokens import encode_text
from deepshard.compute.weights import load_weights

LAYERS, HIDDEN, INNER, HEADS, KEY_HEADS = 2, 64, 96, 4, 2
Matrix = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def write_gguf(path: Path, architecture: str) -> None:
    """A model with random weights, the matrices in eight bits."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_key_length(HIDDEN // HEADS)
    writer.add_value_length(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    vocabulary = _add_tokenizer(writer)
    numbers = np.random.default_rng(3)

    def add(name: str, *shape: int) -> None:
        values: Matrix = (numbers.standard_normal(shape) * 0.05).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", values + 1)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)

    add("token_embd", vocabulary, HIDDEN)
    add("output_norm", HIDDEN)
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{name}", HIDDEN)
        for name, rows in (("q", HIDDEN), ("k", HIDDEN // 2), ("v", HIDDEN // 2), ("output", HIDDEN)):
            add(f"blk.{layer}.attn_{name}", rows, HIDDEN)
        for name, shape in (("gate", (INNER, HIDDEN)), ("up", (INNER, HIDDEN)), ("down", (HIDDEN, INNER))):
            add(f"blk.{layer}.ffn_{name}", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter) -> int:
    core = _tokenizer(corpus()[:40]).backend_tokenizer
    vocabulary = core.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    import json  # noqa: PLC0415

    merges = json.loads(core.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in {"<s>", "</s>"} else 1 for token in tokens])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(vocabulary["<s>"])
    writer.add_eos_token_id(vocabulary["</s>"])
    return len(tokens)


def test_streaming_gives_what_transformers_reads(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "tiny.gguf"
    write_gguf(path, "llama")
    whole, _ = importing._open(str(path), lambda _: None)
    skipped = tied_names(whole)
    expected = {name: value.to(torch.bfloat16) for name, value in whole.state_dict().items() if name not in skipped}
    stages: list[Progress] = []
    found = import_model(ImportModel(source=str(path), store=str(tmp_path / "chunks")), stages.append)
    assert {progress.stage for progress in stages} == {"import", "stream"}
    assert stages[-1].done == stages[-1].total == sum(2 * value.numel() for value in expected.values())
    ref = ModelRef(manifest=found.manifest, store=str(tmp_path / "chunks"))
    weights = load_weights(ref, lambda _: None)
    assert weights.tensors.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(value, weights.tensors[name])] == []
    with model_directory(weights.manifest, BlobStore(ref.store)) as directory:
        model, tokenizer = build_model(directory, weights.tensors), load_tokenizer(directory)
    numbers = torch.tensor([encode_text(tokenizer, "The river begins as a spring.", 64)])
    with torch.no_grad():
        assert torch.isfinite(model(input_ids=numbers).logits).all()
    directory_import = import_model(ImportModel(source=str(path.parent), store=str(tmp_path / "again")), lambda _: None)
    assert directory_import == found


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2moe"])
def test_architectures_whose_tensors_are_rearranged_are_not_streamed(architecture: str) -> None:
    from transformers import modeling_gguf_pytorch_utils as reading  # noqa: PLC0415

    from deepshard.compute.gguf_source import _BY_ELEMENT, _BY_ROW  # noqa: PLC0415

    assert reading.TENSOR_PROCESSORS[architecture].__name__ not in {*_BY_ELEMENT, _BY_ROW}
