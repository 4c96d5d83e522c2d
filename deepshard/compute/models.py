"""A transformers model and tokenizer out of a manifest's files and a state dict; no remote code."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.initialization import no_init_weights

from deepshard.compute.model_files import FILE_BYTES_MAX, KEPT_FILES
from deepshard.compute.store import BlobStore
from deepshard.errors import LocalError
from deepshard.shards.manifest import Manifest


class BadModel(LocalError):
    """A model whose files or tensors don't make a causal language model that can be scored."""


@contextmanager
def model_directory(manifest: Manifest, store: BlobStore) -> Iterator[Path]:
    """A temporary directory with the manifest's model files.

    Raises:
        BadModel: no config.json, or a file longer or shorter than stated.
        LocalError: a part is missing or corrupt.
    """
    with tempfile.TemporaryDirectory(prefix="deepshard-model-") as name:
        directory = Path(name)
        for entry in manifest.files:
            if entry.name not in KEPT_FILES:
                continue
            if entry.size > FILE_BYTES_MAX:
                raise BadModel(f"model file {entry.name} is {entry.size} bytes, the limit is {FILE_BYTES_MAX}")
            written = 0
            with (directory / entry.name).open("wb") as file:
                for part in entry.parts:
                    data = store.get(part, f"part of {entry.name}")
                    written += len(data)
                    if written > entry.size:
                        break
                    file.write(data)
            if written != entry.size:
                raise BadModel(f"model file {entry.name} is not the stated {entry.size} bytes long")
        if not (directory / "config.json").is_file():
            raise BadModel("the manifest holds no config.json")
        yield directory


def build_model(directory: Path, tensors: Mapping[str, Tensor]) -> Any:
    """The model that `directory`/config.json describes, with `tensors` upcast to fp32, in evaluation mode.

    Parameters are assigned, never initialised, so memory is that of the fp32 weights; buffers (rotary frequencies) are
    computed by the model's own constructor.

    Raises:
        BadModel: the configuration isn't that of a causal language model, or the tensors don't fit it.
    """
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
        with no_init_weights():
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
        check_fit(model, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False, assign=True)
        model.tie_weights()
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
        raise BadModel(f"cannot build the model from its config.json: {one_line(error)}") from error
    _check_head(model)
    return model.eval().requires_grad_(requires_grad=False)


def check_fit(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Hold the tensors that there are, by name and shape, against those that the model has.

    Raises:
        BadModel: one is missing, has another shape, or isn't the model's.
    """
    expected = model.state_dict()
    tied = tied_names(model)
    wrong = [name for name, shape in shapes.items() if name not in expected or tuple(expected[name].shape) != shape]
    missing = [name for name in expected if name not in shapes and name not in tied]
    if wrong or missing:
        raise BadModel(
            f"tensors don't fit config.json: {len(wrong)} wrong, {len(missing)} missing, such as {(wrong + missing)[0]}"
        )


def outline(directory: Path, *, buffers: bool = False, **options: Any) -> Any:
    """The model that a directory's configuration describes, on the meta device: names and shapes without memory.

    Args:
        directory: holds config.json.
        buffers: whether to have the model's buffers (rotary frequencies, scales), as its constructor computes them.
        options: for transformers, such as the GGUF file that the configuration is in.

    Raises:
        BadModel: it isn't the configuration of a causal language model that can be scored.
    """
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True, **options)
        place = _ParametersOnMeta() if buffers else torch.device("meta")
        with place, no_init_weights():
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError, NotImplementedError) as error:
        raise BadModel(f"cannot build the model from its config.json: {one_line(error)}") from error
    _check_head(model)
    return model


class _ParametersOnMeta(TorchFunctionMode):
    """Large parameters are made by `torch.empty`, and go to the meta device; what is computed lies where it would."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer of a model directory; needs the `tokenizers` form of it.

    Raises:
        BadModel: there is none that can be read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
        raise BadModel(f"cannot read the tokenizer: {one_line(error)}") from error
    if not tokenizer.is_fast:
        raise BadModel("the model's tokenizer has no tokenizer.json, which is the form that can be used here")
    return tokenizer


def tied_names(model: Any) -> frozenset[str]:
    """Names in the state dict that repeat another tensor (a head tied to the embedding)."""
    if not getattr(model.config.get_text_config(), "tie_word_embeddings", False):
        return frozenset()
    return frozenset(model.all_tied_weights_keys or ())


def hidden_states(model: Any, numbers_BT: Tensor) -> Tensor:
    """Last hidden states [B, T, H], after the final norm, without a cache."""
    states: Tensor = model.base_model(input_ids=numbers_BT, use_cache=False).last_hidden_state
    return states


def head_weight(model: Any) -> Tensor:
    """Output head [V, H]."""
    weight: Tensor = model.get_output_embeddings().weight
    return weight


def one_line(error: BaseException) -> str:
    """First line of an error's text, or its type's name."""
    text = str(error).strip()
    return text.splitlines()[0][:400] if text else type(error).__name__


def _check_head(model: Any) -> None:
    head = model.get_output_embeddings()
    config = model.config.get_text_config()
    if head is None or getattr(head, "bias", None) is not None:
        raise BadModel("the model has no plain output head without bias, which scoring and training rely on")
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, name, None) not in {None, 1.0}:
            raise BadModel(f"the model changes its logits after the head ({name}), which scoring does not follow")
