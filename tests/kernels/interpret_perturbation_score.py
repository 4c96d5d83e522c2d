"""Run by a test under TRITON_INTERPRET=1: the Triton kernels beside the CPU path, on ragged batches."""

from __future__ import annotations

import torch

import kernels.triton_perturbation_score as kernel
from kernels.perturbation_score import score_moments


def main() -> None:
    generator = torch.Generator().manual_seed(3)
    kernel._BLOCK_R, kernel._BLOCK_S = 16, 4  # type: ignore[misc]  # several blocks of short sequences
    for lengths, probes in (
        ([1], [1]),
        ([5, 123, 129], [3]),
        ([129, 0, 1, 5, 5, 5, 5, 5, 5, 7], [1, 8, 1]),
        ([0, 0], [2]),
    ):
        starts = torch.tensor([0, *lengths]).cumsum(0)
        probe_starts = torch.tensor([0, *probes]).cumsum(0)
        rows = torch.randint(0, 40, (int(starts[-1]),), generator=generator)
        moments = torch.randn(3, 40, generator=generator)
        moments[2].abs_()
        expected = score_moments(moments, rows, starts, probe_starts)
        found = kernel.scores_by_triton(moments, rows, starts, probe_starts)
        near = [torch.allclose(one, other, rtol=1e-12, atol=1e-13) for one, other in zip(found, expected, strict=True)]
        print("agrees" if all(near) else f"differs at {lengths}")  # noqa: T201


if __name__ == "__main__":
    main()
