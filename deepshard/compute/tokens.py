"""Text to token numbers, the same way for training, scoring and perturbing.

A sequence is the tokenizer's beginning-of-sequence token, where it has one, and the tokens of the text, cut to a number
of tokens. No end-of-sequence token is added: a segment is an excerpt, and where it stops isn't where its text ends.
"""

from __future__ import annotations

from typing import Any


def encode_text(tokenizer: Any, text: str, tokens_max: int) -> list[int]:
    """Token numbers of `text`, beginning-of-sequence included, at most `tokens_max`."""
    numbers = [int(number) for number in tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids]
    start = tokenizer.bos_token_id
    return ([] if start is None else [int(start)])[:tokens_max] + numbers[: max(0, tokens_max - (start is not None))]
