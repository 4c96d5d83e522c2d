"""Byte planes of weights by their definition, one element after the other."""

from __future__ import annotations

import torch
from torch import Tensor


def planes_reference(weight: Tensor, base: Tensor | None = None) -> list[bytes]:
    """The planes, most significant byte first, of the elements' words XOR the base's, nine bits rotated."""
    size = weight.element_size()
    data = weight.contiguous().view(-1).view(torch.uint8).tolist()
    other = [0] * len(data) if base is None else base.contiguous().view(-1).view(torch.uint8).tolist()
    planes = [bytearray() for _ in range(size)]
    for start in range(0, len(data), size):
        word = int.from_bytes(data[start : start + size], "little")
        word ^= int.from_bytes(other[start : start + size], "little")
        if size > 1:
            high, low = divmod(word, 1 << (8 * size - 9))
            word = ((high << 1 | high >> 8) & 511) << (8 * size - 9) | low
        for plane, byte in zip(planes, word.to_bytes(size, "big"), strict=True):
            plane.append(byte)
    return [bytes(plane) for plane in planes]
