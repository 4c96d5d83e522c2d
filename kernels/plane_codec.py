"""Byte planes of weights, where the weights lie: the part of the chunk codec that comes before compression.

The nine highest bits of each element are rotated left by one, which puts the sign beside the mantissa and fills the top
byte with the exponent (exactly so for bf16 and fp32), and byte k of all elements becomes plane k, the most significant
first; an int8 element is its own plane. With a base, elements are first replaced by their XOR with the base's, so that
what didn't change is zero. These are byte for byte the planes of the chunk codec (protocol-spec, chapter 8), also for
weights that lie on a GPU.

Shape suffixes: P planes, the bytes of one element; E elements.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from kernels.shard_table import form

ITEM_BYTES: Final = {torch.bfloat16: 2, torch.float16: 2, torch.float32: 4, torch.int8: 1}

_WORDS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
_BLOCK: Final = 1 << 16
"""Elements at a time: their words and planes stay in the L2 cache."""


def split_planes(weight: Tensor, base: Tensor | None = None) -> Tensor:
    """Planes of the weight's elements in row-major order, uint8 [P, E].

    Args:
        weight: any shape, bf16, fp16, fp32 or int8.
        base: as weight; the planes are those of the XOR with it.

    Raises:
        ValueError: a dtype, shape or device is wrong; the message names the argument.
    """
    if weight.dtype not in ITEM_BYTES:
        raise ValueError(f"weight must be bf16, fp16, fp32 or int8, got {form(weight)}")
    _check_base(base, weight.dtype, weight.shape, weight.device)
    planes_PE: Tensor = _split(weight, base)
    return planes_PE


def join_planes(planes_PE: Tensor, shape: Sequence[int], dtype: torch.dtype, base: Tensor | None = None) -> Tensor:
    """Invert `split_planes`: the weight of this shape and dtype, with the base it was split against.

    Raises:
        ValueError: the planes aren't those of such a weight, or the base isn't like it.
    """
    if dtype not in ITEM_BYTES:
        raise ValueError(f"dtype must be bf16, fp16, fp32 or int8, got {dtype}")
    expected = [ITEM_BYTES[dtype], math.prod(shape)]
    if planes_PE.dtype != torch.uint8 or list(planes_PE.shape) != expected:
        raise ValueError(f"planes must be torch.uint8 {expected}, got {form(planes_PE)}")
    _check_base(base, dtype, torch.Size(shape), planes_PE.device)
    weight: Tensor = _join(planes_PE, list(shape), dtype, base)
    return weight


def _check_base(base: Tensor | None, dtype: torch.dtype, shape: torch.Size, device: torch.device) -> None:
    if base is not None and (base.dtype != dtype or base.shape != shape):
        raise ValueError(f"base must be {dtype} {list(shape)}, got {form(base)}")
    if base is not None and base.device != device:
        raise ValueError(f"base is on {base.device}, the weight on {device}")


@torch.library.custom_op("deepshard::split_planes", mutates_args=())
def _split(weight: Tensor, base: Tensor | None) -> Tensor:
    words_E = _words(weight)
    base_E = None if base is None else _words(base)
    item_bytes = weight.element_size()
    planes_PE = weight.new_empty((item_bytes, words_E.numel()), dtype=torch.uint8)
    if weight.device.type == "cuda":
        from kernels.triton_plane_codec import split_triton  # noqa: PLC0415  # the CPU needs none

        split_triton(words_E, base_E, planes_PE)
        return planes_PE
    assert sys.byteorder == "little"
    for first in range(0, words_E.numel(), _BLOCK):
        block_E = words_E[first : first + _BLOCK]
        if base_E is not None:
            block_E = block_E ^ base_E[first : first + _BLOCK]
        part_PE = planes_PE[:, first : first + _BLOCK]
        bytes_EP = block_E.view(torch.uint8).view(-1, item_bytes)
        for k in range(item_bytes):
            part_PE[item_bytes - 1 - k] = bytes_EP[:, k]
        if item_bytes > 1:
            sign_E = part_PE[0] & 0x80
            part_PE[1].bitwise_and_(0x7F).bitwise_or_(sign_E)
            part_PE[0] = block_E >> (8 * item_bytes - 9)  # keeps the low byte
    return planes_PE


@_split.register_fake
def _(weight: Tensor, base: Tensor | None) -> Tensor:  # noqa: ARG001  # the operator's signature
    return weight.new_empty((weight.element_size(), weight.numel()), dtype=torch.uint8)


@torch.library.custom_op("deepshard::join_planes", mutates_args=())
def _join(planes: Tensor, shape: Sequence[int], dtype: torch.dtype, base: Tensor | None) -> Tensor:
    item_bytes, elements = planes.shape
    weight = planes.new_empty(tuple(shape), dtype=dtype)
    words_E = _words(weight)
    base_E = None if base is None else _words(base)
    if planes.device.type == "cuda":
        from kernels.triton_plane_codec import join_triton  # noqa: PLC0415

        join_triton(planes.contiguous(), base_E, words_E)
        return weight
    assert sys.byteorder == "little"
    for first in range(0, elements, _BLOCK):
        block_E = words_E[first : first + _BLOCK]
        bytes_EP = block_E.view(torch.uint8).view(-1, item_bytes)
        part_PE = planes[:, first : first + _BLOCK]
        for k in range(item_bytes):
            bytes_EP[:, k] = part_PE[item_bytes - 1 - k]
        if item_bytes > 1:
            sign_E, exponent_E = part_PE[1] & 0x80, part_PE[0]
            bytes_EP[:, item_bytes - 1] = (exponent_E >> 1) | sign_E
            bytes_EP[:, item_bytes - 2] = (part_PE[1] & 0x7F) | (exponent_E << 7)
        if base_E is not None:
            block_E ^= base_E[first : first + _BLOCK]
    return weight


@_join.register_fake
def _(planes: Tensor, shape: Sequence[int], dtype: torch.dtype, base: Tensor | None) -> Tensor:  # noqa: ARG001
    return planes.new_empty(tuple(shape), dtype=dtype)


def _words(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(_WORDS[tensor.element_size()])
