"""Run by a test under TRITON_INTERPRET=1: compares the Triton kernel with the reference at odd shapes.

Inputs are windows of buffers that are NaN outside of them, and every fresh tensor is NaN until it is written.
"""

from __future__ import annotations

from typing import Any

import torch

import kernels.triton_logprob_moments as kernel
from kernels.moment_state import Logits, LogprobMoments, MomentState, finish, merge
from kernels.reference.logprob_moments import logprob_moments_reference

PLAIN, CAPPED, COOLED = Logits(), Logits(scale=0.5, softcap=3.0, temperature=0.7), Logits(scale=2.0, temperature=1.5)
CASES = [
    (1, 1, (1,), torch.float32, PLAIN),
    (5, 40, (37,), torch.float32, CAPPED),
    (67, 72, (300, 0, 291), torch.float32, PLAIN),
    (3, 16, (1, 130, 7), torch.bfloat16, COOLED),
    (33, 65, (129,), torch.float16, PLAIN),
    (129, 5, (123,), torch.bfloat16, CAPPED),
    (123, 129, (129, 5), torch.float32, COOLED),
]
_new_empty = torch.Tensor.new_empty


def poisoned(self: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
    tensor = _new_empty(self, *arguments, **options)
    return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor


def window(values: torch.Tensor) -> torch.Tensor:
    rows, width = values.shape
    around = torch.full((rows + 2, width + 3), torch.nan, dtype=values.dtype)
    inside = around[1 : 1 + rows, :width]
    inside.copy_(values)
    return inside


def far_apart(values: torch.Tensor) -> torch.Tensor:
    """Rows 2^30 elements apart, so that the third lies beyond 2^31; pages that nothing is written to take no memory."""
    rows, width = values.shape
    stride = 2**30 + 16
    base = torch.empty((rows - 1) * stride + width, dtype=values.dtype)
    return base.as_strided((rows, width), (stride, 1)).copy_(values)


def offsets_beyond_32_bits() -> bool:
    hidden, head, targets = torch.randn(3, 8).half(), torch.randn(3, 8).half(), torch.tensor([2, 0, 1])
    expected = moments(hidden, (head,), targets, PLAIN)
    for far_hidden, far_head in ((far_apart(hidden), head), (hidden, far_apart(head))):
        found = moments(far_hidden, (far_head,), targets, PLAIN)
        if not all(torch.equal(one, other) for one, other in zip(found, expected, strict=True)):
            return False
    return True


def main() -> None:
    kernel._SLICE_WORDS = 256  # type: ignore[misc]  # several slices of a small vocabulary
    torch.Tensor.new_empty = poisoned  # type: ignore[assignment,method-assign]
    torch.manual_seed(0)
    for rows, width, words, dtype, logits in CASES:
        hidden = window(torch.randn(rows, width).to(dtype))
        head = tuple(window((torch.randn(count, width) / 2).to(dtype)) for count in words)
        targets = torch.randint(0, sum(words), (rows,))
        targets[0], targets[-1] = -100, sum(words) - 1
        found = moments(hidden, head, targets, logits)
        numbers = {"scale": logits.scale, "softcap": logits.softcap, "temperature": logits.temperature}
        expected = logprob_moments_reference(hidden, head, targets, **numbers)
        same = all(
            torch.allclose(one.double(), other, rtol=1e-5, atol=2e-5)
            for one, other in zip(found, expected, strict=True)
        )
        print("agrees" if same else f"differs at {rows, width, words, dtype}")  # noqa: T201
    again = moments(hidden, head, targets, logits)
    print("repeats" if all(torch.equal(one, other) for one, other in zip(found, again, strict=True)) else "varies")  # noqa: T201
    halves = [
        MomentState(kernel.sums_by_triton(hidden, (shard,), targets - first, logits).double(), first, first + count)
        for shard, first, count in zip(head, (0, words[0]), words, strict=True)
    ]
    merged = finish(merge(halves), targets)
    near = [torch.allclose(one, other, rtol=1e-5, atol=2e-5) for one, other in zip(merged, found, strict=True)]
    print("reaches" if offsets_beyond_32_bits() else "wraps")  # noqa: T201
    print("merges" if all(near) else "parts differ")  # noqa: T201


def moments(
    hidden: torch.Tensor, head: tuple[torch.Tensor, ...], targets: torch.Tensor, logits: Logits
) -> LogprobMoments:
    sums = kernel.sums_by_triton(hidden, head, targets, logits).double()
    return finish(MomentState(sums, 0, sum(len(shard) for shard in head)), targets)


if __name__ == "__main__":
    main()
