"""`act(x W + b)` by its definition, in float64 and over the concatenated weight."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.shard_table import ShardTable


def weight_reference(table: ShardTable) -> Tensor:
    """The whole weight, float64 [N, K], dequantised where it is int8."""
    parts = []
    for number, shard in enumerate(table.shards):
        part = shard.double()
        if table.scales:
            scale = table.scales[number].double()
            scale = scale[:, None] if scale.dim() == 1 else scale
            part *= scale.repeat_interleave(part.shape[1] // scale.shape[1], 1)
        parts.append(part)
    return torch.cat(parts, 0 if table.split == "columns" else 1)


def activation_reference(z: Tensor, activation: str) -> Tensor:
    """SiLU, GELU by the error function, or GELU by its approximation with tanh (arXiv 1606.08415)."""
    if activation == "silu":
        return z / (1 + (-z).exp())
    if activation == "gelu":
        return z * (1 + torch.erf(z / math.sqrt(2))) / 2
    if activation == "gelu_tanh":
        return z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2
    assert activation == "none"
    return z


def sharded_linear_reference(
    x: Tensor,
    weight: ShardTable,
    *,
    bias: Tensor | None = None,
    activation: str = "none",
    up: ShardTable | None = None,
    up_bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """`act(x W + b)`, times `x U + c` where `up` is given, plus the residual; float64 [..., N]."""
    out = x.double() @ weight_reference(weight).T
    if bias is not None:
        out += bias.double()
    out = activation_reference(out, activation)
    if up is not None:
        factor = x.double() @ weight_reference(up).T
        out = out * (factor if up_bias is None else factor + up_bias.double())
    return out if residual is None else out + residual.double()
