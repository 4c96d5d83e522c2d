"""Triton kernels of `plane_codec`: every element is read once and written once.

Offsets have 64 bits. Planes begin at multiples of E elements, so 16-byte accesses need E to be a multiple of 16;
ALIGNED says that it is.

Shape suffixes: P planes, E elements.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK: Final = 4096
WARPS: Final = 8
HIP_WARPS: Final = 4
"""Sixteen elements to a lane either way, so that bytes are loaded sixteen at a time."""


@triton.jit(do_not_specialize=["elements"])  # type: ignore[untyped-decorator]
def split_kernel(
    words_ptr: tl.tensor,
    base_ptr: tl.tensor,
    planes_ptr: tl.tensor,
    elements: tl.tensor,
    ITEM_BYTES: tl.constexpr,
    HAS_BASE: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Planes = bytes of the words (XOR the base's), their nine highest bits rotated, in order."""
    elements = elements.to(tl.int64)
    if ALIGNED:
        elements = elements // 16 * 16
    place_E = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_inside_E = place_E < elements
    word_E = tl.load(words_ptr + place_E, mask=is_inside_E, other=0)
    if HAS_BASE:
        word_E = word_E ^ tl.load(base_ptr + place_E, mask=is_inside_E, other=0)
    word_E = word_E.to(tl.int32)
    if ITEM_BYTES > 1:
        low: tl.constexpr = 8 * ITEM_BYTES - 9
        # An arithmetic shift brings copies of the sign; the mask leaves one.
        sign_E = (word_E >> (8 * ITEM_BYTES - 1)) & 1
        word_E = ((word_E >> low) << (low + 1)) | (sign_E << low) | (word_E & ((1 << low) - 1))
    for k in tl.static_range(ITEM_BYTES):
        byte_E = ((word_E >> (8 * k)) & 255).to(tl.uint8)
        tl.store(planes_ptr + (ITEM_BYTES - 1 - k) * elements + place_E, byte_E, mask=is_inside_E)


@triton.jit(do_not_specialize=["elements"])  # type: ignore[untyped-decorator]
def join_kernel(
    planes_ptr: tl.tensor,
    base_ptr: tl.tensor,
    words_ptr: tl.tensor,
    elements: tl.tensor,
    ITEM_BYTES: tl.constexpr,
    HAS_BASE: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The inverse of `split_kernel`."""
    elements = elements.to(tl.int64)
    if ALIGNED:
        elements = elements // 16 * 16
    place_E = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_inside_E = place_E < elements
    word_E = tl.zeros([BLOCK], tl.int32)
    for k in tl.static_range(ITEM_BYTES):
        byte_E = tl.load(planes_ptr + (ITEM_BYTES - 1 - k) * elements + place_E, mask=is_inside_E, other=0)
        word_E = word_E | (byte_E.to(tl.int32) << (8 * k))
    if ITEM_BYTES > 1:
        low: tl.constexpr = 8 * ITEM_BYTES - 9
        sign_E = (word_E >> low) & 1
        exponent_E = (word_E >> (low + 1)) & 255
        word_E = (sign_E << (low + 8)) | (exponent_E << low) | (word_E & ((1 << low) - 1))
    found_E = word_E.to(words_ptr.dtype.element_ty)
    if HAS_BASE:
        found_E = found_E ^ tl.load(base_ptr + place_E, mask=is_inside_E, other=0)
    tl.store(words_ptr + place_E, found_E, mask=is_inside_E)


def split_triton(words_E: Tensor, base_E: Tensor | None, planes_PE: Tensor) -> None:
    """Fill the planes [P, E] from words that are int16, int32 or uint8 [E]."""
    _launch(split_kernel, words_E, base_E, planes_PE)


def join_triton(planes_PE: Tensor, base_E: Tensor | None, words_E: Tensor) -> None:
    """Fill the words [E] from the planes [P, E]."""
    _launch(join_kernel, planes_PE, base_E, words_E)


def _launch(kernel: triton.JITFunction, source: Tensor, base_E: Tensor | None, target: Tensor) -> None:
    words_E = source if source.dim() == 1 else target
    if not words_E.numel():
        return
    tensors = [source, target] if base_E is None else [source, target, base_E]
    is_aligned = words_E.numel() % 16 == 0 and all(one.data_ptr() % 16 == 0 for one in tensors)
    kernel[(triton.cdiv(words_E.numel(), BLOCK),)](
        source,
        words_E if base_E is None else base_E,
        target,
        words_E.numel(),
        ITEM_BYTES=words_E.element_size(),
        HAS_BASE=base_E is not None,
        ALIGNED=is_aligned,
        BLOCK=BLOCK,
        num_warps=WARPS if torch.version.hip is None else HIP_WARPS,
    )
