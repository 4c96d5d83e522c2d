"""A transformers model whose decoder layers are there one at a time; the model's own code runs, none is rewritten.

The model is built on the meta device; only buffers (rotary frequencies, scales) are real. Its forward pass is cut at
its layers, by gates in the place of their `forward`. On entering, a gate notes the arguments that the model gives its
layer (masks, position embeddings, whatever they are) and hands the hidden states on unchanged; the last gate ends the
pass. Then each layer is called with what was noted, as soon as its weights are there. On leaving, the model runs again
with its gates handing on, the last one the final states, so what follows the layers (the norm) is the model's as well.

That is the model's own computation only if nothing but the hidden states goes from one layer to the next. A trial pass
with gradients shows it: whatever else depends on a layer's output would need a gradient. A model that fails is refused.

Shape suffixes: U rows of the embedding that are needed, H hidden width.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from deepshard.compute.models import BadModel, check_fit, one_line, outline, tied_names
from deepshard.shards.layout import tensor_rows
from deepshard.shards.manifest import Manifest, TensorEntry

_STATES: Final = "hidden_states"
_here = threading.local()


@dataclass(slots=True)
class Run:
    """One call of the model on its way through the layers.

    Attributes:
        inputs: arguments of the call.
        states: hidden states before the next layer.
        calls: for each layer the arguments beside them.
    """

    inputs: Mapping[str, Tensor]
    states: Tensor = field(default_factory=lambda: torch.empty(0))
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)


class NotLayered(BadModel):
    """A model whose layers can't be there one at a time."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the model can't be scored layer by layer: {why}")


class _EnteredError(Exception):
    """The last gate was reached."""


