"""CPU path of `logprob_moments`: tiles of logits that stay in a core's cache, and a merge in float64.

For a block of rows and a tile of words the logits are one matrix product. The tile's own maximum m shifts them, and its
sums of 1, c and c^2 under weights exp(c), c = z - m, go to the tile's place in a table. Tiles know nothing of each
other, and the merge takes a row's tiles in float64, in their order: the split-V reduction of the Triton kernel.

A row's result is the same bytes whatever rows it is computed with, at any number of threads. Two things see to that:
blocks are padded to a multiple of 16 rows, and products over more than 768 columns are added up from panels, because
the matrix library takes other orders of summation for fewer rows and splits longer sums by the shape of the whole.

Cost per logit: 2 H operations of the product, and 10 passes over a tile in the second-level cache.

Shape suffixes: M rows, B rows of a block, H hidden width, T words of a tile, S sums of a tile, N tiles, R some
rows.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import torch
from torch import Tensor

from kernels.cpu_exact_products import LeftFactor
from kernels.cpu_lanes import in_lanes
from kernels.moment_state import Logits, merge_sums, no_words

BLOCK_ROWS: Final = 1024
TILE_WORDS: Final = 512
_CHUNK_ROWS: Final = 256
"""Rows of a product that are reduced at once, so that the passes find them in the cache; products want more rows."""
_ROW_MULTIPLE: Final = 16
_WORD_MULTIPLE: Final = 16
_PANEL_COLUMNS: Final = 768
_EXPONENT_FLOOR: Final = -87.0
"""exp of it is the least power that isn't a denormal number, on which arithmetic is a hundred times slower."""
_LOWEST: Final = -3e38


