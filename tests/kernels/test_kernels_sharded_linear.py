from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kernels.reference.sharded_linear import sharded_linear_reference, weight_reference
from kernels.shard_table import ShardTable, quantised
from kernels.sharded_linear import (
    ACTIVATIONS,
    ShardedLinear,
    _forward,
    _input_gradient,
    _weight_gradient,
    sharded_linear,
)

SPLITS: tuple[Literal["columns"], Literal["rows"]] = ("columns", "rows")
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2**-8, torch.float16: 2**-10}
DTYPES = tuple(ROUNDING)


def table(
    sizes: Sequence[int],
    other: int,
    split: Literal["columns", "rows"],
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> ShardTable:
    generator = torch.Generator().manual_seed(seed + other)
    shapes = [(size, other) if split == "columns" else (other, size) for size in sizes]
    return ShardTable(tuple((torch.randn(s, generator=generator) / 4).to(dtype) for s in shapes), split)


def agrees(found: Tensor, expected: Tensor) -> bool:
    """Rounded once from sums of fp32."""
    slack = 4e-6 * float(expected.abs().max() if expected.numel() else 0.0)
    return found.shape == expected.shape and torch.allclose(
        found.double(), expected, rtol=ROUNDING[found.dtype], atol=slack + 1e-6
    )


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "sizes", "other"),
    [(1, (1, 0, 129), 5), (123, (5, 123), 129), (5, (600, 700, 1), 1), (17, (16, 1030), 123)],
)
def test_every_epilogue_agrees_with_the_float64_reference(
    split: Literal["columns", "rows"], dtype: torch.dtype, rows: int, sizes: tuple[int, ...], other: int
) -> None:
    weight, up = table(sizes, other, split, dtype), table(sizes, other, split, dtype, seed=1)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(rows, weight.in_features, generator=generator).to(dtype)
    bias = torch.randn(weight.out_features, generator=generator)
    residual = torch.randn(rows, weight.out_features, generator=generator).to(dtype)
    for activation in ACTIVATIONS:
        epilogues: list[dict[str, Any]] = [
            {"activation": activation},
            {"activation": activation, "bias": bias, "residual": residual},
            {"activation": activation, "up": up},
            {"activation": activation, "bias": bias, "up": up, "up_bias": -bias, "residual": residual},
        ]
        for epilogue in epilogues:
            found = sharded_linear(x, weight, **epilogue)
            assert found.dtype == dtype
            assert agrees(found, sharded_linear_reference(x, weight, **epilogue))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("group", [None, 3, 32])
def test_int8_shards_are_dequantised_by_row_or_by_group(split: Literal["columns", "rows"], group: int | None) -> None:
    for sizes, other in (((96, 0, 192), 192), ((96, 1056), 96)):
        weight = quantised(table(sizes, other, split), group)
        assert {shard.dtype for shard in weight.shards} == {torch.int8}
        x = torch.randn(7, weight.in_features, generator=torch.Generator().manual_seed(3))
        assert agrees(sharded_linear(x, weight), sharded_linear_reference(x, weight))
        flat = ShardTable(weight.shards, split, tuple(scale[:, 0] for scale in weight.scales))
        assert agrees(sharded_linear(x, flat), sharded_linear_reference(x, flat))


def test_quantising_errs_by_half_a_step_at_most() -> None:
    weight = table((40,), 64, "columns")
    found = quantised(weight, 16)
    step = found.scales[0].repeat_interleave(16, 1)
    assert bool(((weight_reference(found) - weight_reference(weight)).abs() <= step * 0.5001).all())
    zero = quantised(ShardTable((torch.zeros(3, 4),)))
    assert torch.equal(sharded_linear(torch.ones(2, 4), zero), torch.zeros(2, 3))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_cut_agrees_and_changes_no_byte(data: st.DataObject) -> None:
    rows, width, columns = (data.draw(st.integers(1, 70), label=name) for name in ("rows", "width", "columns"))
    generator = torch.Generator().manual_seed(width)
    weight = torch.randn(columns, width, generator=generator)
    x = torch.randn(rows, width, generator=generator)
    whole = sharded_linear(x, ShardTable((weight,)), activation="silu")
    for split, length in (("columns", columns), ("rows", width)):
        cuts = sorted(data.draw(st.lists(st.integers(0, length), max_size=5), label=split))
        sizes = [end - start for start, end in zip([0, *cuts], [*cuts, length], strict=True)]
        found = sharded_linear(x, ShardTable.cut(weight, sizes, split), activation="silu")  # type: ignore[arg-type]
        assert agrees(found, sharded_linear_reference(x, ShardTable((weight,)), activation="silu"))
        assert torch.equal(found, whole)


