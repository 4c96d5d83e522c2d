"""Answers: a conversation continued token by token, with a key-value cache, streamed as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepshard.compute.jobs import Generate, GenerateResult, ModelRef, Progress
from deepshard.compute.models import build_model, load_tokenizer, model_directory
from deepshard.compute.store import BlobStore
from deepshard.compute.weights import Report, load_weights
from deepshard.errors import UsageError

_PARTIAL = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class _Loaded:
    ref: ModelRef
    model: Any
    tokenizer: Any
    context: int
    stops: frozenset[int]


class Generator:
    """Generates with one model, which stays loaded until another one is asked for or `drop` is called."""

    def __init__(self) -> None:
        self._loaded: _Loaded | None = None

    def drop(self) -> None:
        """Forget the loaded model, so that a heavy job has its memory."""
        self._loaded = None

    def generate(self, job: Generate, report: Report) -> GenerateResult:
        """Continue the conversation greedily at temperature 0, else by seeded sampling.

        Raises:
            UsageError: the conversation is empty or longer than the model's context.
            LocalError: the model can't be read.
        """
        loaded = self._load(job.model, report)
        prompt = _prompt(loaded.tokenizer, job)
        limit = min(job.max_tokens, loaded.context - len(prompt))
        if not prompt or limit < 1:
            raise UsageError(
                f"the conversation is {len(prompt)} tokens long, the model's context holds {loaded.context}"
            )
        stream = _TextStream(loaded.tokenizer, report, limit)
        random = torch.Generator().manual_seed(job.seed & (2**63 - 1))
        numbers_1T, cache, reason = torch.tensor([prompt]), None, "length"
        with torch.inference_mode():
            for _ in range(limit):
                output = loaded.model(input_ids=numbers_1T, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache = output.past_key_values
                number = _choose(output.logits[0, -1], job.temperature, random)
                if number in loaded.stops:
                    reason = "stop"
                    break
                stream.add(number)
                numbers_1T = torch.tensor([[number]])
        return GenerateResult(
            text=stream.close(), prompt_tokens=len(prompt), completion_tokens=stream.count, finish_reason=reason
        )

    def _load(self, ref: ModelRef, report: Report) -> _Loaded:
        if self._loaded is not None and self._loaded.ref == ref:
            return self._loaded
        self._loaded = None  # two models are never held at once
        weights = load_weights(ref, report)
        with model_directory(weights.manifest, BlobStore(ref.store)) as directory:
            model, tokenizer = build_model(directory, weights.tensors), load_tokenizer(directory)
        stops: set[int] = {tokenizer.eos_token_id} - {None}
        configured = getattr(model.generation_config, "eos_token_id", None)
        if configured is None:
            configured = getattr(model.config.get_text_config(), "eos_token_id", None)
        stops.update([configured] if isinstance(configured, int) else configured or ())
        context = int(getattr(model.config.get_text_config(), "max_position_embeddings", 2048))
        self._loaded = _Loaded(ref, model, tokenizer, context, frozenset(stops))
        return self._loaded


def _prompt(tokenizer: Any, job: Generate) -> list[int]:
    messages = [{"role": message.role, "content": message.content} for message in job.messages]
    if tokenizer.chat_template:
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except (
            ValueError,
            TypeError,
            KeyError,
            RuntimeError,
        ) as error:  # jinja's TemplateError is a RuntimeError or ValueError
            raise UsageError(f"the model's chat template refuses the conversation: {error}") from error
    else:
        # A model without a template has seen no roles: a plain transcript is the least surprising form.
        text = "".join(f"{message.role}: {message.content}\n" for message in job.messages) + "assistant:"
    numbers = [int(number) for number in tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids]
    start = tokenizer.bos_token_id
    return numbers if start is None or numbers[:1] == [start] else [int(start), *numbers]


def _choose(logits_V: Tensor, temperature: float, random: torch.Generator) -> int:
    if temperature <= 0:
        return int(logits_V.argmax())
    return int(torch.multinomial(torch.softmax(logits_V.float() / temperature, 0), 1, generator=random))


class _TextStream:
    """Turns tokens to text pieces. A token may end inside a character, so such an end is held back."""

    def __init__(self, tokenizer: Any, report: Report, total: int) -> None:
        self._tokenizer, self._report, self._total = tokenizer, report, total
        self._numbers: list[int] = []
        self._sent = ""

    @property
    def count(self) -> int:
        return len(self._numbers)

    def add(self, number: int) -> None:
        self._numbers.append(number)
        self._send(self._text().rstrip(_PARTIAL))

    def close(self) -> str:
        text = self._text()
        self._send(text)
        return text

    def _text(self) -> str:
        text: str = self._tokenizer.decode(self._numbers, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _send(self, text: str) -> None:
        if len(text) > len(self._sent):
            piece, self._sent = text[len(self._sent) :], text
            self._report(Progress(stage="token", done=self.count, total=self._total, text=piece))
