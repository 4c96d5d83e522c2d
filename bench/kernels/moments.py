"""Rows of `logprob_moments`: speed and memory beside materialised logits, and errors against float64."""

from __future__ import annotations

from statistics import median

import torch
from torch import Tensor

from bench.wire.rows import Row
from kernels.logprob_moments import logprob_moments
from kernels.reference.logprob_moments import logprob_moments_reference

from .timing import in_turns, product_in_cache, ratios

QUICK = [(512, 576, 8_192)]
FULL = [(2048, 576, 49_152), (2048, 640, 262_144)]


def plain(hidden_MH: Tensor, head_VH: Tensor, targets_M: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same numbers with the whole logits in memory."""
    logits_MV = hidden_MH.float() @ head_VH.float().T
    log_p_MV = logits_MV.log_softmax(1)
    p_MV = log_p_MV.exp()
    mean_M = (p_MV * log_p_MV).sum(1)
    variance_M = (p_MV * (log_p_MV - mean_M[:, None]).square()).sum(1)
    return log_p_MV.gather(1, targets_M[:, None])[:, 0], logits_MV.logsumexp(1), mean_M, variance_M


def problem(rows: int, width: int, words: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden_MH = torch.randn(rows, width, generator=generator)
    head_VH = torch.randn(words, width, generator=generator).mul_(0.1)
    return hidden_MH, head_VH, torch.randint(0, words, (rows,), generator=generator)


def moments_rows(*, quick: bool) -> list[Row]:
    rows = []
    for count, width, words in QUICK if quick else FULL:
        hidden_MH, head_VH, targets_M = problem(count, width, words)
        seconds = in_turns(
            {
                "ours": lambda: logprob_moments(hidden_MH, head_VH, targets_M),  # noqa: B023  # called here
                "plain": lambda: plain(hidden_MH, head_VH, targets_M),  # noqa: B023
                "bound": product_in_cache(width, multiplies=count * width * words),
            },
            runs=1 if quick else 5,
        )
        name = f"moments, {count} rows, H {width}, V {words}"
        beside = {f"{key} (s)": median(value) for key, value in seconds.items()}
        faster, over = ratios(seconds, "plain", "ours"), ratios(seconds, "ours", "bound")
        rows.append(Row(f"{name}: plain / ours", median(faster), "ratio", 2.5, at_least=True, beside=beside))
        rows.append(Row(f"{name}: ours / product in cache", median(over), "ratio", 1.4, at_least=False))
    return rows


def accuracy_rows(*, quick: bool) -> list[Row]:
    rows = []
    for _, width, words in QUICK if quick else FULL:
        hidden_MH, head_VH, targets_M = problem(16, width, words)
        found = logprob_moments(hidden_MH, head_VH, targets_M)
        expected = logprob_moments_reference(hidden_MH, head_VH, targets_M)
        errors = [
            float(((one.double() - other).abs() / other.abs()).max())
            for one, other in zip(found, expected, strict=True)
        ]
        rows.append(Row(f"worst relative error, V {words}", max(errors), "ratio", 1e-4, at_least=False))
    return rows
