"""An exact integer sketch of a weight update: a seeded random projection into a few buckets.

Each element of submission - base is scaled by 2^24, rounded to an integer, given a random sign and added to one of
`limits.SKETCH_BUCKETS` buckets (a count sketch, Charikar, Chen and Farach-Colton 2002). Squared norms and distances of
updates are estimated without bias by those of their sketches, with a relative deviation of sqrt(2 / buckets), or 0.09.
All sums are of integers, so every machine finds the same numbers in whichever order it adds.

Signs and the rotation of the buckets are drawn from the seed per tensor: signs are the bits of
`expand(tagged_hash("sketch tensor", seed, name), "sketch signs", ...)`, little-endian within each byte, 1 for minus;
element i of the row-major tensor goes to bucket (i + rotation) mod buckets, where rotation is the first four bytes,
little-endian, of `expand(..., "sketch rotation", 4)`, mod buckets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepshard.errors import LocalError
from deepshard.limits import SKETCH_BUCKETS
from deepshard.primitives import expand, tagged_hash

SCALE: Final = 2.0**24
ELEMENT_MAX: Final = 2**31 - 1
"""A scaled difference is clipped to this (a change by 128): with 2^62 allowed per bucket no sum can overflow below
2^31 elements a bucket."""
_BLOCK_ELEMENTS: Final = 1024 * SKETCH_BUCKETS


class UnsoundWeights(LocalError):
    """Weights that can't be sketched: not finite, or of another shape than the base's."""


class UpdateSketch:
    """Adds up the sketch of an update that comes in pieces, in any order; `seed` is 32 bytes."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._total = np.zeros(SKETCH_BUCKETS, dtype=np.int64)

    def add(self, name: str, base: Tensor, update: Tensor, *, first: int = 0) -> None:
        """Take the elements of a tensor from `first` on, in row-major order.

        Raises:
            UnsoundWeights: shapes or types differ, or a value isn't finite.
        """
        if base.shape != update.shape or base.dtype != update.dtype:
            raise UnsoundWeights(f"tensor {name} differs from the base's in shape or type")
        self._total += _sketch_tensor(name, base.flatten(), update.flatten(), self._seed, first)

    def values(self) -> tuple[int, ...]:
        """`SKETCH_BUCKETS` integers."""
        return tuple(int(value) for value in self._total)


def sketch_update(base: Mapping[str, Tensor], update: Mapping[str, Tensor], seed: bytes) -> tuple[int, ...]:
    """Sketch of `update` - `base`: `SKETCH_BUCKETS` integers.

    Args:
        base: the base model's tensors, of a float type.
        update: the submission's tensors under the same names, of the same shapes.
        seed: 32 bytes.

    Raises:
        UnsoundWeights: names or shapes differ, or a value isn't finite.
    """
    if base.keys() != update.keys():
        raise UnsoundWeights("submission and base don't hold the same tensors")
    assert sum(tensor.numel() for tensor in base.values()) < 2**31 * SKETCH_BUCKETS
    sketch = UpdateSketch(seed)
    for name in sorted(base):
        sketch.add(name, base[name], update[name])
    return sketch.values()


def _sketch_tensor(name: str, base: Tensor, update: Tensor, seed: bytes, first: int) -> NDArray[np.int64]:
    own_seed = tagged_hash("sketch tensor", seed, name.encode())
    rotation = int.from_bytes(expand(own_seed, "sketch rotation", 4), "little") % SKETCH_BUCKETS
    if missing := first % SKETCH_BUCKETS:  # to the begin of a row of buckets, which begins a byte of signs too
        base, update = (torch.cat([one.new_zeros(missing), one]) for one in (base, update))
        first -= missing
    count = base.numel()
    signs = np.frombuffer(expand(own_seed, "sketch signs", (count + 7) // 8, start=first // 8), dtype=np.uint8)
    buckets = np.zeros(SKETCH_BUCKETS, dtype=np.int64)
    for start in range(0, count, _BLOCK_ELEMENTS):
        old, new = base[start : start + _BLOCK_ELEMENTS], update[start : start + _BLOCK_ELEMENTS]
        if not bool(torch.isfinite(new).all()):
            raise UnsoundWeights(f"tensor {name} holds values that are not finite")
        if torch.equal(old, new):
            continue
        scaled = (new.double() - old.double()).mul_(SCALE).round_().clamp_(-ELEMENT_MAX, ELEMENT_MAX)
        bits = np.unpackbits(signs[start // 8 : (start + old.numel() + 7) // 8], bitorder="little")[: old.numel()]
        signed = scaled.numpy().astype(np.int64) * (1 - 2 * bits.astype(np.int64))
        rows = np.zeros(-(-old.numel() // SKETCH_BUCKETS) * SKETCH_BUCKETS, dtype=np.int64)
        rows[: old.numel()] = signed
        buckets += rows.reshape(-1, SKETCH_BUCKETS).sum(axis=0)
    rotated: NDArray[np.int64] = np.roll(buckets, rotation)
    return rotated
