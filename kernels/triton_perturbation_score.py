"""Triton form of `perturbation_score`: a program a sequence, then a program a probe, each in a fixed order.

All sums are float64: there are few of them, and a discrepancy is a small difference of large sums.

Under `TRITON_INTERPRET=1` the same code runs on CPU tensors.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK_R: Final = 128
_BLOCK_S: Final = 32


@triton.jit  # type: ignore[untyped-decorator]
def _sequence_kernel(
    moments_ptr: tl.tensor,
    rows_ptr: tl.tensor,
    starts_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    rows: tl.tensor,
    sequences: tl.tensor,
    BLOCK_R: tl.constexpr,
) -> None:
    sequence = tl.program_id(0).to(tl.int64)
    begin = tl.load(starts_ptr + sequence)
    end = tl.load(starts_ptr + sequence + 1)
    log_prob_R = tl.zeros([BLOCK_R], tl.float64)
    mean_R = tl.zeros([BLOCK_R], tl.float64)
    variance_R = tl.zeros([BLOCK_R], tl.float64)
    for start in range(begin, end, BLOCK_R):
        place_R = start + tl.arange(0, BLOCK_R)
        is_row_R = place_R < end
        row_R = tl.load(rows_ptr + place_R, mask=is_row_R, other=0)
        log_prob_R += tl.load(moments_ptr + row_R, mask=is_row_R, other=0.0).to(tl.float64)
        mean_R += tl.load(moments_ptr + rows + row_R, mask=is_row_R, other=0.0).to(tl.float64)
        variance_R += tl.load(moments_ptr + 2 * rows + row_R, mask=is_row_R, other=0.0).to(tl.float64)
    tl.store(sums_ptr + sequence, tl.sum(log_prob_R, 0))
    tl.store(sums_ptr + sequences + sequence, tl.sum(mean_R, 0))
    tl.store(sums_ptr + 2 * sequences + sequence, tl.sum(variance_R, 0))
    tokens = tl.maximum(end - begin, 1).to(tl.float64)
    tl.store(sums_ptr + 3 * sequences + sequence, tl.sum(log_prob_R, 0) / tokens)


@triton.jit  # type: ignore[untyped-decorator]
def _probe_kernel(
    sums_ptr: tl.tensor,
    starts_ptr: tl.tensor,
    out_ptr: tl.tensor,
    sequences: tl.tensor,
    probes: tl.tensor,
    BLOCK_S: tl.constexpr,
) -> None:
    probe = tl.program_id(0).to(tl.int64)
    text = tl.load(starts_ptr + probe)
    end = tl.load(starts_ptr + probe + 1)
    log_prob_ptr = sums_ptr + 3 * sequences
    others = tl.maximum(end - text - 1, 1).to(tl.float64)
    sum_S = tl.zeros([BLOCK_S], tl.float64)
    for start in range(text + 1, end, BLOCK_S):
        place_S = start + tl.arange(0, BLOCK_S)
        sum_S += tl.load(log_prob_ptr + place_S, mask=place_S < end, other=0.0)
    mean = tl.sum(sum_S, 0) / others
    square_S = tl.zeros([BLOCK_S], tl.float64)
    for start in range(text + 1, end, BLOCK_S):
        place_S = start + tl.arange(0, BLOCK_S)
        apart_S = tl.load(log_prob_ptr + place_S, mask=place_S < end, other=0.0) - mean
        square_S += tl.where(place_S < end, apart_S * apart_S, 0.0)
    deviation = tl.sqrt(tl.sum(square_S, 0) / others)
    discrepancy = tl.where(end - text > 1, tl.load(log_prob_ptr + text) - mean, 0.0)
    tl.store(out_ptr + probe, discrepancy)
    tl.store(out_ptr + probes + probe, discrepancy / tl.where(deviation == 0.0, 1.0, deviation))
    spread = tl.load(sums_ptr + 2 * sequences + text)
    surprise = tl.load(sums_ptr + text) - tl.load(sums_ptr + sequences + text)
    conditional = surprise / tl.sqrt(tl.where(spread == 0.0, 1.0, spread))
    tl.store(out_ptr + 2 * probes + probe, tl.where(spread == 0.0, 0.0, conditional))


def scores_by_triton(
    moments_3M: Tensor, rows_R: Tensor, sequence_starts: Tensor, probe_starts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four tensors of `PerturbationScores`; arguments as checked by `score_moments`."""
    sequences, probes = sequence_starts.shape[0] - 1, probe_starts.shape[0] - 1
    sums_4S = moments_3M.new_empty((4, sequences), dtype=torch.float64)
    out_3P = moments_3M.new_empty((3, probes), dtype=torch.float64)
    if sequences:
        _sequence_kernel[(sequences,)](
            moments_3M.contiguous(),
            rows_R.contiguous(),
            sequence_starts.contiguous(),
            sums_4S,
            moments_3M.shape[1],
            sequences,
            BLOCK_R=_BLOCK_R,
            enable_fp_fusion=False,
        )
    if probes:
        _probe_kernel[(probes,)](
            sums_4S, probe_starts.contiguous(), out_3P, sequences, probes, BLOCK_S=_BLOCK_S, enable_fp_fusion=False
        )
    # The first row is a tensor of its own, since an operator's results may not share memory.
    return sums_4S[3].clone(), *(values_P.clone() for values_P in out_3P)
