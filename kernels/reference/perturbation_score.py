"""Scores of probes and their perturbations by their definitions, in float64, one sequence after the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from kernels.reference.logprob_moments import logprob_moments_reference


def perturbation_score_reference(
    hidden_MH: Tensor,
    head: Tensor | Sequence[Tensor],
    targets_M: Tensor,
    rows_R: Tensor,
    sequence_starts: Tensor,
    probe_starts: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean log-prob of every sequence; discrepancy, normalised discrepancy and conditional curvature of every probe."""
    log_prob_M, _, mean_M, variance_M = logprob_moments_reference(hidden_MH, head, targets_M)
    bounds, probes = sequence_starts.tolist(), probe_starts.tolist()
    log_probs, discrepancies, normalised, conditional = [], [], [], []
    for begin, end in pairwise(bounds):
        rows = rows_R[begin:end]
        log_probs.append(float(log_prob_M[rows].mean()) if end > begin else 0.0)
    for begin, end in pairwise(probes):
        others = torch.tensor(log_probs[begin + 1 : end], dtype=torch.float64)
        difference = log_probs[begin] - float(others.mean()) if len(others) else 0.0
        deviation = float(others.std(correction=0)) if len(others) else 0.0
        discrepancies.append(difference)
        normalised.append(difference / (deviation or 1.0))
        own = rows_R[bounds[begin] : bounds[begin + 1]]
        spread = float(variance_M[own].sum())
        surprise = float((log_prob_M[own] - mean_M[own]).sum())
        conditional.append(surprise / spread**0.5 if spread > 0 else 0.0)
    one, two, three, four = (
        torch.tensor(values, dtype=torch.float64) for values in (log_probs, discrepancies, normalised, conditional)
    )
    return one, two, three, four
