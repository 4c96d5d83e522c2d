"""What a part of the vocabulary says about each row, and how parts are put together.

With z the logits of the part's words, m their maximum and c = z - m, a part holds m and the sums of 1, c and c^2 under
weights exp(c). Two parts under the maximum M of both add up to

    l = sum a l_k    s1 = sum a (s1_k + d l_k)    s2 = sum a (s2_k + 2 d s1_k + d^2 l_k)    d = m_k - M, a = exp(d)

which is associative up to rounding in float64 (1e-15); the order of the parts is fixed, so results are the same bytes.
Shifting by a maximum keeps c^2 small where the weight is large; E[x^2] - E[x]^2 on log-probs in fp32 is wrong by 580
times the value near a uniform distribution over 262,144 words.

Shape suffixes: M rows, S the four sums m, l, s1, s2, N parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import torch
from torch import Tensor

IGNORED_TARGET: Final = -100
"""A target with this value is ignored: its row's log_prob, mean and variance are 0."""

_EXPONENT_FLOOR: Final = -700.0


class LogprobMoments(NamedTuple):
    """Per row, fp32 [M], in nats."""

    log_prob: Tensor
    logsumexp: Tensor
    mean: Tensor
    variance: Tensor


@dataclass(frozen=True, slots=True)
class Logits:
    """How logits come from the product y = h W of hidden state and head: cap(scale y) / temperature.

    `cap(x) = softcap tanh(x / softcap)`, or x where `softcap` is 0.
    """

    scale: float = 1.0
    softcap: float = 0.0
    temperature: float = 1.0

    @property
    def before_cap(self) -> float:
        """Factor of the product: of the argument of tanh, if there is a cap, else of the logit."""
        return self.scale / (self.softcap or self.temperature)

    @property
    def after_cap(self) -> float:
        """Factor of the tanh."""
        return self.softcap / self.temperature


@dataclass(frozen=True, slots=True)
class MomentState:
    """The part of words `first_word` to `end_word` - 1, as one rank computes it and sends it.

    Attributes:
        sums_5M: float64; maximum, the three sums, and the target's logit (minus infinity if it is in another part).
        first_word: number of the part's first word in the whole vocabulary.
        end_word: number after its last one.
    """

    sums_5M: Tensor  # noqa: N815  # a shape suffix
    first_word: int
    end_word: int


def merge(states: Sequence[MomentState]) -> MomentState:
    """The state of adjoining parts, given in the order of their words.

    Raises:
        ValueError: no state, states of different rows, or words that overlap or are missing between two.
    """
    if not states:
        raise ValueError("states must hold at least one state")
    for number, (left, right) in enumerate(pairwise(states), 1):
        if right.first_word != left.end_word:
            fault = "overlap" if right.first_word < left.end_word else "are missing"
            raise ValueError(
                f"states[{number}] begins at word {right.first_word}, expected {left.end_word}: words {fault}"
            )
        if right.sums_5M.shape != left.sums_5M.shape:
            raise ValueError(
                f"states[{number}] must be {list(left.sums_5M.shape)} like the first, got {list(right.sums_5M.shape)}"
            )
    parts_5MN = torch.stack([state.sums_5M for state in states], 2)
    sums_5M = torch.cat([merge_sums(parts_5MN[:4]), parts_5MN[4].amax(1)[None]])
    return MomentState(sums_5M, states[0].first_word, states[-1].end_word)


def finish(state: MomentState, targets_M: Tensor) -> LogprobMoments:
    """Moments of log p, from the state of the whole vocabulary.

    Raises:
        ValueError: the state isn't that of a vocabulary from its first word on, or targets are of another shape.
    """
    if state.first_word or not state.end_word:
        raise ValueError(
            f"state must be of words 0 to the last one, got words {state.first_word} to {state.end_word - 1}"
        )
    if targets_M.shape != state.sums_5M.shape[1:]:
        raise ValueError(f"targets must be [{state.sums_5M.shape[1]}], got {list(targets_M.shape)}")
    max_M, l_M, s1_M, s2_M, target_M = state.sums_5M
    log_l_M, shifted_M = l_M.log(), s1_M / l_M
    ignored_M = targets_M == IGNORED_TARGET
    return LogprobMoments(
        log_prob=(target_M - max_M - log_l_M).masked_fill(ignored_M, 0.0).float(),
        logsumexp=(max_M + log_l_M).float(),
        mean=(shifted_M - log_l_M).masked_fill(ignored_M, 0.0).float(),
        variance=(s2_M / l_M - shifted_M.square()).clamp_(min=0.0).masked_fill(ignored_M, 0.0).float(),
    )


def merge_sums(parts_SMN: Tensor) -> Tensor:
    """[4, M] out of [4, M, N], both float64."""
    max_MN, l_MN, s1_MN, s2_MN = parts_SMN
    max_M = max_MN.amax(1)
    # Where every logit is minus infinity, so is every maximum, and d is minus infinity too, never NaN.
    d_MN = (max_MN - max_M.clamp(min=torch.finfo(torch.float64).min)[:, None]).clamp_(min=_EXPONENT_FLOOR)
    a_MN = d_MN.exp()
    s2_MN = a_MN * (s2_MN + 2 * d_MN * s1_MN + d_MN.square() * l_MN)
    s1_MN = a_MN * (s1_MN + d_MN * l_MN)
    return torch.stack([max_M, (a_MN * l_MN).sum(1), s1_MN.sum(1), s2_MN.sum(1)])


def no_words(rows: int) -> Tensor:
    """[5, M] of a part without words, which changes nothing that it is merged with."""
    sums_5M = torch.zeros((5, rows), dtype=torch.float64)
    sums_5M[0] = sums_5M[4] = -torch.inf
    return sums_5M
