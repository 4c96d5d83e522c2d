"""Scores of probe texts and their perturbations, from the hidden states of a packed, ragged batch.

A probe is a text and K perturbations of it. With lp the mean of log p over a sequence's tokens,

    discrepancy = lp(text) - mean_k lp(perturbation k)        DetectGPT, arXiv 2301.11305, equation 1
    normalised  = discrepancy / std_k lp(perturbation k)      there, section 4; of a population, and 1 where it is 0
    conditional = (sum log p - sum mean) / sqrt(sum variance) over the text's tokens, arXiv 2310.05130, equation 5

Sequences lie in the batch one after the other, without padding. Each names the rows that predict its tokens, so a row
that several sequences have in common (the prefix before the first perturbed token) is computed and reduced once.

Rows go through `logprob_moments`; its numbers are added up sequence by sequence, and these probe by probe, in float64
and in the order of the rows. On a GPU two Triton kernels do that, elsewhere `torch.segment_reduce`; a sequence's sums
depend on its own rows only.

Shape suffixes: M rows, H hidden width, R row numbers, S sequences, P probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.logprob_moments import logprob_moments

__all__ = ["PerturbationScores", "perturbation_score", "score_moments"]


class PerturbationScores(NamedTuple):
    """float64, in nats a token but for `normalised` and `conditional`, which have no unit.

    Attributes:
        log_prob: [S], mean log-prob of each sequence; 0 for one without tokens.
        discrepancy: [P]; 0 for a probe without perturbations.
        normalised: [P]; likewise.
        conditional: [P]; 0 where the variance is.
    """

    log_prob: Tensor
    discrepancy: Tensor
    normalised: Tensor
    conditional: Tensor


def perturbation_score(
    hidden_MH: Tensor,
    head: Tensor | Sequence[Tensor],
    targets_M: Tensor,
    rows_R: Tensor,
    sequence_starts: Tensor,
    probe_starts: Tensor,
    *,
    scale: float = 1.0,
    softcap: float = 0.0,
    temperature: float = 1.0,
) -> PerturbationScores:
    """Score a packed batch.

    Args:
        hidden_MH: hidden states of all rows, as in `logprob_moments`.
        head: output head or its shards, likewise.
        targets_M: the token that each row predicts.
        rows_R: int64 row numbers, sequence after sequence.
        sequence_starts: int64 [S+1]; sequence s has the rows from `rows_R[starts[s]]` to before `rows_R[starts[s+1]]`.
        probe_starts: int64 [P+1]; probe p has the sequences from `starts[p]` on, its text first.
        scale: as in `logprob_moments`.
        softcap: likewise.
        temperature: likewise.

    Raises:
        ValueError: a shape, dtype, device or number is wrong, or starts don't rise from 0 to the end; the message names
            the argument.
    """
    moments = logprob_moments(hidden_MH, head, targets_M, scale=scale, softcap=softcap, temperature=temperature)
    moments_3M = torch.stack([moments.log_prob, moments.mean, moments.variance])
    return score_moments(moments_3M, rows_R, sequence_starts, probe_starts)


def score_moments(
    moments_3M: Tensor, rows_R: Tensor, sequence_starts: Tensor, probe_starts: Tensor
) -> PerturbationScores:
    """The part after `logprob_moments`: its log_prob, mean and variance as [3, M] fp32 to scores.

    Raises:
        ValueError: as above.
    """
    if moments_3M.dim() != 2 or moments_3M.shape[0] != 3 or moments_3M.dtype != torch.float32:
        raise ValueError(f"moments must be fp32 [3, M], got {moments_3M.dtype} {list(moments_3M.shape)}")
    for name, numbers in (("rows", rows_R), ("sequence_starts", sequence_starts), ("probe_starts", probe_starts)):
        least = 0 if name == "rows" else 1
        if numbers.dim() != 1 or numbers.dtype != torch.int64 or numbers.shape[0] < least:
            raise ValueError(f"{name} must be int64 [{least} or more], got {numbers.dtype} {list(numbers.shape)}")
        if numbers.device != moments_3M.device:
            raise ValueError(f"{name} are on {numbers.device}, the moments on {moments_3M.device}")
    return PerturbationScores(*_score(moments_3M, rows_R, sequence_starts, probe_starts))


@torch.library.custom_op("deepshard::perturbation_score", mutates_args=())
def _score(
    moments_3M: Tensor, rows_R: Tensor, sequence_starts: Tensor, probe_starts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check_starts("sequence_starts", sequence_starts, rows_R.shape[0], may_be_empty=True)
    _check_starts("probe_starts", probe_starts, sequence_starts.shape[0] - 1, may_be_empty=False)
    if bool(((rows_R < 0) | (rows_R >= moments_3M.shape[1])).any()):
        place = int(((rows_R < 0) | (rows_R >= moments_3M.shape[1])).nonzero()[0])
        raise ValueError(f"rows[{place}] is {int(rows_R[place])}, expected 0 to {moments_3M.shape[1] - 1}")
    with torch.no_grad():
        if moments_3M.device.type == "cuda":
            from kernels.triton_perturbation_score import scores_by_triton  # noqa: PLC0415  # CPU needs none

            return scores_by_triton(moments_3M, rows_R, sequence_starts, probe_starts)
        return _on_cpu(moments_3M, rows_R, sequence_starts, probe_starts)


@_score.register_fake
def _(
    moments_3M: Tensor, _: Tensor, sequence_starts: Tensor, probe_starts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sequences, probes = sequence_starts.shape[0] - 1, probe_starts.shape[0] - 1
    one, two, three, four = (
        moments_3M.new_empty(count, dtype=torch.float64) for count in (sequences, probes, probes, probes)
    )
    return one, two, three, four


def _check_starts(name: str, starts: Tensor, end: int, *, may_be_empty: bool) -> None:
    steps = starts.diff()
    least = 0 if may_be_empty else 1
    if int(starts[0]) != 0 or int(starts[-1]) != end or bool((steps < least).any()):
        rise = "not fall" if may_be_empty else "rise"
        raise ValueError(f"{name} must {rise} from 0 to {end}, got {starts.tolist()[:8]} of {starts.shape[0]}")


def _on_cpu(
    moments_3M: Tensor, rows_R: Tensor, sequence_starts: Tensor, probe_starts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sums_3S = torch.stack([_sums(moments_M[rows_R].double(), sequence_starts) for moments_M in moments_3M])
    tokens_S = sequence_starts.diff()
    log_prob_S = sums_3S[0] / tokens_S.clamp(min=1)
    text_P, others_P = probe_starts[:-1], (probe_starts.diff() - 1).clamp(min=1)
    is_other_S = torch.ones_like(tokens_S, dtype=torch.bool)
    is_other_S[text_P] = False
    has_others_P = probe_starts.diff() > 1
    mean_P = _sums(torch.where(is_other_S, log_prob_S, 0.0), probe_starts) / others_P
    apart_S = (log_prob_S - mean_P.repeat_interleave(probe_starts.diff())).square()
    deviation_P = (_sums(torch.where(is_other_S, apart_S, 0.0), probe_starts) / others_P).sqrt()
    discrepancy_P = torch.where(has_others_P, log_prob_S[text_P] - mean_P, 0.0)
    normalised_P = discrepancy_P / torch.where(deviation_P == 0.0, 1.0, deviation_P)
    surprise_P, spread_P = sums_3S[0, text_P] - sums_3S[1, text_P], sums_3S[2, text_P]
    conditional_P = surprise_P / torch.where(spread_P == 0.0, 1.0, spread_P).sqrt()
    return log_prob_S, discrepancy_P, normalised_P, torch.where(spread_P == 0.0, 0.0, conditional_P)


def _sums(values: Tensor, starts: Tensor) -> Tensor:
    return torch.segment_reduce(values, "sum", offsets=starts, axis=0, initial=0.0)
