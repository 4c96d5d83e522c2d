"""Log-probability, log-sum-exp, and the mean and variance of log p, in one pass over the vocabulary.

For hidden states h and an output head W, with logits z = W h and p = softmax(z), each row yields

    log_prob = log p(target)    logsumexp = log sum_v exp z_v    mean = E_p[log p]    variance = Var_p[log p]

which is what Fast-DetectGPT's statistic needs (arXiv 2310.05130, equation 3). Logits exist one tile at a time: each
tile updates a running maximum m and three max-shifted sums l, s1, s2 of 1, c and c^2 under weights exp(c), c = z - m.
Shifting keeps c^2 small where the weight is large; E[x^2] - E[x]^2 on log-probs loses all digits of the variance near a
uniform distribution (relative error 580 at V = 262,144), the shifted form 2.4e-5.

Tiles are visited in one fixed order and rows are padded to a multiple of 16, so that on the CPU a row's result is the
same bytes whatever the thread count and whichever rows it is computed with.

Shape suffixes: M rows, H hidden width, V vocabulary, K words of one shard, B rows of a block, T words of a tile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

IGNORED_TARGET: Final = -100
"""A target with this value is ignored: its row's log_prob, mean and variance are 0."""

_BLOCK_ROWS: Final = 512
_TILE_WORDS: Final = 512
_ROW_MULTIPLE: Final = 16
_EXPONENT_FLOOR: Final = -200.0
"""exp of anything below this is exactly 0 in fp32, so clamping here changes no sum and keeps 0 * -inf out of it."""
_FLOAT_TYPES: Final = (torch.float32, torch.bfloat16, torch.float16)


class LogprobMoments(NamedTuple):
    """Per row, fp32 [M], in nats."""

    log_prob: Tensor
    logsumexp: Tensor
    mean: Tensor
    variance: Tensor


def logprob_moments(hidden_MH: Tensor, head: Tensor | Sequence[Tensor], targets_M: Tensor) -> LogprobMoments:
    """Moments of log p under `softmax(hidden @ head.T)`, without gradients.

    Args:
        hidden_MH: hidden states, fp32, bf16 or fp16.
        head: output head [V, H], or its vocabulary shards [V_k, H] in order; shards are never concatenated.
        targets_M: int64 word numbers below V, or `IGNORED_TARGET`.

    Returns:
        Four fp32 vectors [M]. Products and sums are taken in fp32 whatever the inputs' type. A row whose logits are all
        minus infinity has no distribution and yields NaN.

    Raises:
        ValueError: a shape, dtype, device or target is wrong; the message names the argument.
    """
    shards = (head,) if isinstance(head, Tensor) else tuple(head)
    _check(hidden_MH, shards, targets_M)
    with torch.no_grad():
        if hidden_MH.device.type == "cuda":
            from kernels.triton_logprob_moments import logprob_moments_triton  # noqa: PLC0415  # CPU needs none

            return LogprobMoments(*logprob_moments_triton(hidden_MH, shards, targets_M))
        return _on_cpu(hidden_MH, shards, targets_M)


def _check(hidden_MH: Tensor, shards: tuple[Tensor, ...], targets_M: Tensor) -> None:
    if hidden_MH.dim() != 2 or hidden_MH.dtype not in _FLOAT_TYPES:
        raise ValueError(f"hidden must be [M, H] of fp32, bf16 or fp16, got {_form(hidden_MH)}")
    rows, width = hidden_MH.shape
    if not shards:
        raise ValueError("head must hold at least one shard")
    for number, shard_KH in enumerate(shards):
        if shard_KH.dim() != 2 or shard_KH.shape[1] != width or shard_KH.dtype not in _FLOAT_TYPES:
            raise ValueError(f"head shard {number} must be [V_k, {width}] of a float type, got {_form(shard_KH)}")
        if shard_KH.device != hidden_MH.device:
            raise ValueError(f"head shard {number} is on {shard_KH.device}, hidden on {hidden_MH.device}")
    if targets_M.shape != (rows,) or targets_M.dtype != torch.int64:
        raise ValueError(f"targets must be int64 [{rows}], got {_form(targets_M)}")
    if targets_M.device != hidden_MH.device:
        raise ValueError(f"targets are on {targets_M.device}, hidden on {hidden_MH.device}")
    words = sum(shard_KH.shape[0] for shard_KH in shards)
    if words == 0:
        raise ValueError("head must hold at least one word")
    wrong_M = ((targets_M < 0) | (targets_M >= words)) & (targets_M != IGNORED_TARGET)
    if bool(wrong_M.any()):
        row = int(wrong_M.nonzero()[0])
        raise ValueError(f"targets[{row}] is {int(targets_M[row])}, expected 0 to {words - 1} or {IGNORED_TARGET}")