def sums_on_cpu(hidden_MH: Tensor, shards: tuple[Tensor, ...], targets_M: Tensor, logits: Logits) -> Tensor:
    """float64 [5, M], as in `MomentState.sums_5M`; `targets_M` count from the first word of the first shard."""
    rows = hidden_MH.shape[0]
    if not rows or not sum(len(shard_KH) for shard_KH in shards):
        return no_words(rows)
    sums_5M = hidden_MH.new_empty((5, rows), dtype=torch.float64)
    lanes = max(1, torch.get_num_threads())
    even = -(-rows // lanes)
    size = min(BLOCK_ROWS, even + -even % _ROW_MULTIPLE)

    def fill(start: int) -> None:
        part = slice(start, min(start + size, rows))
        sums_5M[:, part] = _block(hidden_MH[part], shards, targets_M[part], logits)

    in_lanes(fill, range(0, rows, size))
    return sums_5M


def _block(hidden_MH: Tensor, shards: tuple[Tensor, ...], targets_M: Tensor, logits: Logits) -> Tensor:
    block = RowBlock(hidden_MH, targets_M, sum(tile_count(len(shard_KH)) for shard_KH in shards), logits)
    buffers = Buffers(block)
    for shard_KH in shards:
        block.add(shard_KH, buffers)
    return block.sums()


def tile_count(words: int) -> int:
    """Tiles of a shard of so many words; tiles begin anew with each shard."""
    return -(-words // TILE_WORDS)


class RowBlock:
    """Rows that meet the shards of the head one after the other, in the order of the words.

    Args:
        hidden_MH: at most `BLOCK_ROWS` rows; they are copied.
        targets_M: int64, from the first word of the first shard.
        tiles: tiles of all shards together.
        logits: how logits come from products.
    """

    def __init__(self, hidden_MH: Tensor, targets_M: Tensor, tiles: int, logits: Logits) -> None:
        self._rows, self.width = hidden_MH.shape
        self.size = self._rows + -self._rows % _ROW_MULTIPLE
        self._logits = logits
        hidden_BH = hidden_MH.new_zeros((self.size, self.width), dtype=torch.float32)
        hidden_BH[: self._rows] = hidden_MH
        if logits.before_cap != 1.0:
            hidden_BH *= logits.before_cap
        self._factor = LeftFactor(hidden_BH, _PANEL_COLUMNS)
        self._table_SNB = hidden_BH.new_empty((4, tiles, self.size))
        self._target_B = hidden_BH.new_full((self.size,), -torch.inf)
        self._targets_M = targets_M
        self._order_M = targets_M.argsort(stable=True)
        self._tiles_done = self._words_done = 0

    def add(self, shard_KH: Tensor, buffers: Buffers) -> None:
        """Take the next shard; `buffers` are of blocks of this size."""
        words, first = len(shard_KH), self._words_done
        edges = torch.tensor([*range(first, first + words, TILE_WORDS), first + words])
        places = torch.searchsorted(self._targets_M[self._order_M], edges).tolist()
        for number, start in enumerate(range(0, words, TILE_WORDS)):
            stored_TH = shard_KH[start : start + TILE_WORDS]
            z_BT, chunks = buffers.of(max(len(stored_TH), _WORD_MULTIPLE))
            self._factor.times(stored_TH, partial(_in_fp32, stored_TH, buffers.head_tile), z_BT)
            if self._logits.softcap:
                z_BT.tanh_().mul_(self._logits.after_cap)
            if len(stored_TH) < _WORD_MULTIPLE:
                z_BT[:, len(stored_TH) :] = -torch.inf
            begin, end = places[number], places[number + 1]
            if begin < end:
                row_R = self._order_M[begin:end]
                self._target_B[row_R] = z_BT[row_R, self._targets_M[row_R] - (first + start)]
            for arguments in chunks:
                _reduce(*arguments)
            self._table_SNB[:, self._tiles_done] = buffers.sums_SB
            self._tiles_done += 1
        self._words_done += words

    def sums(self) -> Tensor:
        """float64 [5, M], as in `MomentState.sums_5M`, once all shards were added."""
        assert self._tiles_done == self._table_SNB.shape[1]
        sums_5B = self._target_B.new_empty((5, self.size), dtype=torch.float64)
        for start in range(0, self.size, _CHUNK_ROWS):
            chunk = slice(start, start + _CHUNK_ROWS)
            sums_5B[:4, chunk] = merge_sums(self._table_SNB[..., chunk].mT.double())
        sums_5B[4] = self._target_B
        return sums_5B[:, : self._rows]


class Buffers:
    """Memory for a block's tiles, cut into views once: making a view takes as long as a pass over a small tile."""

    def __init__(self, block: RowBlock) -> None:
        self.sums_SB = torch.empty((4, block.size))
        self.head_tile = torch.empty(TILE_WORDS * block.width)
        self._logits = torch.empty(block.size * TILE_WORDS)
        self._weights = torch.empty(_CHUNK_ROWS * TILE_WORDS)
        self._views: dict[int, tuple[Tensor, list[tuple[Tensor, ...]]]] = {}

    def of(self, words: int) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """The logits of a tile, and for each chunk of its rows the arguments of `_reduce`."""
        if words not in self._views:
            z_BT = self._logits[: self.sums_SB.shape[1] * words].view(-1, words)
            chunks = zip(torch.split(z_BT, _CHUNK_ROWS), torch.split(self.sums_SB, _CHUNK_ROWS, 1), strict=True)
            self._views[words] = (
                z_BT,
                [(c_BT, self._weights[: c_BT.numel()].view_as(c_BT), *out_SB) for c_BT, out_SB in chunks],
            )
        return self._views[words]


def _reduce(c_BT: Tensor, p_BT: Tensor, max_B: Tensor, l_B: Tensor, s1_B: Tensor, s2_B: Tensor) -> None:
    """Maximum and sums of a tile's rows; the logits are overwritten."""
    torch.amax(c_BT, 1, out=max_B)
    c_BT.sub_(max_B.clamp(min=_LOWEST)[:, None]).clamp_(min=_EXPONENT_FLOOR)
    torch.exp(c_BT, out=p_BT)
    torch.sum(p_BT, 1, out=l_B)
    torch.sum(p_BT.mul_(c_BT), 1, out=s1_B)
    torch.sum(p_BT.mul_(c_BT), 1, out=s2_B)


def _in_fp32(tile_TH: Tensor, buffer: Tensor) -> Tensor:
    """The tile itself, or in the buffer: converted, and with zeros up to the number of words of the least product."""
    words, width = tile_TH.shape
    if words >= _WORD_MULTIPLE and tile_TH.dtype == torch.float32:
        return tile_TH
    copy_TH = buffer[: max(words, _WORD_MULTIPLE) * width].view(-1, width)
    copy_TH[:words] = tile_TH
    copy_TH[words:] = 0.0
    return copy_TH
