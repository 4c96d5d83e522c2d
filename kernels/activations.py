"""SiLU and GELU and their slopes, made of functions whose bits don't depend on an element's place in the array.

torch's `silu`, `gelu` and `sigmoid` on the CPU give one result in the vector body of an array and another in its scalar
tail, so that an element's bits depend on its place and on how threads divide the work. `exp`, `erf` and `tanh` do not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_CUBE = 0.044715
_TANH_SCALE = math.sqrt(2.0 / math.pi)


def activate(z: Tensor, activation: str) -> None:
    """Replace z by its activation."""
    if activation == "silu":  # z / (1 + exp(-z))
        z /= z.neg().exp_().add_(1.0)
    elif activation == "gelu":  # z / 2 (1 + erf(z / sqrt 2))
        z *= (z * math.sqrt(0.5)).erf_().add_(1.0).mul_(0.5)
    elif activation == "gelu_tanh":  # z / 2 (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3)))
        inner = z.square().mul_(_CUBE).add_(1.0).mul_(z).mul_(_TANH_SCALE)
        z *= inner.tanh_().add_(1.0).mul_(0.5)


def activated(z: Tensor, activation: str) -> Tensor:
    """The activation of z, in z's dtype."""
    if activation == "none":
        return z
    found = z.clone()
    activate(found, activation)
    return found


def slope(z: Tensor, activation: str) -> Tensor:
    """The activation's derivative at z."""
    if activation == "silu":
        s = torch.exp(-z).add(1.0).reciprocal()
        return s * (1.0 + z * (1.0 - s))
    if activation == "gelu":
        density = torch.exp(-0.5 * z * z) * (1.0 / math.sqrt(2.0 * math.pi))
        return 0.5 * (1.0 + torch.erf(z * math.sqrt(0.5))) + z * density
    if activation == "gelu_tanh":
        square = z * z
        t = torch.tanh(_TANH_SCALE * z * (1.0 + _CUBE * square))
        return 0.5 * (1.0 + t) + 0.5 * z * (1.0 - t * t) * _TANH_SCALE * (1.0 + 3.0 * _CUBE * square)
    return torch.ones_like(z)