def _form(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


def _on_cpu(hidden_MH: Tensor, shards: tuple[Tensor, ...], targets_M: Tensor) -> LogprobMoments:
    rows = hidden_MH.shape[0]
    out = LogprobMoments(*(hidden_MH.new_empty(rows, dtype=torch.float32) for _ in range(4)))
    for start in range(0, rows, _BLOCK_ROWS):
        end = min(start + _BLOCK_ROWS, rows)
        block = _block(hidden_MH[start:end].float(), shards, targets_M[start:end])
        for whole, part in zip(out, block, strict=True):
            whole[start:end] = part
    return out


def _block(hidden_BH: Tensor, shards: tuple[Tensor, ...], targets_B: Tensor) -> LogprobMoments:
    rows = hidden_BH.shape[0]
    padding = -rows % _ROW_MULTIPLE  # a product of fewer rows takes another path through the library, with other bits
    if padding:
        hidden_BH = torch.nn.functional.pad(hidden_BH, (0, 0, 0, padding))
        targets_B = torch.nn.functional.pad(targets_B, (0, padding), value=IGNORED_TARGET)
    hidden_BH = hidden_BH.contiguous()
    size = hidden_BH.shape[0]
    max_B = hidden_BH.new_full((size,), -torch.inf)
    l_B, s1_B, s2_B, target_B = (hidden_BH.new_zeros(size) for _ in range(4))
    logits, weights = (hidden_BH.new_empty(size * _TILE_WORDS) for _ in range(2))
    for first_word, tile_TH in _tiles(shards):
        words = tile_TH.shape[0]
        c_BT, p_BT = (buffer[: size * words].view(size, words) for buffer in (logits, weights))
        torch.mm(hidden_BH, tile_TH.T, out=c_BT)
        inside_B = (targets_B >= first_word) & (targets_B < first_word + words)
        column_B = torch.where(inside_B, targets_B - first_word, 0)
        target_B = torch.where(inside_B, c_BT.gather(1, column_B[:, None])[:, 0], target_B)
        new_max_B = torch.maximum(max_B, c_BT.amax(1))
        shift_B = torch.where(new_max_B == -torch.inf, 0.0, new_max_B)
        c_BT.sub_(shift_B[:, None]).clamp_(min=_EXPONENT_FLOOR)
        torch.exp(c_BT, out=p_BT)
        d_B = (max_B - shift_B).clamp_(min=_EXPONENT_FLOOR)
        a_B = d_B.exp()
        s2_B = a_B * (s2_B + 2 * d_B * s1_B + d_B.square() * l_B)
        s1_B = a_B * (s1_B + d_B * l_B)
        l_B = a_B * l_B + p_BT.sum(1)
        s1_B += p_BT.mul_(c_BT).sum(1)
        s2_B += p_BT.mul_(c_BT).sum(1)
        max_B = new_max_B
    return _finish(max_B[:rows], l_B[:rows], s1_B[:rows], s2_B[:rows], target_B[:rows], targets_B[:rows])


def _tiles(shards: tuple[Tensor, ...]) -> Iterator[tuple[int, Tensor]]:
    first_word = 0
    for shard_KH in shards:
        for start in range(0, shard_KH.shape[0], _TILE_WORDS):
            tile_TH = shard_KH[start : start + _TILE_WORDS].float()
            yield first_word + start, tile_TH
        first_word += shard_KH.shape[0]


def _finish(
    max_B: Tensor, l_B: Tensor, s1_B: Tensor, s2_B: Tensor, target_B: Tensor, targets_B: Tensor
) -> LogprobMoments:
    log_l_B, mean_shifted_B = l_B.log(), s1_B / l_B
    ignored_B = targets_B == IGNORED_TARGET
    return LogprobMoments(
        log_prob=(target_B - max_B - log_l_B).masked_fill(ignored_B, 0.0),
        logsumexp=max_B + log_l_B,
        mean=(mean_shifted_B - log_l_B).masked_fill(ignored_B, 0.0),
        variance=(s2_B / l_B - mean_shifted_B.square()).clamp_(min=0.0).masked_fill(ignored_B, 0.0),
    )
