"""A small language model made on the spot, for tests: a Llama that has read a few pages of English.

Tokenizer and weights come from the texts beside this file and one seed. On one machine the result is the same bytes
each time; between machines the last bits may differ, so a network agrees on the imported weights, not on the recipe for
them.
"""

from __future__ import annotations

from importlib import resources
from typing import Any, Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from deepshard.compute.jobs import Progress
from deepshard.compute.tokens import encode_text
from deepshard.compute.weights import Report

_VOCABULARY: Final = 768
_STEPS: Final = 60
"""Enough for plain English to score above noise; with more, the pages are learned by heart and all else looks alien."""
_ROWS: Final = 16
_WINDOW: Final = 64
_LEARNING_RATE: Final = 3e-3
_SEED: Final = 2026
_MARKS: Final = {"bos_token": "<s>", "eos_token": "</s>"}
_CHAT_TEMPLATE: Final = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


def corpus() -> list[str]:
    """The paragraphs that the tiny model learns from."""
    folder = resources.files("deepshard.compute") / "texts"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".txt")), key=lambda file: file.name)
    return [part.strip() for file in files for part in file.read_text("utf-8").split("\n\n") if part.strip()]


def make_tiny(report: Report) -> tuple[Any, Any]:
    """Model (fp32) and tokenizer."""
    paragraphs = corpus()
    tokenizer = _tokenizer(paragraphs)
    state = torch.random.get_rng_state()
    torch.manual_seed(_SEED)
    try:
        model = LlamaForCausalLM(_config(tokenizer))
        _pretrain(model, [encode_text(tokenizer, text, 4096) for text in paragraphs], report)
    finally:
        torch.random.set_rng_state(state)
    return model.eval(), tokenizer


def _tokenizer(paragraphs: list[str]) -> Any:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(paragraphs, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **_MARKS)
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer


def _config(tokenizer: Any) -> Any:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def _pretrain(model: Any, sequences: list[list[int]], report: Report) -> None:
    generator = torch.Generator().manual_seed(_SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=_STEPS, pct_start=0.1)
    for step in range(_STEPS):
        rows = []
        for choice, place in torch.rand(_ROWS, 2, generator=generator).tolist():
            sequence = sequences[int(choice * len(sequences))]
            start = int(place * max(1, len(sequence) - _WINDOW))
            # Every window begins as a sequence does, so that the first position is always the start token.
            rows.append((sequence[:1] + sequence[1 + start : start + _WINDOW])[:_WINDOW])
        width = max(len(row) for row in rows)
        numbers_BT = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        labels_BT = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
        model(input_ids=numbers_BT, labels=labels_BT, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        report(Progress(stage="pretrain", done=step + 1, total=_STEPS))
