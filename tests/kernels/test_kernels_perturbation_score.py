from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.perturbation_score import PerturbationScores, perturbation_score, score_moments
from kernels.reference.perturbation_score import perturbation_score_reference

ROWS = 40


def starts_of(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def batch(
    lengths: list[int], probes: list[int], seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden, head = torch.randn(ROWS, 6, generator=generator), torch.randn(50, 6, generator=generator)
    targets = torch.randint(0, 50, (ROWS,), generator=generator)
    rows = torch.randint(0, ROWS, (sum(lengths),), generator=generator)
    return hidden, head, targets, rows, starts_of(lengths), starts_of(probes)


@given(
    st.lists(st.lists(st.sampled_from([0, 1, 2, 5, 33]), min_size=1, max_size=5), min_size=1, max_size=4),
    st.integers(0, 9),
)
@settings(max_examples=30, deadline=None)
def test_it_agrees_with_the_float64_reference(probes: list[list[int]], seed: int) -> None:
    arguments = batch([length for probe in probes for length in probe], [len(probe) for probe in probes], seed)
    found = perturbation_score(*arguments)
    expected = perturbation_score_reference(*arguments)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float64
        # A normalised discrepancy divides by a deviation that can be as small as a rounding.
        assert torch.allclose(one, other, rtol=1e-3 if one is found.normalised else 1e-5, atol=2e-5)


def test_numbers_worked_by_hand() -> None:
    moments = torch.tensor([[-1.0, -3.0, -2.0, -6.0], [-1.5, -2.0, 0.0, 0.0], [1.0, 3.0, 9.0, 9.0]])
    # One probe: the text has rows 0 and 1, its perturbations rows 0 and 2, and rows 0 and 3. Another without any.
    found = score_moments(moments, torch.tensor([0, 1, 0, 2, 0, 3, 3]), starts_of([2, 2, 2, 1]), starts_of([3, 1]))
    assert found.log_prob.tolist() == [-2.0, -1.5, -3.5, -6.0]
    assert found.discrepancy.tolist() == [0.5, 0.0]
    assert found.normalised.tolist() == [0.5, 0.0]
    assert found.conditional.tolist() == [-0.25, -2.0]


def test_perturbations_that_are_all_alike_leave_the_discrepancy_as_it_is() -> None:
    moments = torch.tensor([[-1.0, -3.0], [-1.0, -1.0], [0.0, 0.0]])
    found = score_moments(moments, torch.tensor([0, 1, 1]), starts_of([1, 1, 1]), starts_of([3]))
    assert [float(value) for value in found[1:]] == [2.0, 2.0, 0.0]


def test_a_probes_bytes_do_not_depend_on_what_it_is_batched_with() -> None:
    arguments = batch([33, 33, 33, 7, 5, 5, 1], [3, 1, 3])
    whole = perturbation_score(*arguments)
    hidden, head, targets, rows, _, _ = arguments
    alone = perturbation_score(hidden, head, targets, rows[106:], starts_of([5, 5, 1]), starts_of([3]))
    assert torch.equal(alone.log_prob, whole.log_prob[4:])
    assert all(torch.equal(one, other[2:]) for one, other in zip(alone[1:], whole[1:], strict=True))


def test_no_probes_give_no_scores() -> None:
    found = score_moments(torch.zeros(3, 0), *(torch.zeros(count, dtype=torch.int64) for count in (0, 1, 1)))
    assert [tuple(value.shape) for value in found] == [(0,)] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"moments": torch.zeros(2, 4)}, r"moments must be fp32 \[3, M\], got torch.float32 \[2, 4\]"),
        ({"rows": torch.zeros(3)}, "rows must be int64"),
        ({"rows": torch.tensor([0, 4, 1])}, r"rows\[1\] is 4, expected 0 to 3"),
        ({"sequences": torch.tensor([0, 2, 1, 3])}, r"sequence_starts must not fall from 0 to 3, got \[0, 2, 1, 3\]"),
        ({"sequences": torch.tensor([0, 1, 2])}, "sequence_starts must not fall from 0 to 3"),
        ({"sequences": torch.zeros(0, dtype=torch.int64)}, "sequence_starts must be int64"),
        ({"probes": torch.tensor([0, 0, 2])}, "probe_starts must rise from 0 to 2"),
        ({"probes": torch.tensor([1, 2])}, "probe_starts must rise from 0 to 2"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, torch.Tensor], message: str) -> None:
    arguments = {
        "moments": torch.zeros(3, 4),
        "rows": torch.tensor([0, 1, 2]),
        "sequences": torch.tensor([0, 1, 3]),
        "probes": torch.tensor([0, 2]),
    } | change
    with pytest.raises(ValueError, match=message):
        score_moments(*arguments.values())


def test_the_operator_is_what_it_says_to_the_compiler() -> None:
    hidden, head, targets, rows, sequences, probes = batch([5, 4, 6], [2, 1])
    op = torch.ops.deepshard.perturbation_score.default
    torch.library.opcheck(op, (torch.randn(3, ROWS).abs(), rows, sequences, probes))

    def score(hidden: torch.Tensor) -> PerturbationScores:
        return perturbation_score(hidden * 2, head, targets, rows, sequences, probes)

    compiled = torch.compile(score, backend="aot_eager", fullgraph=True)(hidden)
    assert all(torch.equal(one, other) for one, other in zip(compiled, score(hidden), strict=True))


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed on this platform")
def test_the_triton_kernels_agree_under_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("interpret_perturbation_score.py")
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["agrees"] * 4
