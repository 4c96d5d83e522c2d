"""Run by a test under TRITON_INTERPRET=1: the Triton kernels of plane_codec against its CPU path."""

from __future__ import annotations

import torch

from kernels import triton_plane_codec as kernel
from kernels.plane_codec import ITEM_BYTES, _words, join_planes, split_planes


def main() -> None:
    kernel.BLOCK = 64  # type: ignore[misc]  # several blocks of few elements
    generator = torch.Generator().manual_seed(0)
    for dtype, size in ITEM_BYTES.items():
        for elements in (1, 5, 123, 129, 0, 160):
            words = torch.randint(0, 256, (2, 160 * size), generator=generator, dtype=torch.uint8)
            weight, base = words.view(dtype)[:, :elements]
            for other in (None, base):
                planes = torch.full((size, elements), 0xA5, dtype=torch.uint8)
                other_words = None if other is None else _words(other)
                kernel.split_triton(_words(weight), other_words, planes)
                assert torch.equal(planes, split_planes(weight, other)), (dtype, elements)
                found = torch.zeros(elements, dtype=dtype)
                kernel.join_triton(planes, other_words, _words(found))
                assert torch.equal(_words(found), _words(weight)), (dtype, elements)
                assert torch.equal(_words(join_planes(planes, (elements,), dtype, other)), _words(weight))
        print("agrees")  # noqa: T201


if __name__ == "__main__":
    main()
