"""Log-probability, log-sum-exp, and the mean and variance of log p, in one pass over the vocabulary.

For hidden states h and an output head W, with logits z = W h and p = softmax(z), each row yields

    log_prob = log p(target)    logsumexp = log sum_v exp z_v    mean = E_p[log p]    variance = Var_p[log p]

which is what Fast-DetectGPT's statistic needs (arXiv 2310.05130, equation 3). Logits exist one tile at a time. Ranks
that hold parts of the vocabulary call `moment_state` each, exchange the states, and `merge` and `finish` them.

The work is done by two custom operators, `deepshard::logprob_moments` and `deepshard::moment_state`, so
`torch.compile` and `torch.export` take a call as one node: on a GPU by Triton kernels, elsewhere by the tiled CPU path.

Shape suffixes: M rows, H hidden width, V vocabulary, K words of one shard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from kernels.cpu_logprob_moments import BLOCK_ROWS, TILE_WORDS, Buffers, RowBlock, sums_on_cpu, tile_count
from kernels.moment_state import IGNORED_TARGET, Logits, LogprobMoments, MomentState, finish, merge

__all__ = [
    "IGNORED_TARGET",
    "LogprobMoments",
    "MomentState",
    "StreamedMoments",
    "finish",
    "logprob_moments",
    "merge",
    "moment_state",
]

_FLOAT_TYPES: Final = (torch.float32, torch.bfloat16, torch.float16)


def logprob_moments(
    hidden_MH: Tensor,
    head: Tensor | Sequence[Tensor],
    targets_M: Tensor,
    *,
    scale: float = 1.0,
    softcap: float = 0.0,
    temperature: float = 1.0,
) -> LogprobMoments:
    """Moments of log p under `softmax(cap(scale hidden @ head.T) / temperature)`, without gradients.

    Args:
        hidden_MH: hidden states, fp32, bf16 or fp16.
        head: output head [V, H], or its vocabulary shards [V_k, H] in order; shards are never concatenated.
        targets_M: int64 word numbers below V, or `IGNORED_TARGET`.
        scale: factor of the logits.
        softcap: the cap, `softcap tanh(x / softcap)`; 0 for none.
        temperature: divides the logits after the cap.

    Returns:
        Four fp32 vectors [M]. Products are taken in fp32 whatever the inputs' type. A row yields NaN where its hidden
        state or a logit isn't finite or is NaN, save logits of minus infinity, which are words of probability 0 (if all
        are, there is no distribution, and the row is NaN). Other rows are not touched by it.

    Raises:
        ValueError: a shape, dtype, device, target or number is wrong; the message names the argument.
    """
    shards = (head,) if isinstance(head, Tensor) else tuple(head)
    _check(hidden_MH, shards, targets_M)
    if not sum(shard_KH.shape[0] for shard_KH in shards):
        raise ValueError("head must hold at least one word")
    _check_numbers(scale, softcap, temperature)
    return LogprobMoments(*_logprob_moments(hidden_MH, shards, targets_M, scale, softcap, temperature))


def moment_state(
    hidden_MH: Tensor,
    head: Tensor | Sequence[Tensor],
    targets_M: Tensor,
    *,
    first_word: int = 0,
    scale: float = 1.0,
    softcap: float = 0.0,
    temperature: float = 1.0,
) -> MomentState:
    """What one rank says, whose head begins at word `first_word` of the vocabulary; arguments as above.

    Targets are numbers in the whole vocabulary; a target among another rank's words is no error here. A rank without
    words (shards of none) has a state as well, which changes nothing.

    Raises:
        ValueError: as above.
    """
    shards = (head,) if isinstance(head, Tensor) else tuple(head)
    _check(hidden_MH, shards, targets_M)
    _check_numbers(scale, softcap, temperature)
    if first_word < 0:
        raise ValueError(f"first_word must be 0 or more, got {first_word}")
    sums_5M = _moment_state(hidden_MH, shards, targets_M - first_word, scale, softcap, temperature)
    return MomentState(sums_5M, first_word, first_word + sum(shard_KH.shape[0] for shard_KH in shards))


class StreamedMoments:
    """`logprob_moments` of rows on the CPU whose head comes in pieces, each of which may be gone before the next.

    The numbers are the bytes that `logprob_moments` gives for the whole head: tiles are of the same words, and what
    each of them says, 16 bytes a row, is kept until all have spoken.

    Args:
        hidden_MH: as in `logprob_moments`; copied as fp32.
        targets_M: likewise.
        words: V.
        scale: as in `logprob_moments`.
        softcap: likewise.
        temperature: likewise.

    Raises:
        ValueError: as in `logprob_moments`, or the rows aren't on the CPU.
    """

    def __init__(
        self,
        hidden_MH: Tensor,
        targets_M: Tensor,
        words: int,
        *,
        scale: float = 1.0,
        softcap: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        _check(hidden_MH, (hidden_MH[:0],), targets_M)
        _check_numbers(scale, softcap, temperature)
        if hidden_MH.device.type != "cpu":
            raise ValueError(f"hidden must be on the CPU, is on {hidden_MH.device}")
        if words < 1:
            raise ValueError(f"words must be 1 or more, got {words}")
        _check_targets(targets_M, words)
        self._width, self._words, self._words_done = hidden_MH.shape[1], words, 0
        self._targets_M = targets_M
        logits = Logits(scale, softcap, temperature)
        parts = [slice(start, start + BLOCK_ROWS) for start in range(0, len(targets_M), BLOCK_ROWS)]
        with torch.no_grad():
            self._blocks = [RowBlock(hidden_MH[part], targets_M[part], tile_count(words), logits) for part in parts]

    @property
    def rows(self) -> int:
        """M."""
        return len(self._targets_M)

    def add(self, piece_KH: Tensor) -> None:
        """Take the next words' rows of the head: a multiple of 512 of them, but for the last piece.

        Raises:
            ValueError: the piece's form is wrong, it is beyond the last word, or it ends within a tile.
        """
        words = len(piece_KH) if piece_KH.dim() else 0
        if piece_KH.dim() != 2 or piece_KH.shape[1] != self._width or piece_KH.dtype not in _FLOAT_TYPES:
            raise ValueError(f"piece must be [K, {self._width}] of a float type, got {_form(piece_KH)}")
        done = self._words_done + words
        if done > self._words:
            raise ValueError(f"piece ends at word {done}, the head has {self._words}")
        if words % TILE_WORDS and done < self._words:
            raise ValueError(f"piece must hold a multiple of {TILE_WORDS} words or the last ones, got {words}")
        self._words_done = done
        with torch.no_grad():
            for block in self._blocks:
                block.add(piece_KH, Buffers(block))

    def finish(self) -> LogprobMoments:
        """The moments, once the whole head has come.

        Raises:
            ValueError: words are missing.
        """
        if self._words_done < self._words:
            raise ValueError(f"the head has {self._words} words, only {self._words_done} were added")
        with torch.no_grad():
            sums = [block.sums() for block in self._blocks]
            sums_5M = torch.cat(sums, 1) if sums else torch.empty((5, 0), dtype=torch.float64)
            return finish(MomentState(sums_5M, 0, self._words), self._targets_M)


@torch.library.custom_op("deepshard::moment_state", mutates_args=())
def _moment_state(
    hidden_MH: Tensor, shards: Sequence[Tensor], targets_M: Tensor, scale: float, softcap: float, temperature: float
) -> Tensor:
    return _sums(hidden_MH, shards, targets_M, Logits(scale, softcap, temperature))


@_moment_state.register_fake
def _(hidden_MH: Tensor, *_: object) -> Tensor:
    return hidden_MH.new_empty((5, hidden_MH.shape[0]), dtype=torch.float64)


@torch.library.custom_op("deepshard::logprob_moments", mutates_args=())
def _logprob_moments(
    hidden_MH: Tensor, shards: Sequence[Tensor], targets_M: Tensor, scale: float, softcap: float, temperature: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    words = sum(shard_KH.shape[0] for shard_KH in shards)
    _check_targets(targets_M, words)
    sums_5M = _sums(hidden_MH, shards, targets_M, Logits(scale, softcap, temperature))
    one, two, three, four = finish(MomentState(sums_5M, 0, words), targets_M)
    return one, two, three, four


def _sums(hidden_MH: Tensor, shards: Sequence[Tensor], targets_M: Tensor, logits: Logits) -> Tensor:
    with torch.no_grad():
        if hidden_MH.device.type == "cuda":
            from kernels.triton_logprob_moments import sums_by_triton  # noqa: PLC0415  # CPU needs none

            return sums_by_triton(hidden_MH, tuple(shards), targets_M, logits).double()
        return sums_on_cpu(hidden_MH, tuple(shards), targets_M, logits)


@_logprob_moments.register_fake
def _(hidden_MH: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    one, two, three, four = (hidden_MH.new_empty(hidden_MH.shape[0], dtype=torch.float32) for _ in range(4))
    return one, two, three, four


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


def _check_numbers(scale: float, softcap: float, temperature: float) -> None:
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
    if not (math.isfinite(softcap) and softcap >= 0):
        raise ValueError(f"softcap must be finite and 0 (for none) or more, got {softcap}")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be finite and above 0, got {temperature}")


def _check_targets(targets_M: Tensor, words: int) -> None:
    wrong_M = ((targets_M < 0) | (targets_M >= words)) & (targets_M != IGNORED_TARGET)
    if bool(wrong_M.any()):
        row = int(wrong_M.nonzero()[0])
        raise ValueError(f"targets[{row}] is {int(targets_M[row])}, expected 0 to {words - 1} or {IGNORED_TARGET}")


def _form(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"
