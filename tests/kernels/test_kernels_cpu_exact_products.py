"""fp32 products on bf16 matrix units: against float64, and byte for byte where bytes are promised."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kernels import cpu_exact_products
from kernels.cpu_exact_products import LeftFactor, as_bf16, exact_linears, split, units
from kernels.cpu_lanes import in_lanes
from kernels.logprob_moments import StreamedMoments, logprob_moments
from kernels.reference.logprob_moments import logprob_moments_reference

needs_units = pytest.mark.skipif(not units(), reason="the processor has no bf16 matrix units that torch's library uses")


def problem(rows: int, width: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """fp32 rows and an fp32 weight that holds bf16 numbers."""
    generator = torch.Generator().manual_seed(rows + width)
    weight = torch.randn(columns, width, generator=generator).bfloat16().float()
    return torch.randn(rows, width, generator=generator), weight


def times(x: torch.Tensor, weight: torch.Tensor, panel: int = 768) -> torch.Tensor:
    out = torch.full((len(x), len(weight)), torch.nan)
    LeftFactor(x, panel).times(weight, weight.float, out)
    return out


def test_three_pieces_are_the_number() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(77, 1500, generator=generator) * torch.logspace(-25, 37, 1500)
    x[0, :4] = torch.tensor([0.0, -0.0, 1.0 + 2**-23, 2.0**24 - 1])
    pieces = split(x)
    assert pieces.dtype == torch.bfloat16
    assert torch.equal(pieces.double().sum(0), x.double())
    assert torch.equal(pieces[0].float(), x.bfloat16().float())


def test_a_weight_is_taken_for_bf16_by_its_numbers() -> None:
    _, weight = problem(1, 8, 4)
    exact = as_bf16(weight)
    assert exact is not None
    assert torch.equal(exact.float(), weight)
    for other in (1 + 2**-9, torch.inf, torch.nan):
        weight[3, 7] = other
        assert as_bf16(weight) is None
    assert as_bf16(weight.bfloat16()) is None


@pytest.mark.parametrize("with_units", [pytest.param(True, marks=needs_units), False])
@pytest.mark.parametrize(("rows", "width", "panel"), [(1, 1, 768), (5, 129, 64), (48, 1537, 768)])
@pytest.mark.parametrize("is_bf16", [True, False])
def test_products_are_those_of_float64(
    *, with_units: bool, rows: int, width: int, panel: int, is_bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_units:
        monkeypatch.setattr(cpu_exact_products, "_gemm", lambda: None)
    x, weight = problem(rows, width, 40)
    if not is_bf16:
        weight += 2**-12
    wide = torch.full((40, width + 3), torch.nan)
    wide[:, :width] = weight
    expected = x.double() @ weight.double().T
    found = times(x, wide[:, :width], panel)
    assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()


@needs_units
def test_a_row_is_the_same_bytes_whatever_it_is_multiplied_with() -> None:
    for width in (576, 1600):
        x, weight = problem(1024, width, 512)
        whole = times(x, weight)
        for rows in (16, 48, 256, 1008):
            assert torch.equal(times(x[:rows], weight), whole[:rows])
        in_lane = in_lanes(lambda rows: times(rows, weight), [x[:512], x[512:]])  # noqa: B023  # called here
        assert torch.equal(torch.cat(in_lane), whole)


@needs_units
def test_one_digit_less_would_show() -> None:
    x, weight = problem(64, 512, 64)
    expected = x.double() @ weight.double().T
    two = x.bfloat16().float() + (x - x.bfloat16().float()).bfloat16().float()
    error, of_two = (
        (one.double() - expected).abs().max() for one in (times(x, weight), two.double() @ weight.double().T)
    )
    assert error * 5 < of_two


@torch.inference_mode()
def test_linears_of_a_model_within_and_without() -> None:
    torch.manual_seed(2)
    last = nn.Linear(33, 70, bias=False)
    model = nn.Sequential(nn.Linear(70, 33), nn.SiLU(), last).requires_grad_(requires_grad=False)
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16())
    x = torch.randn(2, 9, 70)
    model.double()
    expected = model(x.double())
    model.float()
    with exact_linears():
        found = model(x)
        last.weight.mul_(2.0)  # the next call must see it
        doubled = model(x)
    assert found.shape == (2, 9, 70)
    assert torch.allclose(found.double(), expected, rtol=0, atol=1e-6)
    assert torch.allclose(doubled.double(), 2 * expected, rtol=0, atol=2e-6)


def test_a_linear_whose_weight_is_not_bf16_keeps_its_bytes() -> None:
    torch.manual_seed(3)
    x, linear = torch.randn(7, 70), nn.Linear(70, 33)
    expected = linear(x)
    with exact_linears():
        assert torch.equal(linear(x), expected)
        assert torch.equal(torch.nn.functional.linear(x[:0], linear.weight), x.new_empty(0, 33))


@needs_units
def test_a_weight_that_changes_in_place_is_read_again() -> None:
    x, weight = problem(4, 32, 16)
    with torch.no_grad(), exact_linears():
        before = torch.nn.functional.linear(x, weight)
        weight.mul_(2.0)
        assert torch.equal(torch.nn.functional.linear(x, weight), 2 * before)


def test_moments_do_not_depend_on_the_type_a_head_is_stored_in() -> None:
    hidden, head = problem(40, 96, 1200)
    head *= 0.125
    targets = torch.arange(40) * 30
    stored_as_fp32 = logprob_moments(hidden, head, targets)
    streamed = StreamedMoments(hidden, targets, 1200)
    streamed.add(head[:1024].bfloat16())
    streamed.add(head[1024:])
    expected = logprob_moments_reference(hidden, head, targets)
    for one, bf16, piece, true in zip(
        stored_as_fp32, logprob_moments(hidden, head.bfloat16(), targets), streamed.finish(), expected, strict=True
    ):
        assert torch.equal(one, bf16)
        assert torch.equal(one, piece)
        assert torch.allclose(one.double(), true, rtol=2e-6, atol=2e-6)
