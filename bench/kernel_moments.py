"""Seconds and worst errors of the moments of log p against materialised logits; `--quick` takes a few seconds."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.logprob_moments import logprob_moments
from kernels.reference.logprob_moments import logprob_moments_reference

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


def best_of(runs: int, function: Callable[[], object]) -> float:
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def measure(rows: int, width: int, words: int, dtype: torch.dtype, *, with_plain: bool) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    hidden_MH = torch.randn(rows, width, generator=generator)
    head_VH = (torch.randn(words, width, generator=generator) * 0.1).to(dtype)
    targets_M = torch.randint(0, words, (rows,), generator=generator)
    found = logprob_moments(hidden_MH[:64], head_VH, targets_M[:64])
    expected = logprob_moments_reference(hidden_MH[:64], head_VH, targets_M[:64])
    errors = [
        float((one.double() - other).abs().max() / other.abs().max())
        for one, other in zip(found, expected, strict=True)
    ]
    row: dict[str, Any] = {"rows": rows, "width": width, "words": words, "dtype": str(dtype).removeprefix("torch.")}
    row["seconds"] = round(best_of(2, lambda: logprob_moments(hidden_MH, head_VH, targets_M)), 3)
    if with_plain:
        row["plain_seconds"] = round(best_of(2, lambda: plain(hidden_MH, head_VH, targets_M)), 3)
    row["worst_relative_error"] = max(errors)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", default="bench-kernels.json", help="file for the numbers")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for shape in QUICK if arguments.quick else FULL:
        for dtype in (torch.float32, torch.bfloat16):
            rows.append(measure(*shape, dtype, with_plain=shape[2] < 100_000))
            print(rows[-1], flush=True)
    Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
