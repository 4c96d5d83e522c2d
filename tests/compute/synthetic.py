"""Models without meaning, written as safetensors by hand, for tests of what moves weights."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
ITEM = {"BF16": 2, "F16": 2, "F32": 4, "I8": 1, "I64": 8, "U8": 1}

SMALL: Tensors = {
    "model.embed_tokens.weight": ("BF16", (640, 64)),
    "model.layers.0.input_layernorm.weight": ("F32", (64,)),
    "model.layers.0.mlp.down_proj.weight": ("BF16", (64, 1024)),
    "model.layers.0.mlp.up_proj.weight": ("F16", (1024, 64)),
    "model.layers.1.mlp.down_proj.weight": ("F32", (64, 1024)),
    "model.layers.1.mlp.zero": ("BF16", (3, 0)),
    "model.scale": ("F32", ()),
    "quantised": ("I8", (33, 65)),
}


def content(kind: str, shape: tuple[int, ...], seed: int) -> bytes:
    """Elements that compress as weights do; any bytes are an element of each type."""
    count = int(np.prod(shape)) if shape else 1
    values = (np.random.default_rng(seed).standard_normal(count) * 0.02).astype("<f4")
    match kind:
        case "BF16":
            return (values.view("<u4") >> 16).astype("<u2").tobytes()
        case "F16":
            return values.astype("<f2").tobytes()
        case "F32":
            return values.tobytes()
        case _:
            return np.random.default_rng(seed).bytes(count * ITEM[kind])


def write_safetensors(
    path: Path, tensors: Tensors, *, seed: int = 0, changes: Mapping[str, dict[str, object]] | None = None
) -> dict[str, bytes]:
    """Write a file and give each tensor's bytes; `changes` replace fields of a tensor's header."""
    header: dict[str, dict[str, object]] = {}
    data: dict[str, bytes] = {}
    at = 0
    for number, (name, (kind, shape)) in enumerate(tensors.items()):
        data[name] = content(kind, shape, seed + number)
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, at + len(data[name])]}
        header[name] |= (changes or {}).get(name, {})
        at += len(data[name])
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data.values()))
    return data


def write_model(directory: Path, tensors: Tensors = SMALL, *, files: int = 2, seed: int = 0) -> dict[str, bytes]:
    """Write a directory as Hugging Face lays it out, in so many files with an index."""
    directory.mkdir(parents=True)
    names = list(tensors)
    data: dict[str, bytes] = {}
    listed: dict[str, str] = {}
    for number in range(files):
        file = f"model-{number + 1:05}-of-{files:05}.safetensors"
        part = {name: tensors[name] for name in names[number::files]}
        data |= write_safetensors(directory / file, part, seed=seed + 100 * number)
        listed |= dict.fromkeys(part, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    (directory / "config.json").write_text('{ "model_type": "llama",  "torch_dtype": "float32" }\n')
    (directory / "tokenizer.json").write_text('{"version": "1.0"}')
    return data


def read_back(directory: Path) -> dict[str, bytes]:
    """Bytes of each tensor of a directory, read by the format's reference implementation."""
    from safetensors import safe_open  # noqa: PLC0415
    from torch import uint8  # noqa: PLC0415

    found: dict[str, bytes] = {}
    for path in directory.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # no mapping
                tensor = file.get_tensor(name)
                found[name] = tensor.reshape(-1).view(uint8).numpy().tobytes() if tensor.numel() else b""
    return found
