"""Elements to byte planes and back, and which compressor a plane gets.

Splitting and joining run over pieces that stay in the second-level cache: 4.9 and 4.8 GB/s a core on bf16 where one
pass over whole shards of 2 MiB takes 2.1 (measured here; numpy releases the GIL in each).

zstd's match finder is in the way for bytes without structure: on the exponents of SmolLM2 level 3 gives 0.41 of a
plane, level 1 0.37, and a match finder that finds nothing, which leaves Huffman coding alone, 0.334, at twice the speed
of level 1; the entropy is 0.329. So samples of a plane decide whether it is stored, only coded, or searched for matches
(deltas, zeros, repeated rows).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import zstandard

Bytes = npt.NDArray[np.uint8]

DEFAULT_LEVEL: Final = 3
"""zstd's level for planes that repeat."""
_PIECE_BYTES: Final = 1 << 18
"""Elements worked on at a time; with scratch of the same size they fit a second-level cache of 1 MiB."""
_WORD: Final[dict[int, npt.DTypeLike]] = {1: np.dtype("u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4")}
_SIGNED: Final[dict[int, npt.DTypeLike]] = {2: np.dtype("<i2"), 4: np.dtype("<i4")}
_SAMPLES: Final = 4
_SAMPLE_BYTES: Final = 1 << 13
_STORED_SHARE: Final = 0.975
"""Entropy as a share of eight bits from which compression isn't tried: it would gain less than 2.5 % of the plane."""
_MATCHED_SHARE: Final = 0.95
"""Matches are searched for if that brings samples below this share of their entropy, the bound of coding alone."""
_CODED: Final = zstandard.ZstdCompressionParameters(
    window_log=21,
    hash_log=6,
    chain_log=6,
    search_log=1,
    min_match=7,
    target_length=0,
    strategy=zstandard.STRATEGY_FAST,
    write_content_size=1,
)
"""The smallest match finder there is, which finds none in noise."""


class _Contexts(threading.local):
    """zstd's working memory, for each thread its own: making it anew for each plane costs a twentieth of decoding."""

    def __init__(self) -> None:
        self.decompressor = zstandard.ZstdDecompressor()
        self.coding = zstandard.ZstdCompressor(compression_params=_CODED)
        self._searching: dict[int, zstandard.ZstdCompressor] = {}

    def searching(self, level: int) -> zstandard.ZstdCompressor:
        """The compressor that looks for matches."""
        found = self._searching.get(level)
        if found is None:
            found = self._searching[level] = zstandard.ZstdCompressor(level=level)
        return found


CONTEXTS: Final = _Contexts()


def split_elements(elements: Bytes, item_bytes: int) -> list[Bytes]:
    """Planes of elements whose nine highest bits are rotated left by one, most significant first (i8: bytes as is)."""
    if item_bytes == 1:
        return [elements]
    words = elements.view(_WORD[item_bytes])
    planes = [np.empty(len(words), np.uint8) for _ in range(item_bytes)]
    length = _PIECE_BYTES // item_bytes
    scratch, high = np.empty(length, words.dtype), np.empty(length, np.uint8)
    for start in range(0, len(words), length):
        piece = words[start : start + length]
        moved, sign = scratch[: len(piece)], high[: len(piece)]
        parts = [plane[start : start + length] for plane in planes]
        np.right_shift(piece, 8 * item_bytes - 9, out=moved)
        np.copyto(parts[0], moved, casting="unsafe")  # keeps the low byte, here and below
        np.right_shift(piece, 8 * item_bytes - 8, out=moved)
        np.copyto(sign, moved, casting="unsafe")
        for k, part in enumerate(parts[1:], 1):
            np.right_shift(piece, 8 * (item_bytes - 1 - k), out=moved)
            np.copyto(part, moved, casting="unsafe")
        np.bitwise_and(sign, 0x80, out=sign)
        np.bitwise_and(parts[1], 0x7F, out=parts[1])
        np.bitwise_or(parts[1], sign, out=parts[1])
    return planes


def join_elements(planes: Sequence[Bytes], item_bytes: int) -> Bytes:
    """Invert `split_elements`."""
    if item_bytes == 1:
        return planes[0]
    words = np.empty(len(planes[0]), _SIGNED[item_bytes])
    length = _PIECE_BYTES // item_bytes
    scratch = np.empty(length, words.dtype)
    exponent_unit = words.dtype.type(1 << 8 * item_bytes - 9)
    below = 8 * (item_bytes - 2)
    # Widening the second plane as a signed number copies its highest bit to all above, of which the mask keeps one.
    mask = words.dtype.type((0x807F << below) - (1 << 8 * item_bytes))
    for start in range(0, len(words), length):
        piece = words[start : start + length]
        moved = scratch[: len(piece)]
        second = planes[1].view(np.int8)[start : start + length]
        np.multiply(planes[0][start : start + length], exponent_unit, out=piece)
        if below:
            np.copyto(moved, second)
            np.left_shift(moved, below, out=moved)
            np.bitwise_and(moved, mask, out=moved)
        else:
            np.bitwise_and(second, mask, out=moved)
        np.bitwise_or(piece, moved, out=piece)
        for k, plane in enumerate(planes[2:], 2):
            np.copyto(moved, plane[start : start + length])
            np.left_shift(moved, 8 * (item_bytes - 1 - k), out=moved)
            np.bitwise_or(piece, moved, out=piece)
    return words.view(np.uint8)


def compress_plane(plane: Bytes, level: int) -> bytes | None:
    """A zstd frame shorter than the plane, or None where it is to be stored as it is."""
    sample = _sample(plane)
    if len(sample) == 0:
        return None
    searching = CONTEXTS.searching(level)
    coded_bytes = _entropy_bytes(sample)
    if len(searching.compress(sample.data)) < _MATCHED_SHARE * coded_bytes:
        compressor = searching
    elif len(sample) < len(plane) and coded_bytes > _STORED_SHARE * len(sample):
        return None
    else:
        compressor = CONTEXTS.coding
    frame = compressor.compress(np.ascontiguousarray(plane).data)
    return frame if len(frame) < len(plane) else None


def _sample(plane: Bytes) -> Bytes:
    """Pieces from evenly spaced places of a plane; all of a small one."""
    if len(plane) <= _SAMPLES * _SAMPLE_BYTES:
        return np.ascontiguousarray(plane)
    starts = [(2 * number + 1) * len(plane) // (2 * _SAMPLES) - _SAMPLE_BYTES // 2 for number in range(_SAMPLES)]
    return np.concatenate([plane[start : start + _SAMPLE_BYTES] for start in starts])


def _entropy_bytes(sample: Bytes) -> float:
    """What a code for each byte by itself comes to at least, with one bit for the shortest code."""
    shares = np.bincount(sample, minlength=256) / len(sample)
    present = shares[shares > 0]
    return max(1.0, -float((present * np.log2(present)).sum())) / 8 * len(sample)
