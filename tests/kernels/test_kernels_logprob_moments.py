from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kernels.cpu_lanes import in_lanes
from kernels.logprob_moments import (
    LogprobMoments,
    MomentState,
    StreamedMoments,
    finish,
    logprob_moments,
    merge,
    moment_state,
)
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


def same(one: LogprobMoments, other: LogprobMoments, rows: slice = slice(None)) -> bool:
    return all(torch.equal(left[rows], right[rows]) for left, right in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "numbers", [{"scale": 0.3}, {"softcap": 2.0}, {"temperature": 1.7}, {"scale": 2, "softcap": 5, "temperature": 0.6}]
)
def test_scale_cap_and_temperature_are_those_of_the_reference(numbers: dict[str, float]) -> None:
    hidden, head, targets = problem(33, 20, (600, 5), torch.float32)
    for found, expected in zip(
        logprob_moments(hidden, head, targets, **numbers),
        logprob_moments_reference(hidden, head, targets, **numbers),
        strict=True,
    ):
        assert torch.allclose(found.double(), expected, rtol=1e-5, atol=2e-5)


@given(
    words=st.lists(st.sampled_from([0, 1, 15, 16, 17, 511, 512, 513]), min_size=1, max_size=5), rows=st.integers(1, 20)
)
@settings(max_examples=20, deadline=None)
def test_parts_of_the_vocabulary_merge_to_the_whole_however_it_is_split(words: list[int], rows: int) -> None:
    assume(sum(words) > 0)
    hidden, head, targets = problem(rows, 8, tuple(words), torch.float32)
    targets[0] = -100
    states = [moment_state(hidden, shard, targets, first_word=sum(words[:place])) for place, shard in enumerate(head)]
    whole = logprob_moments(hidden, head, targets)
    merged = finish(merge(states), targets)
    assert all(torch.allclose(one, other, rtol=1e-6, atol=1e-6) for one, other in zip(merged, whole, strict=True))
    assert same(finish(merge(states), targets), merged)
    pairwise = states[0]
    for state in states[1:]:
        pairwise = merge([pairwise, state])
    gap = (pairwise.sums_5M - merge(states).sums_5M).nan_to_num(0.0).abs()
    assert float(gap.max()) < 1e-9


def test_parts_that_overlap_or_leave_a_gap_are_refused() -> None:
    def part(first: int, end: int, rows: int = 2) -> MomentState:
        return MomentState(torch.zeros(5, rows, dtype=torch.float64), first, end)

    with pytest.raises(ValueError, match=r"states\[1\] begins at word 4, expected 5: words overlap"):
        merge([part(0, 5), part(4, 9)])
    with pytest.raises(ValueError, match=r"states\[1\] begins at word 6, expected 5: words are missing"):
        merge([part(0, 5), part(6, 9)])
    with pytest.raises(ValueError, match=r"states\[1\] must be \[5, 2\] like the first, got \[5, 3\]"):
        merge([part(0, 5), part(5, 9, 3)])
    with pytest.raises(ValueError, match="at least one state"):
        merge([])
    with pytest.raises(ValueError, match="words 0 to the last one, got words 5 to 8"):
        finish(part(5, 9), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"targets must be \[2\], got \[3\]"):
        finish(part(0, 9), torch.zeros(3, dtype=torch.int64))


def test_a_row_that_is_not_finite_is_nan_and_its_neighbours_are_untouched() -> None:
    hidden, head, targets = problem(6, 8, (40,), torch.float32)
    clean = logprob_moments(hidden, head, targets)
    hidden[1, 0], hidden[3, 2], hidden[4, 0] = torch.nan, torch.inf, -torch.inf
    found = logprob_moments(hidden, head, targets)
    assert all(bool(values[[1, 3, 4]].isnan().all()) for values in found)
    assert all(torch.equal(one[[0, 2, 5]], other[[0, 2, 5]]) for one, other in zip(found, clean, strict=True))


@pytest.mark.parametrize("width", [768, 769, 2048])
def test_wide_rows_have_the_same_bytes_in_any_company(width: int) -> None:
    hidden, head, targets = problem(130, width, (530, 1), torch.float32, 0.05)
    whole = logprob_moments(hidden, head, targets)
    for rows in (1, 17, 129):
        assert same(logprob_moments(hidden[:rows], head, targets[:rows]), whole, slice(rows))
    last = logprob_moments(hidden[100:], head, targets[100:])
    assert all(torch.equal(one, other[100:]) for one, other in zip(last, whole, strict=True))


def test_strides_do_not_matter() -> None:
    hidden, (head,), targets = problem(20, 24, (70,), torch.float32)
    wide = torch.full((20, 48), torch.nan)
    wide[:, ::2] = hidden
    found = logprob_moments(wide[:, ::2], head.T.contiguous().T, targets.repeat_interleave(2)[::2])
    expected = logprob_moments(hidden, head, targets)
    assert all(torch.allclose(one, other, rtol=1e-6, atol=1e-6) for one, other in zip(found, expected, strict=True))


