"""`act(x W + b)` over a table of shards that are never concatenated: forward and backward, on a CPU or a GPU.

    z = x W + b                                   W a `ShardTable`, cut into columns or rows
    y = act(z) + r                                act: none, silu, gelu (erf), gelu_tanh
    y = act(z) * (x U + c) + r                    with a second table U: SwiGLU with silu, GeGLU with gelu

Products, sums and epilogue are taken in fp32 and rounded once, to x's dtype. Sums over K run in one fixed order, so the
same input gives the same bytes on one kind of device; `docs/kernels-of-weights.md` says what they depend on. Int8
shards are dequantised tile by tile and are frozen: neither they nor their scales get a gradient.

Everything is an operator of `torch.library` with a fake kernel, so `torch.compile` and `torch.export` go through. The
forward pass keeps z and x U + c for the backward pass only where a gradient is needed.

Shape suffixes: M rows, K input columns, N output columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, Literal, Self

import torch
from torch import Tensor, nn

from kernels import cpu_sharded_linear as cpu
from kernels.activations import activated, slope
from kernels.shard_table import ShardTable, form

Activation = Literal["none", "silu", "gelu", "gelu_tanh"]

ACTIVATIONS: Final = ("none", "silu", "gelu", "gelu_tanh")
INPUT_TYPES: Final = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def sharded_linear(
    x: Tensor,
    weight: ShardTable,
    *,
    bias: Tensor | None = None,
    activation: Activation = "none",
    up: ShardTable | None = None,
    up_bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """`act(x W + b)`, times `x U + c` where a table `up` is given, plus the residual.

    Args:
        x: [..., K], fp32, bf16 or fp16 (float64 on the CPU).
        weight: W, [N, K] as shards of a float type or int8 with scales.
        bias: b, [N], of a float type.
        activation: what is applied to `x W + b`; `gelu` is exact (erf), `gelu_tanh` its approximation.
        up: U, the table of the gated factor, cut like `weight`; SwiGLU is `activation="silu"` with it.
        up_bias: c, [N].
        residual: r, [..., N], of x's dtype.

    Returns:
        [..., N] in x's dtype. A row with NaN in it is NaN throughout, other rows aren't touched by it.

    Raises:
        ValueError: a shape, dtype or device is wrong; the message names the argument.
    """
    _check(x, weight, bias, activation, up, up_bias, residual)
    columns = weight.out_features
    rows = math.prod(x.shape[:-1])
    x_MK = x.reshape(rows, weight.in_features)
    residual_MN = None if residual is None else residual.reshape(rows, columns)
    up_shards, up_scales = ([], []) if up is None else (list(up.shards), list(up.scales))
    learning = [x, *weight.shards, *up_shards, bias, up_bias]
    keep = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in learning)
    results = _forward(
        x_MK, list(weight.shards), list(weight.scales), up_shards, up_scales, bias, up_bias, residual_MN,
        weight.split, activation, keep,
    )  # fmt: skip
    out_MN: Tensor = results[0]
    return out_MN.reshape(*x.shape[:-1], columns)


class ShardedLinear(nn.Module):
    """A layer over shards as they lie, for instance mapped from files; float shards are its parameters.

    Args:
        weight: its shards become parameters without a copy, so training writes to their memory; int8 shards and all
            scales are buffers.
        bias: [N] or none.
        activation: see `sharded_linear`.
        up: the second table of a gated layer.
        up_bias: [N] or none.
    """

    bias: nn.Parameter | None
    up_bias: nn.Parameter | None

    def __init__(
        self,
        weight: ShardTable,
        *,
        bias: Tensor | None = None,
        activation: Activation = "none",
        up: ShardTable | None = None,
        up_bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        self._tables = {"weight": weight} if up is None else {"weight": weight, "up": up}
        for role, table in self._tables.items():
            for number, shard in enumerate(table.shards):
                name = f"{role}_{number}"
                if shard.dtype == torch.int8:
                    self.register_buffer(name, shard)
                    self.register_buffer(f"{role}_scale_{number}", table.scales[number])
                else:
                    self.register_parameter(name, _parameter(shard))
        self.register_parameter("bias", None if bias is None else _parameter(bias))
        self.register_parameter("up_bias", None if up_bias is None else _parameter(up_bias))
        self.activation: Activation = activation

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, sizes: Sequence[int], split: Literal["columns", "rows"] = "columns"
    ) -> Self:
        """The layer with its weight cut into pieces of these sizes; it shares the weight's memory."""
        bias = None if linear.bias is None else linear.bias.detach()
        return cls(ShardTable.cut(linear.weight.detach(), sizes, split), bias=bias)

    def table(self, role: Literal["weight", "up"] = "weight") -> ShardTable:
        """The table of the layer's present shards."""
        first = self._tables[role]
        numbers = range(len(first.shards))
        scales = tuple(getattr(self, f"{role}_scale_{number}") for number in numbers) if first.scales else ()
        return ShardTable(tuple(getattr(self, f"{role}_{number}") for number in numbers), first.split, scales)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[..., K] to [..., N], plus the residual if there is one."""
        return sharded_linear(
            x,
            self.table(),
            bias=self.bias,
            activation=self.activation,
            up=self.table("up") if "up" in self._tables else None,
            up_bias=self.up_bias,
            residual=residual,
        )


def _parameter(tensor: Tensor) -> nn.Parameter:
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor)


def _check(
    x: Tensor,
    weight: ShardTable,
    bias: Tensor | None,
    activation: str,
    up: ShardTable | None,
    up_bias: Tensor | None,
    residual: Tensor | None,
) -> None:
    width, columns = weight.in_features, weight.out_features
    if x.dim() < 1 or x.shape[-1] != width or x.dtype not in INPUT_TYPES:
        raise ValueError(f"x must be [..., {width}] of fp32, bf16, fp16 or float64, got {form(x)}")
    if x.dtype == torch.float64 and x.device.type != "cpu":
        raise ValueError(f"x may be float64 on the CPU only, got {form(x)} on {x.device}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if up_bias is not None and up is None:
        raise ValueError("up_bias needs a table up")
    if up is not None and (up.split, up.sizes, up.out_features, up.in_features) != (
        weight.split, weight.sizes, columns, width
    ):  # fmt: skip
        raise ValueError(
            f"up must be cut like weight, {weight.split} {list(weight.sizes)} of [{columns}, {width}],"
            f" got {up.split} {list(up.sizes)} of [{up.out_features}, {up.in_features}]"
        )
    for name, vector in (("bias", bias), ("up_bias", up_bias)):
        if vector is not None and (vector.shape != (columns,) or vector.dtype not in INPUT_TYPES):
            raise ValueError(f"{name} must be [{columns}] of a float type, got {form(vector)}")
    if residual is not None and (residual.shape != (*x.shape[:-1], columns) or residual.dtype != x.dtype):
        raise ValueError(f"residual must be {x.dtype} {[*x.shape[:-1], columns]}, got {form(residual)}")
    for name, part in (
        ("weight", weight), ("bias", bias), ("up", up), ("up_bias", up_bias), ("residual", residual)
    ):  # fmt: skip
        if part is not None and part.device != x.device:
            raise ValueError(f"{name} is on {part.device}, x on {x.device}")


@torch.library.custom_op("deepshard::sharded_linear", mutates_args=())
def _forward(
    x: Tensor,
    shards: Sequence[Tensor],
    scales: Sequence[Tensor],
    up_shards: Sequence[Tensor],
    up_scales: Sequence[Tensor],
    bias: Tensor | None,
    up_bias: Tensor | None,
    residual: Tensor | None,
    split: str,
    activation: str,
    keep: bool,  # noqa: FBT001  # an operator's schema knows no keywords only
) -> tuple[Tensor, Tensor, Tensor]:
    axis = 0 if split == "columns" else 1
    if x.device.type == "cuda":
        from kernels import gpu_sharded_linear as gpu  # noqa: PLC0415  # the CPU needs none

        return gpu.forward(
            x, shards, scales, up_shards, up_scales, bias, up_bias, residual, axis, activation, keep=keep
        )
    epilogue = cpu.Epilogue(bias, up_bias, activation, residual)
    up = _weight(up_shards, up_scales, axis) if up_shards else None
    return cpu.forward(x, _weight(shards, scales, axis), up, epilogue, keep=keep)


@_forward.register_fake
def _(
    x: Tensor,
    shards: Sequence[Tensor],
    scales: Sequence[Tensor],  # noqa: ARG001  # the operator's signature
    up_shards: Sequence[Tensor],
    up_scales: Sequence[Tensor],  # noqa: ARG001
    bias: Tensor | None,  # noqa: ARG001
    up_bias: Tensor | None,  # noqa: ARG001
    residual: Tensor | None,  # noqa: ARG001
    split: str,
    activation: str,
    keep: bool,  # noqa: FBT001
) -> tuple[Tensor, Tensor, Tensor]:
    columns = sum(shard.shape[0] for shard in shards) if split == "columns" else shards[0].shape[0]
    has_up = keep and bool(up_shards)
    shape = (x.shape[0], columns)
    gate = x.new_empty(shape if has_up or (keep and activation != "none") else (0,))
    return x.new_empty(shape), gate, x.new_empty(shape if has_up else (0,))


@torch.library.custom_op("deepshard::sharded_linear_input_gradient", mutates_args=())
def _input_gradient(
    dz: Tensor, shards: Sequence[Tensor], scales: Sequence[Tensor], split: str, in_features: int
) -> Tensor:
    axis = 0 if split == "columns" else 1
    if dz.device.type == "cuda":
        from kernels import gpu_sharded_linear as gpu  # noqa: PLC0415

        return gpu.input_gradient(dz, shards, scales, axis, in_features)
    return cpu.input_gradient(dz, _weight(shards, scales, axis))


@_input_gradient.register_fake
def _(
    dz: Tensor, shards: Sequence[Tensor], scales: Sequence[Tensor], split: str, in_features: int  # noqa: ARG001
) -> Tensor:  # fmt: skip
    return dz.new_empty(dz.shape[0], in_features)


@torch.library.custom_op("deepshard::sharded_linear_weight_gradient", mutates_args=())
def _weight_gradient(dz: Tensor, x: Tensor, sizes: Sequence[int], split: str) -> list[Tensor]:
    axis = 0 if split == "columns" else 1
    if dz.device.type == "cuda":
        from kernels import gpu_sharded_linear as gpu  # noqa: PLC0415

        return gpu.weight_gradient(dz, x, sizes, axis)
    return cpu.weight_gradient(dz, x, sizes, axis)


@_weight_gradient.register_fake
def _(dz: Tensor, x: Tensor, sizes: Sequence[int], split: str) -> list[Tensor]:
    return [x.new_empty((size, x.shape[1]) if split == "columns" else (dz.shape[1], size)) for size in sizes]


def _weight(shards: Sequence[Tensor], scales: Sequence[Tensor], axis: int) -> cpu.Weight:
    two = [scale[:, None] if scale.dim() == 1 else scale for scale in scales]
    return cpu.Weight(tuple(cpu.Part(shard, two[number] if two else None) for number, shard in enumerate(shards)), axis)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, shards, scales, up_shards, up_scales, bias, up_bias, _, split, activation, keep = inputs
    ctx.save_for_backward(x, output[1], output[2], *shards, *scales, *up_shards, *up_scales)
    ctx.counts = (len(shards), len(scales), len(up_shards), len(up_scales))
    ctx.bias_types = tuple(None if vector is None else vector.dtype for vector in (bias, up_bias))
    ctx.split, ctx.activation, ctx.keep = split, activation, keep
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dy: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    gradients: list[Any] = [None] * 11
    for place, count in enumerate(ctx.counts, 1):
        gradients[place] = [None] * count
    x, gate, up, *rest = ctx.saved_tensors
    tables = []
    for count in ctx.counts:
        tables.append(rest[:count])
        rest = rest[count:]
    shards, scales, up_shards, up_scales = tables
    needs_x, needs_shards, _, needs_up_shards, _, needs_bias, needs_up_bias, needs_residual, *_ = ctx.needs_input_grad
    gradients[7] = dy if needs_residual else None
    if dy is None or not ctx.keep:
        return tuple(gradients)
    dz = _gate_gradient(dy, gate, up if up_shards else None, ctx.activation)
    branches = [(dz, shards, scales, needs_shards, needs_bias, ctx.bias_types[0], (1, 5))]
    if up_shards:
        du = (_wide(dy) * activated(_wide(gate), ctx.activation)).to(dy.dtype)
        branches.append((du, up_shards, up_scales, needs_up_shards, needs_up_bias, ctx.bias_types[1], (3, 6)))
    for d, branch_shards, branch_scales, needs, needs_b, bias_type, (shards_at, bias_at) in branches:
        if needs_x:
            dx = _input_gradient(d, branch_shards, branch_scales, ctx.split, x.shape[1])
            gradients[0] = dx if gradients[0] is None else gradients[0] + dx
        if any(needs):
            sizes = [shard.shape[0 if ctx.split == "columns" else 1] for shard in branch_shards]
            found = _weight_gradient(d, x, sizes, ctx.split)
            gradients[shards_at] = [
                one.to(shard.dtype) if need else None
                for one, shard, need in zip(found, branch_shards, needs, strict=True)
            ]
        if needs_b:
            gradients[bias_at] = _wide(d).sum(0).to(bias_type)
    return tuple(gradients)


def _gate_gradient(dy: Tensor, gate: Tensor, up: Tensor | None, activation: str) -> Tensor:
    """The gradient at `x W + b`, rounded to dy's dtype."""
    if up is None and activation == "none":
        return dy
    dz = _wide(dy) if up is None else _wide(dy) * _wide(up)
    return (dz if activation == "none" else dz * slope(_wide(gate), activation)).to(dy.dtype)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


_forward.register_autograd(_backward, setup_context=_remember)
