"""Floating-point types of numpy to bf16, which numpy doesn't have: bit for bit as torch rounds, without torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from deepshard.shards.manifest import DType

_FLOATS: dict[DType, npt.DTypeLike] = {"f16": np.dtype("<f2"), "f32": np.dtype("<f4")}


def to_bf16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Nearest bf16, ties to even, as the bits of it; what isn't a number becomes 0x7FC0, whatever its sign was."""
    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    # The highest bit that is dropped decides, with the lowest that stays deciding ties.
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    result = rounded.astype("<u2")
    result[np.isnan(values)] = 0x7FC0
    return result


def bytes_to_bf16(block: npt.NDArray[np.uint8], dtype: DType) -> npt.NDArray[np.uint8]:
    """Rows of elements of a floating-point type [rows, bytes], as rows of bf16."""
    if dtype == "bf16":
        return block
    values = np.ascontiguousarray(block).view(_FLOATS[dtype]).astype(np.float32)
    return to_bf16(values).view(np.uint8)