def test_every_element_of_the_result_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head, targets = problem(37, 8, (520, 3), torch.bfloat16)
    expected = logprob_moments(hidden, head, targets)
    empty, new_empty = torch.empty, torch.Tensor.new_empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(torch.nan))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *a, **k: new_empty(self, *a, **k).fill_(torch.nan))
    assert same(logprob_moments(hidden, head, targets), expected)


@pytest.mark.parametrize("op", [torch.ops.deepshard.logprob_moments, torch.ops.deepshard.moment_state])
def test_the_operators_are_what_they_say_to_the_compiler(op: Any) -> None:
    hidden, head, targets = problem(5, 8, (20, 3), torch.float32)
    torch.library.opcheck(op.default, (hidden, head, targets, 1.0, 0.0, 1.0))
    torch.library.opcheck(op.default, (hidden.bfloat16(), head[:1], targets % 20, 0.5, 3.0, 2.0))


def test_a_call_is_compiled_and_exported_as_one_node() -> None:
    class Score(torch.nn.Module):
        def forward(self, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            moments = logprob_moments(hidden * 2, (head[:9], head[9:]), targets, softcap=4.0)
            return moments.log_prob + moments.variance

    hidden, (head,), targets = problem(6, 8, (20,), torch.float32)
    expected = Score()(hidden, head, targets)
    compiled = torch.compile(Score(), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(hidden, head, targets), expected)
    exported = torch.export.export(Score(), (hidden, head, targets))
    assert torch.equal(exported.module()(hidden, head, targets), expected)
    assert "deepshard.logprob_moments" in str(exported.graph)


def test_lanes_keep_order_and_pass_errors_on() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert in_lanes(lambda item: (item, torch.get_num_threads()), range(5)) == [(item, 1) for item in range(5)]
        assert in_lanes(lambda item: in_lanes(lambda inner: item + inner, range(3)), range(3)) == [
            [0, 1, 2],
            [1, 2, 3],
            [2, 3, 4],
        ]
        with pytest.raises(ZeroDivisionError):
            in_lanes(lambda item: 1 // item, [1, 0, 1])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


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


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"scale": float("nan")}, "scale must be finite, got nan"),
        ({"softcap": -1.0}, "softcap must be finite and 0 .* or more, got -1.0"),
        ({"temperature": 0.0}, "temperature must be finite and above 0, got 0.0"),
    ],
)
def test_wrong_numbers_are_named(numbers: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        logprob_moments(torch.zeros(2, 4), torch.zeros(5, 4), torch.zeros(2, dtype=torch.int64), **numbers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_that_comes_in_pieces_gives_the_bytes_of_the_whole(dtype: torch.dtype) -> None:
    hidden, (head,), targets = problem(1100, 24, (1300,), dtype)
    targets[5] = -100
    numbers = {"scale": 0.7, "softcap": 4.0, "temperature": 1.3}
    stream = StreamedMoments(hidden, targets, 1300, **numbers)
    assert stream.rows == 1100
    for begin, end in ((0, 512), (512, 512), (512, 1024), (1024, 1300)):
        piece = head[begin:end].clone()
        stream.add(piece)
        piece.fill_(torch.nan)
    assert same(stream.finish(), logprob_moments(hidden, head, targets, **numbers))
    empty = StreamedMoments(hidden[:0], targets[:0], 1300)
    empty.add(head)
    assert all(values.shape == (0,) for values in empty.finish())


def test_pieces_that_do_not_make_the_head_are_refused() -> None:
    hidden, (head,), targets = problem(3, 8, (600,), torch.float32)
    stream = StreamedMoments(hidden, targets, 600)
    with pytest.raises(ValueError, match=r"piece must be \[K, 8\] of a float type, got torch.float32 \[600, 7\]"):
        stream.add(head[:, :7])
    with pytest.raises(ValueError, match="a multiple of 512 words or the last ones, got 100"):
        stream.add(head[:100])
    stream.add(head[:512])
    with pytest.raises(ValueError, match="piece ends at word 1024, the head has 600"):
        stream.add(head[:512])
    with pytest.raises(ValueError, match="600 words, only 512 were added"):
        stream.finish()
    with pytest.raises(ValueError, match=r"targets\[0\] is 9"):
        StreamedMoments(hidden, torch.full((3,), 9), 9)
    with pytest.raises(ValueError, match="words must be 1 or more"):
        StreamedMoments(hidden, targets, 0)
    with pytest.raises(ValueError, match="softcap"):
        StreamedMoments(hidden, targets, 600, softcap=-1.0)


def test_no_rows_give_no_results() -> None:
    found = logprob_moments(torch.zeros(0, 4), torch.zeros(5, 4), torch.zeros(0, dtype=torch.int64))
    assert [tuple(value.shape) for value in found] == [(0,)] * 4


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed on this platform")
def test_the_triton_kernel_agrees_under_its_interpreter() -> None:
    # In a process of its own: the variable is read when Triton is imported.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("interpret_logprob_moments.py")
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["agrees"] * 7 + ["repeats", "reaches", "merges"]


def test_transformers_believes_the_hub_package_of_this_name_absent() -> None:
    from transformers.utils import is_kernels_available  # noqa: PLC0415

    assert importlib.util.find_spec("kernels") is not None
    assert is_kernels_available() is False