def test_a_rows_bytes_depend_neither_on_its_neighbours_nor_on_threads() -> None:
    weight, up = table((70, 600, 1), 1400, "columns"), table((70, 600, 1), 1400, "columns", seed=1)
    x = torch.randn(300, 1400, generator=torch.Generator().manual_seed(4))
    whole = sharded_linear(x, weight, activation="gelu", up=up)
    for rows in (1, 2, 7, 16, 100):
        assert torch.equal(sharded_linear(x[:rows], weight, activation="gelu", up=up), whole[:rows])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert torch.equal(sharded_linear(x, weight, activation="gelu", up=up), whole)
    finally:
        torch.set_num_threads(threads)


def test_cuts_of_long_sums_change_no_byte() -> None:
    generator = torch.Generator().manual_seed(4)
    weight, x = torch.randn(40, 1400, generator=generator), torch.randn(20, 1400, generator=generator)
    dz = torch.randn(20, 40, generator=generator)
    whole = ShardTable((weight,))
    for sizes in ([480, 480, 440], [1, 1399], [700, 700], [0, 640, 760]):
        rows = ShardTable.cut(weight, sizes, "rows")
        assert torch.equal(sharded_linear(x, rows), sharded_linear(x, whole))
        dx = _input_gradient(dz, list(rows.shards), [], "rows", 1400)
        assert torch.equal(dx, _input_gradient(dz, [weight], [], "columns", 1400))


def test_views_in_any_layout_give_the_same_numbers() -> None:
    weight = table((40, 24), 33, "columns")
    x = torch.randn(33, 18, generator=torch.Generator().manual_seed(5))
    expected = sharded_linear_reference(x.T, weight)
    turned = ShardTable(tuple(shard.T.contiguous().T for shard in weight.shards))
    spread = ShardTable(tuple(torch.stack([shard, shard], 2)[:, :, 0] for shard in weight.shards))
    for layout in (weight, turned, spread):
        assert agrees(sharded_linear(x.T, layout), expected)
        assert agrees(sharded_linear(torch.stack([x.T, x.T], 2)[:, :, 1], layout), expected)
    batch = x.T.reshape(3, 6, 33)
    assert torch.equal(sharded_linear(batch, weight), sharded_linear(x.T, weight).reshape(3, 6, 64))


def test_nothing_to_compute_gives_what_is_left() -> None:
    bias = torch.tensor([1.0, -2.0])
    assert sharded_linear(torch.zeros(0, 3), table((2,), 3, "columns")).shape == (0, 2)
    assert sharded_linear(torch.zeros(2, 3), table((0,), 3, "columns")).shape == (2, 0)
    for split, other in (("columns", 0), ("rows", 2)):
        nothing = table((2,) if split == "columns" else (0,), other, split)  # type: ignore[arg-type]
        assert torch.equal(sharded_linear(torch.zeros(1, 0), nothing, bias=bias), bias[None])


def test_nan_stays_in_its_row() -> None:
    x = torch.ones(3, 4)
    x[1, 2] = torch.nan
    found = sharded_linear(x, table((5, 6), 4, "columns"), activation="silu")
    assert found.isnan().any(1).tolist() == [False, True, False]
    assert bool(found[1].isnan().all())


