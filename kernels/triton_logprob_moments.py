"""Triton form of `logprob_moments`: a partial pass over slices of the vocabulary, then a merge in a fixed order.

Each program of the first kernel owns a block of rows and a slice of one shard's words, runs the online update over its
tiles in order, and writes its max, sums and target's logit to its own place. The second kernel merges a row's slices
one after another; `moment_state.finish` turns what is left, five numbers a row, into moments in float64.
No atomics and no tuning at run time: the order of every sum is fixed by the shapes, so results are the same bits from
run to run on one device.

Under `TRITON_INTERPRET=1` the same code runs on CPU tensors. The interpreter's bf16 arithmetic works on bit patterns
and is silently wrong, so INTERPRET upcasts tiles to fp32 as they are loaded.

Shape suffixes: B rows of a block, T words of a tile, C columns of the hidden width.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.moment_state import Logits, no_words

_SLICE_WORDS: Final = 8192
_MERGE_B: Final = 128


class Tile(NamedTuple):
    """Rows, words and columns of one product, and how many of its steps are loaded ahead."""

    rows: int
    words: int
    columns: int
    stages: int


def tile_of(*dtypes: torch.dtype) -> Tile:
    """The tile for these types; products in fp32 take smaller ones, since they run on the general registers."""
    return Tile(32, 64, 32, 2) if torch.float32 in dtypes or len(set(dtypes)) > 1 else Tile(64, 128, 64, 3)


@triton.jit  # type: ignore[untyped-decorator]
def _partial_kernel(
    hidden_ptr: tl.tensor,
    head_ptr: tl.tensor,
    targets_ptr: tl.tensor,
    partial_ptr: tl.tensor,
    first_word: tl.tensor,
    first_slice: tl.tensor,
    rows: tl.tensor,
    words: tl.tensor,
    width: tl.tensor,
    hidden_stride: tl.tensor,
    head_stride: tl.tensor,
    before_cap: tl.tensor,
    after_cap: tl.tensor,
    HAS_CAP: tl.constexpr,
    SLICE_WORDS: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    INTERPRET: tl.constexpr,
) -> None:
    row_B = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    slice_id = tl.program_id(1).to(tl.int64)
    is_row_B = row_B < rows
    target_B = tl.load(targets_ptr + row_B, mask=is_row_B, other=-100) - first_word
    max_B = tl.full([BLOCK_B], float("-inf"), tl.float32)
    l_B = tl.zeros([BLOCK_B], tl.float32)
    s1_B = tl.zeros([BLOCK_B], tl.float32)
    s2_B = tl.zeros([BLOCK_B], tl.float32)
    z_target_B = tl.full([BLOCK_B], float("-inf"), tl.float32)
    slice_end = tl.minimum((slice_id + 1) * SLICE_WORDS, words)
    for tile in range(0, SLICE_WORDS, BLOCK_T):
        # 64-bit offsets: 262,144 words of 10,240 columns pass 2^31.
        word_T = slice_id * SLICE_WORDS + tile + tl.arange(0, BLOCK_T).to(tl.int64)
        is_word_T = word_T < slice_end
        z_BT = tl.zeros([BLOCK_B, BLOCK_T], tl.float32)
        for start in range(0, width, BLOCK_C):
            column_C = start + tl.arange(0, BLOCK_C)
            is_column_C = column_C < width
            hidden_BC = tl.load(
                hidden_ptr + row_B[:, None] * hidden_stride + column_C[None, :],
                mask=is_row_B[:, None] & is_column_C[None, :],
                other=0.0,
            )
            head_TC = tl.load(
                head_ptr + word_T[:, None] * head_stride + column_C[None, :],
                mask=is_word_T[:, None] & is_column_C[None, :],
                other=0.0,
            )
            if INTERPRET or hidden_BC.dtype != head_TC.dtype:
                hidden_BC = hidden_BC.to(tl.float32)
                head_TC = head_TC.to(tl.float32)
            # ieee: fp32 products default to tf32, which keeps ten bits.
            z_BT = tl.dot(hidden_BC, tl.trans(head_TC), z_BT, input_precision="ieee")
        z_BT *= before_cap
        if HAS_CAP:
            # tanh x = 1 - 2 / (e^2x + 1), which is right at both ends: e^2x is infinite at one and 0 at the other.
            z_BT = after_cap * (1.0 - 2.0 / (tl.exp(2.0 * z_BT) + 1.0))
        z_BT = tl.where(is_word_T[None, :], z_BT, float("-inf"))
        is_target_BT = (word_T[None, :] == target_B[:, None]) & is_word_T[None, :]
        z_target_B = tl.maximum(z_target_B, tl.max(tl.where(is_target_BT, z_BT, float("-inf")), 1))
        new_max_B = tl.maximum(max_B, tl.max(z_BT, 1))
        shift_B = tl.where(new_max_B == float("-inf"), 0.0, new_max_B)
        c_BT = tl.maximum(z_BT - shift_B[:, None], -200.0)
        p_BT = tl.exp(c_BT)
        d_B = tl.maximum(max_B - shift_B, -200.0)
        a_B = tl.exp(d_B)
        s2_B = a_B * (s2_B + 2.0 * d_B * s1_B + d_B * d_B * l_B) + tl.sum(p_BT * c_BT * c_BT, 1)
        s1_B = a_B * (s1_B + d_B * l_B) + tl.sum(p_BT * c_BT, 1)
        l_B = a_B * l_B + tl.sum(p_BT, 1)
        max_B = new_max_B
    place_B = partial_ptr + (first_slice + slice_id) * 5 * rows + row_B
    tl.store(place_B, max_B, mask=is_row_B)
    tl.store(place_B + rows, l_B, mask=is_row_B)
    tl.store(place_B + 2 * rows, s1_B, mask=is_row_B)
    tl.store(place_B + 3 * rows, s2_B, mask=is_row_B)
    tl.store(place_B + 4 * rows, z_target_B, mask=is_row_B)


@triton.jit  # type: ignore[untyped-decorator]
def _merge_kernel(
    partial_ptr: tl.tensor, out_ptr: tl.tensor, rows: tl.tensor, slices: tl.tensor, BLOCK_B: tl.constexpr
) -> None:
    row_B = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    is_row_B = row_B < rows
    max_B = tl.full([BLOCK_B], float("-inf"), tl.float32)
    l_B = tl.zeros([BLOCK_B], tl.float32)
    s1_B = tl.zeros([BLOCK_B], tl.float32)
    s2_B = tl.zeros([BLOCK_B], tl.float32)
    z_target_B = tl.full([BLOCK_B], float("-inf"), tl.float32)
    place_B = partial_ptr + row_B
    for _ in range(slices):
        part_max_B = tl.load(place_B, mask=is_row_B, other=0.0)
        part_l_B = tl.load(place_B + rows, mask=is_row_B, other=0.0)
        part_s1_B = tl.load(place_B + 2 * rows, mask=is_row_B, other=0.0)
        part_s2_B = tl.load(place_B + 3 * rows, mask=is_row_B, other=0.0)
        z_target_B = tl.maximum(z_target_B, tl.load(place_B + 4 * rows, mask=is_row_B, other=0.0))
        new_max_B = tl.maximum(max_B, part_max_B)
        shift_B = tl.where(new_max_B == float("-inf"), 0.0, new_max_B)
        d_B = tl.maximum(max_B - shift_B, -200.0)
        e_B = tl.maximum(part_max_B - shift_B, -200.0)
        a_B = tl.exp(d_B)
        b_B = tl.exp(e_B)
        s2_B = a_B * (s2_B + 2.0 * d_B * s1_B + d_B * d_B * l_B)
        s2_B += b_B * (part_s2_B + 2.0 * e_B * part_s1_B + e_B * e_B * part_l_B)
        s1_B = a_B * (s1_B + d_B * l_B) + b_B * (part_s1_B + e_B * part_l_B)
        l_B = a_B * l_B + b_B * part_l_B
        max_B = new_max_B
        place_B += 5 * rows
    place_B = out_ptr + row_B
    tl.store(place_B, max_B, mask=is_row_B)
    tl.store(place_B + rows, l_B, mask=is_row_B)
    tl.store(place_B + 2 * rows, s1_B, mask=is_row_B)
    tl.store(place_B + 3 * rows, s2_B, mask=is_row_B)
    tl.store(place_B + 4 * rows, z_target_B, mask=is_row_B)


def sums_by_triton(hidden_MH: Tensor, shards: tuple[Tensor, ...], targets_M: Tensor, logits: Logits) -> Tensor:
    """Maximum, sums and target's logit as in `MomentState.sums_5M`, but fp32; `targets_M` count from the first word."""
    rows, width = hidden_MH.shape
    shards = tuple(_unit_stride(shard_KH) for shard_KH in shards if shard_KH.shape[0])
    out_5M = hidden_MH.new_empty((5, rows), dtype=torch.float32)
    if not rows or not shards:
        return no_words(rows).to(out_5M)
    hidden_MH, targets_M = _unit_stride(hidden_MH), targets_M.contiguous()
    counts = [triton.cdiv(shard_KH.shape[0], _SLICE_WORDS) for shard_KH in shards]
    partial = hidden_MH.new_empty((sum(counts), 5, rows), dtype=torch.float32)
    first_word = first_slice = 0
    for shard_KH, count in zip(shards, counts, strict=True):
        tile = tile_of(hidden_MH.dtype, shard_KH.dtype)
        _partial_kernel[(triton.cdiv(rows, tile.rows), count)](
            hidden_MH,
            shard_KH,
            targets_M,
            partial,
            first_word,
            first_slice,
            rows,
            shard_KH.shape[0],
            width,
            hidden_MH.stride(0),
            shard_KH.stride(0),
            logits.before_cap,
            logits.after_cap,
            HAS_CAP=logits.softcap > 0.0,
            SLICE_WORDS=_SLICE_WORDS,
            BLOCK_B=tile.rows,
            BLOCK_T=tile.words,
            BLOCK_C=tile.columns,
            num_stages=tile.stages,
            INTERPRET=os.environ.get("TRITON_INTERPRET") == "1",
            enable_fp_fusion=False,
        )
        first_word += shard_KH.shape[0]
        first_slice += count
    _merge_kernel[(triton.cdiv(rows, _MERGE_B),)](
        partial, out_5M, rows, sum(counts), BLOCK_B=_MERGE_B, enable_fp_fusion=False
    )
    return out_5M


def _unit_stride(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(1) == 1 else tensor.contiguous()
