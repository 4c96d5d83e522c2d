"""Deterministic draws from a seed: integers only, the same on every machine.

The stream of a seed under a tag is block 0, block 1, ... of 1,024 bytes, block k being
`expand(seed + k as eight little-endian bytes, tag, 1024)`. A draw below n reads eight bytes, little-endian, and reads
again while the number is at least the largest multiple of n below 2^64, so every value is equally likely.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from deepshard.primitives import expand

_BLOCK_BYTES: Final = 1024
_RANGE: Final = 1 << 64


class Draws:
    """The stream of a seed under a tag."""

    __slots__ = ("_block", "_blocks", "_offset", "_seed", "_tag")

    def __init__(self, seed: bytes, tag: str) -> None:
        """Begin at the stream's first byte."""
        self._seed, self._tag = seed, tag
        self._block, self._offset, self._blocks = b"", 0, 0

    def _next(self) -> int:
        if self._offset == len(self._block):
            self._block = expand(self._seed + self._blocks.to_bytes(8, "little"), self._tag, _BLOCK_BYTES)
            self._blocks, self._offset = self._blocks + 1, 0
        value = int.from_bytes(self._block[self._offset : self._offset + 8], "little")
        self._offset += 8
        return value

    def below(self, bound: int) -> int:
        """An integer from 0 to `bound` - 1; `bound` is 1 to 2^64."""
        assert 0 < bound <= _RANGE
        limit = _RANGE - _RANGE % bound
        value = self._next()
        while value >= limit:
            value = self._next()
        return value % bound

    def permutation(self, count: int) -> tuple[int, ...]:
        """A permutation of 0 to `count` - 1: Fisher-Yates from the last place down to the second."""
        order = list(range(count))
        for last in range(count - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return tuple(order)

    def sample(self, size: int, count: int) -> tuple[int, ...]:
        """`count` distinct integers below `size` in the order drawn (all of them where `count` is larger).

        The first places of a Fisher-Yates shuffle from the front, kept sparse: cost depends on `count` alone.
        """
        moved: dict[int, int] = {}
        drawn: list[int] = []
        for first in range(min(size, count)):
            other = first + self.below(size - first)
            drawn.append(moved.get(other, other))
            moved[other] = moved.get(first, first)
        return tuple(drawn)

    def weighted_sample(self, weights: Sequence[int], count: int) -> tuple[int, ...]:
        """Up to `count` distinct indices, each drawn in proportion to its weight among those left; never weight 0."""
        left = list(weights)
        total = sum(left)
        drawn: list[int] = []
        while total > 0 and len(drawn) < count:
            point = self.below(total)
            index = 0
            while point >= left[index]:
                point -= left[index]
                index += 1
            drawn.append(index)
            total -= left[index]
            left[index] = 0
        return tuple(drawn)