def test_offsets_pass_two_to_the_thirty_first() -> None:
    # Two gigabytes of address space, of which only the pages of the rows that are read become memory.
    storage = torch.empty(2**31 + 64, dtype=torch.int8)
    shard = torch.as_strided(storage, (3, 16), (2**30, 1))
    shard.copy_(torch.arange(48).reshape(3, 16))
    assert int(storage[-64]) == 32
    weight = ShardTable((shard,), scales=(torch.ones(3),))
    assert torch.equal(sharded_linear(torch.ones(1, 16), weight), shard.float().sum(1)[None])


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_finite_differences(split: Literal["columns", "rows"], activation: Any) -> None:
    generator = torch.Generator().manual_seed(6)
    shapes = [(size, 4) if split == "columns" else (3, size) for size in ((2, 0, 1) if split == "columns" else (1, 3))]

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    x, bias, up_bias, residual = some(2, 4), some(3), some(3), some(2, 3)
    shards, ups = [some(*shape) for shape in shapes], [some(*shape) for shape in shapes]

    def plain(x: Tensor, bias: Tensor, residual: Tensor, *shards: Tensor) -> Tensor:
        return sharded_linear(x, ShardTable(shards, split), bias=bias, activation=activation, residual=residual)

    def gated(x: Tensor, bias: Tensor, up_bias: Tensor, *both: Tensor) -> Tensor:
        weight, up = ShardTable(both[: len(shapes)], split), ShardTable(both[len(shapes) :], split)
        return sharded_linear(x, weight, bias=bias, activation=activation, up=up, up_bias=up_bias)

    assert torch.autograd.gradcheck(plain, (x, bias, residual, *shards))
    assert torch.autograd.gradcheck(gated, (x, bias, up_bias, *shards, *ups))


@pytest.mark.parametrize("split", SPLITS)
def test_gradients_of_larger_layers_agree_with_torchs(split: Literal["columns", "rows"]) -> None:
    for rows, sizes, other in ((700, (33, 700), 40), (3, (7, 9), 1300)):
        weight = table(sizes, other, split)
        x = torch.randn(rows, weight.in_features, generator=torch.Generator().manual_seed(7)).requires_grad_()
        for shard in weight.shards:
            shard.requires_grad_()
        dy = torch.randn(rows, weight.out_features, generator=torch.Generator().manual_seed(8))
        found = torch.autograd.grad(sharded_linear(x, weight), [x, *weight.shards], dy)
        whole = torch.cat(weight.shards, 0 if split == "columns" else 1)
        expected = torch.autograd.grad((x.double() @ whole.double().T), [x, *weight.shards], dy.double())
        assert all(agrees(one, other.double()) for one, other in zip(found, expected, strict=True))


def test_int8_shards_are_frozen_and_let_gradients_through() -> None:
    weight = quantised(table((20, 30), 40, "columns"), 8)
    x = torch.randn(6, 40, generator=torch.Generator().manual_seed(9)).requires_grad_()
    (found,) = torch.autograd.grad(sharded_linear(x, weight, residual=torch.ones(6, 50)).sum(), [x])
    assert agrees(found, weight_reference(weight).sum(0).expand(6, 40))


