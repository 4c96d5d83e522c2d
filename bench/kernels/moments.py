"""Rows of `logprob_moments`: speed and memory beside materialised logits, and errors against float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from bench.wire.rows import Row
from kernels.logprob_moments import logprob_moments
from kernels.reference.logprob_moments import logprob_moments_reference

from .timing import extra_memory, in_turns, product_in_cache, ratios

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
        contenders: dict[str, Callable[[], object]] = {
            "ours": lambda: logprob_moments(hidden_MH, head_VH, targets_M),  # noqa: B023  # called here
            "plain": lambda: plain(hidden_MH, head_VH, targets_M),  # noqa: B023
            "bound": product_in_cache(width, multiplies=count * width * words),
        }
        # Before the timing, since memory that a call has had once may stay with the process; after a small call, since
        # the first of a process brings 160 MB of libraries in.
        logprob_moments(hidden_MH[:16], head_VH[:16], torch.zeros(16, dtype=torch.int64))
        extra = {key: extra_memory(function) for key, function in contenders.items() if key != "bound"}
        seconds = in_turns(contenders, runs=1 if quick else 5)
        name = f"moments, {count} rows, H {width}, V {words}"
        beside = {f"{key} (s)": median(value) for key, value in seconds.items()}
        faster, over = ratios(seconds, "plain", "ours"), ratios(seconds, "ours", "bound")
        rows.append(Row(f"{name}: plain / ours", median(faster), "ratio", 2.5, at_least=True, beside=beside))
        rows.append(Row(f"{name}: ours / product in cache", median(over), "ratio", 1.4, at_least=False))
        if extra["ours"]:
            theirs = {"plain (MB)": extra["plain"]}
            rows.append(Row(f"{name}: extra memory", extra["ours"], "MB", 150, at_least=False, beside=theirs))
    return rows


def adversarial(words: int) -> dict[str, Tensor]:
    """Logits [V] on which one or the other way of summing loses its digits, exact in fp32."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(words, generator=generator)
    one = torch.zeros(words)
    one[words // 3] = 1.0
    return {
        "near-uniform": noise * 1e-3,
        "normal": noise * 2,
        "peaked": noise + 30 * one,
        "one word as likely as all others": noise * 0.1 + math.log(words) * one,
        "wide": torch.linspace(-100, 0, words)[torch.randperm(words, generator=generator)],
        "rising": (noise * 3).sort().values,
        "far from zero": noise + 1e4,
    }


def accuracy_rows(*, quick: bool) -> list[Row]:
    """Hidden states are unit vectors, so that logits are columns of the head, exactly: what is wrong is the sums."""
    words = QUICK[0][2] if quick else FULL[-1][2]
    logits = adversarial(words)
    head_VH = torch.stack(list(logits.values()), 1)
    targets_M = torch.full((len(logits),), words // 3)
    found = logprob_moments(torch.eye(len(logits)), head_VH, targets_M)
    expected = logprob_moments_reference(torch.eye(len(logits)), head_VH, targets_M)
    rows = []
    for name, one, other in zip(found._fields, found, expected, strict=True):
        errors_M = (one.double() - other).abs() / (other.abs() if name == "variance" else other.abs().clamp(min=1.0))
        beside = dict(zip(logits, errors_M.tolist(), strict=True))
        limit = 1e-4 if name == "variance" else 1e-5
        rows.append(
            Row(f"worst error of {name}, V {words}", float(errors_M.max()), "relative", limit, False, beside)  # noqa: FBT003
        )
    return rows
