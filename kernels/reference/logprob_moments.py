"""The moments of log p by their definitions, in float64 and with the whole logits in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def logprob_moments_reference(
    hidden_MH: Tensor,
    head: Tensor | Sequence[Tensor],
    targets_M: Tensor,
    *,
    scale: float = 1.0,
    softcap: float = 0.0,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log_prob, logsumexp, mean and variance of log p, float64 [M]; ignored rows (-100) are 0 but in logsumexp."""
    head_VH = head if isinstance(head, Tensor) else torch.cat(tuple(head))
    logits_MV = scale * (hidden_MH.double() @ head_VH.double().T)
    if softcap:
        logits_MV = softcap * (logits_MV / softcap).tanh()
    logits_MV = logits_MV / temperature
    logsumexp_M = logits_MV.logsumexp(1)
    log_p_MV = logits_MV - logsumexp_M[:, None]
    p_MV = log_p_MV.exp()
    zero = torch.zeros((), dtype=torch.float64)
    terms_MV = torch.where(p_MV > 0, p_MV * log_p_MV, zero)
    mean_M = terms_MV.sum(1)
    squares_MV = torch.where(p_MV > 0, p_MV * (log_p_MV - mean_M[:, None]).square(), zero)
    log_prob_M = log_p_MV.gather(1, targets_M.clamp(min=0)[:, None])[:, 0]
    ignored_M = targets_M == -100
    return (
        log_prob_M.masked_fill(ignored_M, 0.0),
        logsumexp_M,
        mean_M.masked_fill(ignored_M, 0.0),
        squares_MV.sum(1).masked_fill(ignored_M, 0.0),
    )