def test_a_layer_of_mapped_shards_trains_like_the_dense_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    gate, up, down = nn.Linear(12, 20), nn.Linear(12, 20), nn.Linear(20, 12, bias=False)
    tables = {}
    for name, linear, sizes in (("gate", gate, (8, 12)), ("up", up, (8, 12)), ("down", down, (5, 5, 2))):
        shards = []
        for number, part in enumerate(torch.split(linear.weight.detach(), list(sizes))):
            path = tmp_path / f"{name}-{number}"
            path.write_bytes(part.contiguous().numpy().tobytes())
            mapped = torch.from_file(str(path), shared=False, size=part.numel(), dtype=torch.float32)
            shards.append(mapped.reshape(part.shape))
        tables[name] = ShardTable(tuple(shards))
    biases = {"bias": gate.bias.detach().clone(), "up_bias": up.bias.detach().clone()}
    first = ShardedLinear(tables["gate"], activation="silu", up=tables["up"], **biases)
    second = ShardedLinear(tables["down"])
    assert first.get_parameter("weight_0").data_ptr() == tables["gate"].shards[0].data_ptr()
    ours = torch.optim.SGD([*first.parameters(), *second.parameters()], lr=0.1)
    theirs = torch.optim.SGD([*gate.parameters(), *up.parameters(), *down.parameters()], lr=0.1)
    losses: list[tuple[float, float]] = []
    for _ in range(5):
        x = torch.randn(9, 12)
        mine = (second(first(x), residual=x) - 1).square().mean()
        dense = (x + down(nn.functional.silu(gate(x)) * up(x)) - 1).square().mean()
        for optimiser, loss in ((ours, mine), (theirs, dense)):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        losses.append((float(mine.detach()), float(dense.detach())))
    assert all(abs(one - other) < 1e-5 for one, other in losses)
    assert losses[-1][0] != losses[0][0]
    assert torch.allclose(torch.cat([*second.parameters()]), down.weight, atol=1e-5)


def test_a_layers_state_names_its_shards_and_loads_again() -> None:
    layer = ShardedLinear(quantised(table((3, 4), 5, "rows")), bias=torch.ones(5))
    assert list(layer.state_dict()) == ["bias", "weight_0", "weight_scale_0", "weight_1", "weight_scale_1"]
    other = ShardedLinear(quantised(table((3, 4), 5, "rows", seed=9)), bias=torch.zeros(5))
    other.load_state_dict(layer.state_dict())
    x = torch.ones(2, 7)
    assert torch.equal(other(x), layer(x))
    dense = nn.Linear(7, 6)
    assert torch.allclose(ShardedLinear.from_linear(dense, [3, 4], "rows")(x), dense(x), atol=1e-6)


def test_the_operators_pass_opcheck() -> None:
    for split in SPLITS:
        weight, up = table((3, 0, 5), 6, split), table((3, 0, 5), 6, split, seed=1)
        x = torch.randn(4, weight.in_features, requires_grad=True)
        shards = [shard.requires_grad_() for shard in weight.shards]
        bias = torch.randn(weight.out_features, requires_grad=True)
        residual = torch.randn(4, weight.out_features)
        torch.library.opcheck(_forward, (x, shards, [], list(up.shards), [], bias, None, residual, split, "silu", True))
        torch.library.opcheck(
            _forward, (x.detach(), list(up.shards), [], [], [], None, None, None, split, "none", False)
        )
        dz = torch.randn(4, weight.out_features)
        torch.library.opcheck(_input_gradient, (dz, list(up.shards), [], split, weight.in_features))
        torch.library.opcheck(_weight_gradient, (dz, x.detach(), list(weight.sizes), split))


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed on this platform")
def test_the_triton_kernels_agree_under_their_interpreter() -> None:
    # In a process of its own: the variable is read when Triton is imported.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("interpret_sharded_linear.py")
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["agrees"] * 6 + ["scales", "gradients", "far", "rows", "paths"]


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = ShardedLinear(
            table((7, 9), 5, "columns"), activation="silu", up=table((7, 9), 5, "columns", seed=1)
        )
        self.second = ShardedLinear(table((7, 9), 5, "rows"))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.second(self.first(x), residual=x)
        return found


def gradient(model: Pair) -> Tensor:
    found = model.first.get_parameter("weight_0").grad
    assert found is not None
    return found


def test_models_compile_and_export() -> None:
    model, x = Pair(), torch.randn(3, 5)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), model(x))
    model.zero_grad()
    compiled(x).sum().backward()
    found = gradient(model).clone()
    model.zero_grad()
    model(x).sum().backward()
    assert torch.allclose(found, gradient(model), atol=1e-6)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("rows", min=2)},))
    assert [str(node.target) for node in program.graph.nodes].count("deepshard.sharded_linear.default") == 2
    longer = torch.randn(8, 5)
    assert torch.equal(program.module()(longer), model(longer))


