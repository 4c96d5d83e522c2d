"""Packed scoring beside each model's own forward pass, for models of several makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from deepshard.compute import packing
from deepshard.compute.packing import PackedModel, packs_of
from deepshard.compute.probing import Scorer, Sequences
from kernels.reference.perturbation_score import perturbation_score_reference

WORDS = 97
SMALL = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", SMALL),
    "qwen3": ("Qwen3Config", SMALL),
    "gemma3": (
        "Gemma3TextConfig",
        SMALL | {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "gemma2": ("Gemma2Config", SMALL | {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 0.5}),
    "gpt2": ("GPT2Config", {"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "mamba": (
        "MambaConfig",
        {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "expand": 2},
    ),
}
PATHS = {"gemma2": "batched", "mamba": "batched"}


def model_of(make: str) -> Any:
    name, options = CONFIGS[make]
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(getattr(transformers, name)(**options), dtype=torch.float32)
    return model.eval().requires_grad_(requires_grad=False)


def probe(length: int, changes: list[int], seed: int = 0) -> Sequences:
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(3, WORDS, (length,), generator=generator).tolist()
    others = [
        [(token + 1) % WORDS if place == change else token for place, token in enumerate(text)] for change in changes
    ]
    return (tuple(text), *map(tuple, others))


@pytest.fixture(scope="module")
def llama() -> Any:
    return model_of("llama")


@pytest.mark.parametrize("make", CONFIGS)
def test_scores_are_those_of_the_models_own_logits(make: str) -> None:
    model = model_of(make)
    sequences = (*probe(14, [2, 9, 13]), (5, 6, 7))
    expected = reference(model, sequences)
    scorer = Scorer(model)
    assert scorer.path == f"deepshard::perturbation_score (cpu, {PATHS.get(make, 'packed')})"
    found = next(scorer.measure([sequences]))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
    (score,) = scorer.scores([sequences])
    assert score.tokens == 13
    values = (score.log_prob, score.perturbation_curvature, score.conditional_curvature)
    assert values == (float(found.log_prob[0]), float(found.discrepancy[0]), float(found.conditional[0]))


@torch.inference_mode()
def reference(model: Any, sequences: Sequences) -> tuple[torch.Tensor, ...]:
    """By the model's own logits: the reference kernel's hidden states and head are these and the identity."""
    logits = [model(input_ids=torch.tensor([sequence])).logits[0, :-1] for sequence in sequences]
    targets = torch.tensor([token for sequence in sequences for token in sequence[1:]])
    starts = torch.tensor([0, *(len(sequence) - 1 for sequence in sequences)]).cumsum(0)
    rows = torch.arange(int(starts[-1]))
    return perturbation_score_reference(
        torch.cat(logits), torch.eye(logits[0].shape[1]), targets, rows, starts, torch.tensor([0, len(sequences)])
    )


def test_a_probes_bytes_depend_neither_on_its_neighbours_nor_on_threads(llama: Any) -> None:
    probes = [
        probe(20, [3, 9], 1),
        probe(33, [30], 2),
        probe(7, [], 3),
        probe(2, [1], 4),
        probe(50, list(range(40)), 5),
    ]
    scorer, before = Scorer(llama), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together = scorer.scores(probes)
        backwards = scorer.scores(probes[::-1])[::-1]
        torch.set_num_threads(1)
        alone = [score for one in probes for score in scorer.scores([one])]
    finally:
        torch.set_num_threads(before)
    assert together == backwards == alone


def test_a_probe_of_many_packs_scores_as_in_one(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = probe(30, [20, 25, 5, 28, 27, 1])
    whole = next(Scorer(llama).measure([sequences]))
    monkeypatch.setattr(packing, "PACK_ROWS_MAX", 64)
    packs = packs_of([sequence[:-1] for sequence in sequences])
    assert len(packs) == 4
    cut = next(Scorer(llama).measure([sequences]))
    assert all(torch.allclose(one, other, rtol=1e-5, atol=1e-6) for one, other in zip(whole, cut, strict=True))


def test_rows_of_a_shared_prefix_are_in_a_pack_once() -> None:
    text, *others = probe(30, [20, 10, 0])
    (pack,) = packs_of([text, *others])
    # A row is the text's as long as the token that it predicts is, too.
    assert len(pack.tokens_N) == 30 + (30 - 19) + (30 - 9) + 30
    assert pack.sequences[1][:20] == (*range(19), 30)
    for sequence, rows in zip((text, *others), pack.sequences, strict=True):
        assert tuple(pack.tokens_N[list(rows)].tolist()) == sequence
        assert pack.positions_N[list(rows)].tolist() == list(range(30))


def test_a_trunk_is_as_long_as_it_saves_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "PACK_ROWS_MAX", 60)
    text, *others = probe(30, [25, 25, 4, 20])
    first, second, third = packs_of([text, *others])
    assert [len(pack.sequences) for pack in (first, second, third)] == [2, 2, 1]
    # The second has perturbations at 25 and 4: a trunk of 3 rows saves 3. The third has nothing to share with.
    assert len(second.tokens_N) == 3 + 2 * 27
    assert len(third.tokens_N) == 30


def test_texts_too_short_to_score_are_zero(llama: Any) -> None:
    scores = Scorer(llama).scores([((5,),), probe(9, [4]), ((),)])
    assert [score.tokens for score in scores] == [0, 8, 0]
    assert scores[0] == scores[2]
    assert scores[0].log_prob == 0.0


def test_a_model_that_cannot_be_packed_keeps_its_own_attention() -> None:
    model = model_of("gemma2")
    own = model.config._attn_implementation
    assert PackedModel(model).path == "batched"
    assert model.config._attn_implementation == own
