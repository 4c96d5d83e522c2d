"""Run by a test under TRITON_INTERPRET=1: compares the Triton kernel with the reference at odd shapes."""

from __future__ import annotations

import torch

import kernels.triton_logprob_moments as kernel
from kernels.reference.logprob_moments import logprob_moments_reference

SHAPES = [
    (5, 40, (37,), torch.float32),
    (67, 72, (300, 291), torch.float32),
    (3, 16, (1, 130, 7), torch.bfloat16),
    (33, 65, (129,), torch.float16),
    (17, 64, (700,), torch.bfloat16),
]


def main() -> None:
    kernel._SLICE_WORDS = 256  # type: ignore[misc]  # several slices of a small vocabulary
    torch.manual_seed(0)
    for rows, width, words, dtype in SHAPES:
        hidden = torch.randn(rows, width).to(dtype)
        head = tuple((torch.randn(count, width) / 2).to(dtype) for count in words)
        targets = torch.randint(0, sum(words), (rows,))
        targets[0], targets[1] = -100, sum(words) - 1
        found = kernel.logprob_moments_triton(hidden, head, targets)
        expected = logprob_moments_reference(hidden, head, targets)
        same = all(
            torch.allclose(one.double(), other, rtol=1e-5, atol=2e-5)
            for one, other in zip(found, expected, strict=True)
        )
        print("agrees" if same else f"differs at {rows, width, words, dtype}")  # noqa: T201
    again = kernel.logprob_moments_triton(hidden, head, targets)
    print("repeats" if all(torch.equal(one, other) for one, other in zip(found, again, strict=True)) else "varies")  # noqa: T201


if __name__ == "__main__":
    main()