W, X = torch.zeros(5, 4), torch.zeros(2, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(2, 3)}, r"x must be \[\.\.\., 4\].*\[2, 3\]"),
        ({"x": torch.zeros(2, 4, dtype=torch.int64)}, r"x must be .*torch.int64 \[2, 4\]"),
        ({"x": torch.zeros(2, 4, device="meta")}, "weight is on cpu, x on meta"),
        ({"bias": torch.zeros(4)}, r"bias must be \[5\] of a float type, got torch.float32 \[4\]"),
        ({"bias": torch.zeros(5, dtype=torch.int32)}, "bias must be"),
        ({"activation": "relu"}, "activation must be one of none, silu, gelu, gelu_tanh, got 'relu'"),
        ({"residual": torch.zeros(2, 4)}, r"residual must be torch.float32 \[2, 5\], got torch.float32 \[2, 4\]"),
        ({"residual": torch.zeros(2, 5).half()}, "residual must be torch.float32"),
        ({"residual": torch.zeros(2, 5, device="meta")}, "residual is on meta, x on cpu"),
        (
            {"up": ShardTable((W[:2], W[2:]))},
            r"up must be cut like weight, columns \[5\] of \[5, 4\], got columns \[2, 3\]",
        ),
        ({"up": ShardTable((W,), "rows")}, "up must be cut like weight"),
        ({"up_bias": torch.zeros(5)}, "up_bias needs a table up"),
        ({"up": ShardTable((W,)), "up_bias": torch.zeros(6)}, r"up_bias must be \[5\]"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"x": X, "weight": ShardTable((W,)), **arguments}
    with pytest.raises(ValueError, match=message):
        sharded_linear(**given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shards": ()}, "at least one shard"),
        ({"split": "diagonal"}, "split must be 'columns' or 'rows', got 'diagonal'"),
        ({"shards": (W, torch.zeros(4))}, r"shard 1 must be a matrix .*\[4\]"),
        ({"shards": (W.to(torch.int32),)}, "shard 0 must be a matrix of a float type or int8"),
        ({"shards": (W, torch.zeros(5, 3))}, r"shard 1 must be \[N_k, 4\] like shard 0, got torch.float32 \[5, 3\]"),
        ({"shards": (W, torch.zeros(4, 4)), "split": "rows"}, r"shard 1 must be \[5, K_k\] like shard 0"),
        ({"shards": (W, W.half())}, "shard 1 must be torch.float32 like shard 0"),
        ({"shards": (W, W.to("meta"))}, "shard 1 is on meta, shard 0 on cpu"),
        ({"shards": (W, W), "starts": (0,)}, "starts must name 2 places"),
        ({"shards": (W, W), "starts": (0, 4)}, "shard 1 starts at 4, expected 5; it overlaps"),
        ({"shards": (W, W), "starts": (0, 10)}, "shard 1 starts at 10, expected 5; it leaves a gap"),
        ({"shards": (W, W), "starts": (5, 10)}, "shard 0 starts at 5, expected 0; it leaves a gap"),
        ({"shards": (W, W), "size": 15}, "shards hold 10 columns, expected 15: a shard is missing or double"),
        ({"shards": (W.to(torch.int8),)}, "scales must hold 1 tensors"),
        ({"scales": (torch.ones(5),)}, "scales must hold 0 tensors"),
        ({"shards": (W.to(torch.int8),), "scales": (torch.ones(4),)}, r"scale 0 must be float32 \[5\] or \[5, G\]"),
        ({"shards": (W.to(torch.int8),), "scales": (torch.ones(5, 3),)}, "with G a divisor of 4"),
        ({"shards": (W.to(torch.int8),), "scales": (torch.ones(5).half(),)}, "scale 0 must be float32"),
    ],
)
def test_shards_that_make_no_weight_are_refused(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"shards": (W,), **arguments}
    with pytest.raises(ValueError, match=message):
        ShardTable(**given)


def test_a_group_has_to_divide_the_columns() -> None:
    with pytest.raises(ValueError, match="group must divide the 4 columns of shard 0, got 3"):
        quantised(ShardTable((W,)), 3)