class LayeredModel:
    """The model of a directory's configuration, for weights of a manifest.

    Attributes:
        model: the transformers model; its layers' weights are on the meta device while they aren't lent.
        layers: names of each layer's tensors in the manifest.
        outer: names of the tensors outside of layers that are held for a whole pass (norms, positions).
        embedding: name of the input embedding's tensor.
        head: name of the output head's, the same where they are tied.
        unused: names of tensors that the manifest has and the model ties away.
        words: V.
        width: H.
        widest: the largest side of a layer's matrices.

    Raises:
        BadModel: the tensors don't fit the configuration.
        NotLayered: the model can't be cut at its layers.
    """

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.model = outline(directory, buffers=True).eval().requires_grad_(requires_grad=False)
        check_fit(self.model, {entry.name: entry.shape for entry in manifest.tensors})
        self._base = self.model.base_model
        stack, prefix = self._find_layers()
        self._layers = list(stack)
        stored = {entry.name: entry for entry in manifest.tensors}
        tied = tied_names(self.model)
        self._keys = [list(layer.state_dict()) for layer in self._layers]
        self.layers = [[f"{prefix}.{number}.{key}" for key in keys] for number, keys in enumerate(self._keys)]
        names = {id(module): name for name, module in self.model.named_modules()}
        self._embedding = embedding = self.model.get_input_embeddings()
        self.embedding = f"{names[id(embedding)]}.weight"
        self.head = f"{names[id(self.model.get_output_embeddings())]}.weight"
        if self.head in tied:
            self.head = self.model.all_tied_weights_keys[self.head]
        inner = {name for layer in self.layers for name in layer}
        if self.head not in stored or inner & tied or self.embedding in tied or not isinstance(embedding, nn.Embedding):
            raise NotLayered("its layers share weights, or have no plain embedding")
        apart = {*inner, *tied, self.embedding, self.head}
        self.outer = [entry.name for entry in manifest.tensors if entry.name not in apart]
        self.unused = [entry.name for entry in manifest.tensors if entry.name in tied and entry.name != self.head]
        self.words, self.width = tensor_rows(stored[self.head]), stored[self.head].shape[1]
        self.widest = max((_widest(stored[name]) for name in inner if name in stored), default=self.width)
        self._ids_U = torch.empty(0, dtype=torch.int64)
        self._to_meta()
        self._forwards = [layer.forward for layer in self._layers]
        for number, layer in enumerate(self._layers):
            layer.forward = self._gate(number)
        self._embedding.padding_idx = None  # matters to gradients alone, and is a number of a row that may not be there
        self._embed = self._embedding.forward
        self._embedding.forward = lambda ids: self._embed(torch.searchsorted(self._ids_U, ids))

    @property
    def resident(self) -> int:
        """Number of layers whose weights are there."""
        return sum(not any(one.is_meta for one in layer.parameters()) for layer in self._layers)

    def set_outer(self, ids_U: Tensor, rows_UH: Tensor, tensors: Mapping[str, Tensor]) -> None:
        """Give the embedding's rows of the token numbers (rising) that will come, and the other tensors, all fp32."""
        self.model.load_state_dict(dict(tensors), strict=False, assign=True)
        self._embedding.weight = nn.Parameter(rows_UH, requires_grad=False)
        self._ids_U = ids_U

    @contextmanager
    def lent(self, number: int, tensors: dict[str, Tensor]) -> Iterator[None]:
        """Layer `number` with these fp32 tensors; the dictionary is emptied, the weights are gone afterwards."""
        layer = self._layers[number]
        away = layer.state_dict()
        state = {key: tensors.pop(name) for key, name in zip(self._keys[number], self.layers[number], strict=True)}
        layer.load_state_dict(state, assign=True)
        del state
        try:
            yield
        finally:
            layer.load_state_dict(away, assign=True)

    def enter(self, run: Run) -> None:
        """Up to the first layer: embed, and note what the layers will be called with.

        Raises:
            NotLayered: the model doesn't go through its layers one after the other.
        """
        run.calls.clear()
        with self._visiting(run, None), _until_entered():
            self._base(**run.inputs, use_cache=False)
        if len(run.calls) != len(self._layers):
            raise NotLayered("it doesn't call its layers once each, in order")

    def step(self, number: int, run: Run) -> None:
        """Through layer `number`, whose weights are there."""
        arguments, options = run.calls[number]
        states = self._forwards[number](run.states, *arguments, **options)
        if not isinstance(states, Tensor):
            raise NotLayered(f"a layer gives {type(states).__name__}, not a tensor")
        run.states = states

    def leave(self, run: Run) -> None:
        """Through what follows the layers; the states are the model's last hidden states then."""
        with self._visiting(run, run.states):
            states: Tensor = self._base(**run.inputs, use_cache=False).last_hidden_state
        run.states = states
        run.calls.clear()

    def check_flow(self, inputs: Mapping[str, Tensor]) -> None:
        """See whether nothing but hidden states goes from layer to layer, on a small input.

        Raises:
            NotLayered: something else does.
        """
        run = Run(inputs)
        try:
            with (
                torch.inference_mode(mode=False),
                torch.enable_grad(),
                self._visiting(run, None, trial=True),
                _until_entered(),
            ):
                self._base(**inputs, use_cache=False)
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError) as error:
            raise NotLayered(f"{one_line(error)}") from error
        if any(_needs_gradient((arguments, options)) for arguments, options in run.calls):
            raise NotLayered("its layers give each other more than hidden states")

    def _find_layers(self) -> tuple[nn.ModuleList, str]:
        lists = [module for module in self._base.modules() if isinstance(module, nn.ModuleList)]
        if not lists:
            raise NotLayered("it has no list of layers")
        # Of nested ones (experts of a layer) the outermost comes first, and is the largest.
        stack = max(lists, key=lambda module: sum(one.numel() for one in module.parameters()))
        return stack, next(path for path, module in self.model.named_modules() if module is stack)

    def _to_meta(self) -> None:
        """Parameters that were made by another way than `torch.empty` (norms); buffers have to be real by now."""
        for name, module in self.model.named_modules():
            for key, parameter in module.named_parameters(recurse=False):
                if not parameter.is_meta:
                    setattr(module, key, nn.Parameter(parameter.to("meta"), requires_grad=False))
            missing = [key for key, buffer in module.named_buffers(recurse=False) if buffer.is_meta]
            missing = [key for key in missing if key in module._non_persistent_buffers_set]  # noqa: SLF001
            if missing:
                raise NotLayered(f"{name}.{missing[0]} isn't made by its constructor")

    def _gate(self, number: int) -> Any:
        last = len(self._layers) - 1

        def forward(*arguments: Any, **options: Any) -> Tensor:
            visit: tuple[Run, Tensor | None, bool] = _here.visit
            run, final, trial = visit
            states: Tensor = arguments[0] if arguments else options.pop(_STATES)
            if final is not None:
                return final if number == last else states
            if number != len(run.calls) or (number and states is not run.states):
                raise NotLayered("it does more between its layers than call them")
            run.calls.append((arguments[1:], options))
            if trial:
                states = states.detach().clone().requires_grad_()
            run.states = states
            if number == last:
                raise _EnteredError
            return states

        return forward

    @staticmethod
    @contextmanager
    def _visiting(run: Run, final: Tensor | None, *, trial: bool = False) -> Iterator[None]:
        _here.visit = run, final, trial
        try:
            yield
        finally:
            del _here.visit


@contextmanager
def _until_entered() -> Iterator[None]:
    """End quietly at the last gate."""
    try:
        yield
    except _EnteredError:
        return


def _widest(entry: TensorEntry) -> int:
    return max(entry.shape, default=1)


def _needs_gradient(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.requires_grad
    if isinstance(value, (list, tuple)):
        return any(map(_needs_gradient, value))
    return isinstance(value, dict) and any(map(_needs_gradient, value.values()))
