"""Stored floating-point types to binary32 and back, to nearest with ties to even; bit for bit the same everywhere.

numpy has no bf16; what isn't a number has one form for each type here, since processors differ in its payload.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from deepshard.errors import LocalError
from deepshard.shards.manifest import DType
from deepshard.shards.planes import Bytes

Floats = npt.NDArray[np.float32]

FLOAT_TYPES: Final[frozenset[DType]] = frozenset({"bf16", "f16", "f32"})
_SMALLEST_NORMAL: Final = np.float32(2.0**-126)


class FlushedSubnormals(LocalError):
    """This thread rounds subnormal numbers to zero, so it can't compute what others compute."""


def to_bf16(values: Floats) -> npt.NDArray[np.uint16]:
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


def widen(elements: Bytes, dtype: DType) -> Floats:
    """Stored elements, as bytes [rows, bytes of a row], as binary32 [rows, elements]; exact."""
    assert dtype in FLOAT_TYPES
    elements = np.ascontiguousarray(elements)
    if dtype == "bf16":
        words = elements.view("<u2").astype("<u4")
        words <<= 16
        return words.view("<f4").astype(np.float32, copy=False)
    return elements.view("<f2" if dtype == "f16" else "<f4").astype(np.float32)


def narrow(values: Floats, dtype: DType) -> Bytes:
    """Invert `widen` with rounding: NaN becomes 0x7FC0 (bf16), 0x7E00 (f16) or 0x7FC00000 (f32)."""
    assert dtype in FLOAT_TYPES
    if dtype == "bf16":
        return to_bf16(values).view(np.uint8)
    with np.errstate(over="ignore", under="ignore"):
        stored = values.astype("<f2" if dtype == "f16" else "<f4")
    words = stored.view("<u2" if dtype == "f16" else "<u4")
    words[np.isnan(values)] = 0x7E00 if dtype == "f16" else 0x7FC00000
    return words.view(np.uint8)


def require_subnormals() -> None:
    """Check that the calling thread computes as IEEE 754 says, which a library may have switched off in it.

    Raises:
        FlushedSubnormals: it doesn't.
    """
    if not np.multiply(np.full(1, _SMALLEST_NORMAL), np.float32(0.5)).view("<u4")[0]:
        raise FlushedSubnormals(
            "this thread flushes subnormal numbers to zero (something has set the processor's FTZ mode): merged weights"
            " would differ from everybody else's"
        )
