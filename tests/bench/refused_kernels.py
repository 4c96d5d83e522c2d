"""Kernels that the ahead-of-time gate has to refuse."""

# ruff: noqa: N803  # a constexpr is written as in kernels
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def adds_atomically(x_ptr: tl.tensor, sum_ptr: tl.tensor, BLOCK: tl.constexpr) -> None:
    x = tl.load(x_ptr + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))
    tl.atomic_add(sum_ptr, tl.sum(x, 0))


@triton.jit  # type: ignore[untyped-decorator]
def loads_narrowly(x_ptr: tl.tensor, y_ptr: tl.tensor, stride: tl.tensor, BLOCK: tl.constexpr) -> None:
    place = tl.arange(0, BLOCK)
    tl.store(y_ptr + place, tl.load(x_ptr + place * stride))
