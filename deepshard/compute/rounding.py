"""Floating-point types of numpy to bf16, which numpy doesn't have: bit for bit as torch rounds, without torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from deepshard.shards.manifest import DType
from deepshard.shards.rounding import to_bf16, widen


def bytes_to_bf16(block: npt.NDArray[np.uint8], dtype: DType) -> npt.NDArray[np.uint8]:
    """Rows of elements of a floating-point type [rows, bytes], as rows of bf16."""
    return block if dtype == "bf16" else to_bf16(widen(block, dtype)).view(np.uint8)
