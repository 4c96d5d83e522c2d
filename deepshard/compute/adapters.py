"""Factors of low rank beside a model's linear layers: what a LoRA recipe trains (arXiv 2106.09685).

A layer's output is that of its frozen weight plus `alpha / rank * (x A^T) B^T`, in fp32. B begins as zeros. The first
value of A is drawn from the round's seed, so that it is the same on every machine: element i of the row-major A is
`(2 u + 1 - 2^16) / 2^16 / sqrt(columns)`, in binary64 and then rounded to binary32, where u is the i-th u16,
little-endian, of `expand(tagged_hash("lora factor", order_seed, name), "lora draws", ...)` and `name` is that of the
weight; uniform, of the deviation that `torch.nn.Linear` begins with.

At the end `alpha / rank` goes into B, both are rounded to bf16, and `shards.factors` says how they are merged.

Shape suffixes: R rank, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepshard.errors import LocalError
from deepshard.ledger.params import LoraRecipe
from deepshard.primitives import expand, tagged_hash
from deepshard.shards.factors import Factors, round_factors
from deepshard.shards.partition import layer_of
from deepshard.shards.rounding import Floats

_WEIGHT = ".weight"


class NoSuchLayers(LocalError):
    """A recipe that names no linear layer of the model."""


class Adapters:
    """Factors of the layers that a recipe names, as trainable parameters that the model's forward pass uses.

    `parameters` are A and B by name of their weight: `NAME.lora_a` of [R, I] and `NAME.lora_b` of [O, R].
    """

    def __init__(self, model: Any, recipe: LoraRecipe, names: Sequence[str], order_seed: bytes) -> None:
        """Set up, with the model frozen.

        Args:
            names: tensors of the model as they are stored.
            order_seed: the round's.

        Raises:
            NoSuchLayers: the recipe names something that isn't a linear layer inside the model, or nothing.
        """
        model.requires_grad_(requires_grad=False)
        self._scale = recipe.alpha / recipe.rank
        self._names = _targets(model, recipe, names)
        self.parameters: dict[str, Tensor] = {}
        for name in self._names:
            linear = model.get_submodule(name.removesuffix(_WEIGHT))
            rows, columns = linear.weight.shape
            a_RI = torch.nn.Parameter(torch.from_numpy(first_factor(order_seed, name, recipe.rank, columns)))
            b_OR = torch.nn.Parameter(torch.zeros(rows, recipe.rank))
            self.parameters |= {f"{name}.lora_a": a_RI, f"{name}.lora_b": b_OR}
            linear.register_forward_hook(_added(a_RI, b_OR, self._scale))

    def factors(self) -> dict[str, Factors]:
        """Factors by name of their tensor, scaled and rounded to bf16.

        Raises:
            LocalError: one isn't finite.
        """
        found: dict[str, Factors] = {}
        for name in self._names:
            a_RI, b_OR = (self.parameters[f"{name}.lora_{which}"].detach() for which in "ab")
            factors = round_factors((b_OR * self._scale).numpy(), a_RI.numpy())
            if not all(np.isfinite(part).all() for part in factors):
                raise LocalError(f"the factors of {name} are not finite")
            found[name] = factors
        return found


def first_factor(order_seed: bytes, name: str, rank: int, columns: int) -> Floats:
    """What A [rank, columns] of the weight `name` begins as."""
    drawn = expand(tagged_hash("lora factor", order_seed, name.encode()), "lora draws", 2 * rank * columns)
    odd = 2 * np.frombuffer(drawn, "<u2").astype(np.float64) + 1 - 65_536
    first: Floats = (odd / 65_536 / np.sqrt(np.float64(columns))).astype(np.float32).reshape(rank, columns)
    return first


def _targets(model: Any, recipe: LoraRecipe, names: Sequence[str]) -> list[str]:
    modules = dict(model.named_modules())
    head = model.get_output_embeddings()
    linear = {
        name: name.removesuffix(_WEIGHT)
        for name in names
        if name.endswith(_WEIGHT)
        and isinstance(modules.get(name.removesuffix(_WEIGHT)), torch.nn.Linear)
        and modules[name.removesuffix(_WEIGHT)] is not head
    }
    if not recipe.layers:
        chosen = [name for name in linear if layer_of(name) is not None]
    else:
        unknown = [last for last in recipe.layers if not any(_ends(layer, last) for layer in linear.values())]
        if unknown:
            raise NoSuchLayers(f"the recipe's layer {unknown[0]} is the name of no linear layer inside the model")
        chosen = [name for name, layer in linear.items() if any(_ends(layer, last) for last in recipe.layers)]
    if not chosen:
        raise NoSuchLayers("the model has no linear layers that a LoRA recipe could train")
    return sorted(chosen)


def _ends(layer: str, last: str) -> bool:
    return layer == last or layer.endswith("." + last)


def _added(a_RI: Tensor, b_OR: Tensor, scale: float) -> Any:
    def hook(_module: Any, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + scale * ((given[0] @ a_RI.T) @ b_OR.T)

    return hook
