"""Import of a model from disk: `deepshard weights import` in a process of its own, beside what bounds it.

A synthetic model of the shapes of Llama 3 8B, in files of a gigabyte, of noise that compresses as weights do. Beside
the import stand, in the same run and on the same files: `cp` of them until they are synced, reading and hashing them
with BLAKE3 (all cores), and encoding alone with as many threads as cores. Files are dropped from the page cache before
each. The import reads, encodes, hashes, writes two thirds of the bytes and syncs each chunk, so it can be no faster
than the slowest of these.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
from blake3 import blake3

from deepshard.shards.codec import encode_shard

from .models import random_bf16
from .table import Row, not_measured

GB = 1_000_000_000
_NOISE_BYTES = 1 << 26
_WAIT = (
    "import os, sys; pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ); _, status, used = os.wait4(pid, 0); "
    "print(used.ru_maxrss); sys.exit(os.waitstatus_to_exitcode(status))"
)
_LAYER = {
    "input_layernorm": (4096,),
    "mlp.down_proj": (4096, 14336),
    "mlp.gate_proj": (14336, 4096),
    "mlp.up_proj": (14336, 4096),
    "post_attention_layernorm": (4096,),
    "self_attn.k_proj": (1024, 4096),
    "self_attn.o_proj": (4096, 4096),
    "self_attn.q_proj": (4096, 4096),
    "self_attn.v_proj": (1024, 4096),
}


def import_rows(quick: bool) -> list[Row]:  # noqa: FBT001  # as every row of the table
    size, runs = (GB // 2, 1) if quick else (int(float(os.environ.get("DEEPSHARD_BENCH_IMPORT_GB", "16")) * GB), 1)
    name = f"import of {size / GB:g} GB"
    with tempfile.TemporaryDirectory(prefix="deepshard-bench-", dir=os.environ.get("DEEPSHARD_BENCH_DISK")) as folder:
        needed = int(2.8 * size)
        if shutil.disk_usage(folder).free < needed:
            return [not_measured(name, "ratio", f"needs {needed / GB:.0f} GB of disk: set DEEPSHARD_BENCH_DISK")]
        model = Path(folder) / "model"
        written = make_model(model, size)
        return _measured(name, model, Path(folder), written, runs)


def make_model(directory: Path, size: int) -> int:
    """Write a model of about so many bytes; gives how many its tensors have."""
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "llama", "torch_dtype": "bfloat16"}')
    noise = np.frombuffer(random_bf16(2 * _NOISE_BYTES), np.uint8)
    listed: dict[str, str] = {}
    written = 0
    for number, tensors in enumerate(_files(size)):
        name = f"model-{number:05}.safetensors"
        header: dict[str, object] = {}
        at = 0
        for tensor, shape in tensors.items():
            length = 2 * int(np.prod(shape))
            header[tensor] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + length]}
            listed[tensor] = name
            at += length
        text = json.dumps(header).encode()
        with (directory / name).open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            left = at
            while left:
                # Every piece begins elsewhere in the noise, so that no two chunks are the same.
                start = 2 * ((written // 1009 + left // 7) % (_NOISE_BYTES // 2))
                piece = noise[start : start + min(left, _NOISE_BYTES)]
                file.write(piece.data)
                left -= len(piece)
            file.flush()
            os.fsync(file.fileno())
        written += at
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    return written


def _files(size: int) -> Iterator[dict[str, tuple[int, ...]]]:
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (min(128256, size // 4 // 8192), 4096)}
    total = filled = 2 * tensors["model.embed_tokens.weight"][0] * 4096
    layer = 0
    while total < size:
        for part, shape in _LAYER.items():
            tensors[f"model.layers.{layer}.{part}.weight"] = shape
            filled += 2 * int(np.prod(shape))
            total += 2 * int(np.prod(shape))
        layer += 1
        if filled >= GB:
            yield tensors
            tensors, filled = {}, 0
    if tensors:
        yield tensors


def _measured(name: str, model: Path, folder: Path, size: int, runs: int) -> list[Row]:
    files = sorted(model.glob("*.safetensors"))
    seconds: dict[str, list[float]] = {}
    peaks: list[float] = []
    ways: dict[str, Callable[[], None]] = {
        "cp, synced": lambda: _copy(files, folder / "copy"),
        "read and BLAKE3": lambda: _hash(files),
        "encode alone": lambda: _encode(files),
        "import": lambda: peaks.append(_import(model, folder / "store")),
    }
    for _ in range(runs):
        for way, call in ways.items():
            _forget(files)
            started = time.perf_counter()
            call()
            seconds.setdefault(way, []).append(time.perf_counter() - started)
            shutil.rmtree(folder / "copy", ignore_errors=True)
            shutil.rmtree(folder / "store", ignore_errors=True)
    speed = {way: size / median(taken) / 1e6 for way, taken in seconds.items()}
    slowest = min(speed[way] for way in ways if way != "import")
    beside: dict[str, float | str] = {f"{way} (MB/s)": value for way, value in speed.items()}
    return [
        Row(
            f"{name}: share of the slowest of cp, hash and encode",
            speed["import"] / slowest,
            "ratio",
            0.8,
            beside=beside,
        ),
        Row(f"{name}: memory of the process", max(peaks) / 1e6, "MB", 1000, at_least=False),
    ]


def _import(model: Path, store: Path) -> float:
    """Peak of resident memory, in bytes."""
    command = [sys.executable, "-m", "deepshard.cli.main", "weights", "import", str(model), "--store", str(store)]
    # A small process starts it: the peak that the system counts begins with that of whoever forks.
    done = subprocess.run([sys.executable, "-c", _WAIT, *command], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1]) * 1024.0


def _copy(files: list[Path], target: Path) -> None:
    target.mkdir()
    subprocess.run(["cp", *map(str, files), str(target)], check=True)
    for path in target.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _hash(files: list[Path]) -> None:
    hasher = blake3(max_threads=blake3.AUTO)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(1 << 24):
                hasher.update(piece)
    hasher.digest()


def _encode(files: list[Path]) -> None:
    size = 1 << 21

    def encode(place: tuple[int, int]) -> None:
        data = os.pread(place[0], size, place[1])
        data = data[: len(data) // 2 * 2]
        encode_shard(data, [("bf16", len(data))], "planes")

    for path in files:
        with path.open("rb") as file, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            places = [(file.fileno(), start) for start in range(0, path.stat().st_size, size)]
            list(pool.map(encode, places))


def _forget(files: list[Path]) -> None:
    """Drop them from the page cache."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
