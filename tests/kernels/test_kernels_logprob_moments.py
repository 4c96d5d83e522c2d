from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels.logprob_moments import logprob_moments
from kernels.reference.logprob_moments import logprob_moments_reference

ATOL = {torch.float32: 2e-5, torch.bfloat16: 2e-5, torch.float16: 2e-5}


def problem(
    rows: int, width: int, words: tuple[int, ...], dtype: torch.dtype, scale: float = 0.5
) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(rows * 1000 + width)
    hidden = torch.randn(rows, width, generator=generator).to(dtype)
    head = [(torch.randn(count, width, generator=generator) * scale).to(dtype) for count in words]
    return hidden, head, torch.randint(0, sum(words), (rows,), generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("rows", "width", "words"),
    [(1, 8, (1,)), (3, 16, (511,)), (17, 24, (512,)), (513, 8, (513,)), (40, 32, (1, 700, 13)), (5, 7, (3, 0, 1030))],
)
def test_it_agrees_with_the_float64_reference(
    rows: int, width: int, words: tuple[int, ...], dtype: torch.dtype
) -> None:
    hidden, head, targets = problem(rows, width, words, dtype)
    targets[0] = sum(words) - 1
    for found, expected in zip(
        logprob_moments(hidden, head, targets), logprob_moments_reference(hidden, head, targets), strict=True
    ):
        assert found.dtype == torch.float32
        assert torch.allclose(found.double(), expected, rtol=1e-5, atol=ATOL[dtype])


@pytest.mark.parametrize("scale", [1e-4, 3.0], ids=["near-uniform", "peaked"])
def test_the_variance_keeps_its_digits(scale: float) -> None:
    hidden, head, targets = problem(16, 32, (5000,), torch.float32, scale)
    found = logprob_moments(hidden, head, targets).variance.double()
    expected = logprob_moments_reference(hidden, head, targets)[3]
    assert bool(((found - expected).abs() <= 1e-4 * expected + 1e-12).all())


def test_ignored_rows_are_zero_but_keep_their_logsumexp() -> None:
    hidden, head, targets = problem(4, 8, (20,), torch.float32)
    whole = logprob_moments(hidden, head, targets)
    targets[2] = -100
    found = logprob_moments(hidden, head, targets)
    assert (float(found.log_prob[2]), float(found.mean[2]), float(found.variance[2])) == (0.0, 0.0, 0.0)
    assert torch.equal(found.logsumexp, whole.logsumexp)
    assert torch.equal(found.log_prob[:2], whole.log_prob[:2])


def test_words_of_probability_zero_cost_nothing() -> None:
    hidden = torch.ones(1, 1)
    head = torch.cat([torch.full((600, 1), -torch.inf), torch.zeros(2, 1)])
    found = logprob_moments(hidden, head, torch.tensor([601]))
    assert [round(float(value), 6) for value in found] == [-0.693147, 0.693147, -0.693147, 0.0]


def test_a_rows_bytes_depend_neither_on_its_neighbours_nor_on_threads() -> None:
    hidden, head, targets = problem(700, 64, (3000,), torch.float32)
    whole = logprob_moments(hidden, head, targets)
    for rows in (1, 2, 3, 5, 7, 16, 100, 513):
        part = logprob_moments(hidden[:rows], head, targets[:rows])
        assert all(torch.equal(one, other[:rows]) for one, other in zip(part, whole, strict=True))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        other_threads = logprob_moments(hidden, head, targets)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(other_threads, whole, strict=True))


def test_shards_cut_at_tiles_give_the_bytes_of_the_whole_head() -> None:
    hidden, head, targets = problem(9, 16, (512, 1024, 77), torch.float32)
    whole = logprob_moments(hidden, torch.cat(head), targets)
    assert all(
        torch.equal(one, other) for one, other in zip(logprob_moments(hidden, head, targets), whole, strict=True)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.zeros(2, 3, 4)}, r"hidden must be \[M, H\]"),
        ({"hidden": torch.zeros(2, 4, dtype=torch.int64)}, "hidden must be"),
        ({"head": []}, "at least one shard"),
        ({"head": torch.zeros(0, 4)}, "at least one word"),
        ({"head": [torch.zeros(5, 4), torch.zeros(5, 3)]}, r"head shard 1 must be \[V_k, 4\].*\[5, 3\]"),
        ({"targets": torch.zeros(3, dtype=torch.int64)}, r"targets must be int64 \[2\]"),
        ({"targets": torch.zeros(2)}, "targets must be int64"),
        ({"targets": torch.tensor([0, 5])}, r"targets\[1\] is 5, expected 0 to 4"),
        ({"targets": torch.tensor([-1, 0])}, r"targets\[0\] is -1"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, torch.Tensor], message: str) -> None:
    arguments = {"hidden": torch.zeros(2, 4), "head": torch.zeros(5, 4), "targets": torch.zeros(2, dtype=torch.int64)}
    arguments.update(change)
    with pytest.raises(ValueError, match=message):
        logprob_moments(arguments["hidden"], arguments["head"], arguments["targets"])


def test_no_rows_give_no_results() -> None:
    found = logprob_moments(torch.zeros(0, 4), torch.zeros(5, 4), torch.zeros(0, dtype=torch.int64))
    assert [tuple(value.shape) for value in found] == [(0,)] * 4


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed on this platform")
def test_the_triton_kernel_agrees_under_its_interpreter() -> None:
    # In a process of its own: the variable is read when Triton is imported.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("interpret_logprob_moments.py")
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["agrees"] * 5 + ["repeats"]


def test_transformers_believes_the_hub_package_of_this_name_absent() -> None:
    from transformers.utils import is_kernels_available  # noqa: PLC0415

    assert importlib.util.find_spec("kernels") is not None
    assert is_kernels_available() is False
