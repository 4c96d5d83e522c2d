"""Rows of layer-streamed scoring: a model of four times the memory that its process may have, and equal numbers.

The process scores under RLIMIT_DATA, which counts its heap and anonymous maps, those of Python and torch among them.
How fast it may be is bounded by the machine: by what the same probes take with the model in memory, or by what reading
and decoding the same chunks takes and nothing else, whichever is more. Chunks are put out of the page cache first. On
few cores a decoder that has something to do takes time from the products, so both bounds can't be reached at once.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import torch
from transformers import LlamaConfig

from bench.wire.rows import Row
from deepshard.compute.importing import import_model
from deepshard.compute.jobs import ImportModel, ModelRef, Profile, ProfileResult, ScoringPath, TextScore
from deepshard.compute.lineage import decode_in, lineage_of
from deepshard.compute.models import build_model, model_directory
from deepshard.compute.pieces import ShardReader
from deepshard.compute.pool import in_threads
from deepshard.compute.probing import Scorer, Sequences
from deepshard.compute.scoring import profile
from deepshard.compute.store import BlobStore
from deepshard.compute.streamed import StreamedScorer
from deepshard.compute.tiny import corpus
from deepshard.compute.weights import load_weights, read_manifest, store_model
from deepshard.ledger.params import ProbePlan
from deepshard.limits import MIB
from deepshard.shards.manifest import Manifest
from deepshard.shards.rules import manifest_digest

from .scoring import probe_set
from .timing import resident, seconds_of

SEED = bytes(range(32))


@dataclass(frozen=True, slots=True)
class Size:
    """A model of random weights, probes, and the limit of the process."""

    hidden: int
    inner: int
    layers: int
    words: int
    probes: int
    tokens: int
    limit_bytes: int


FULL = Size(hidden=768, inner=2048, layers=180, words=8192, probes=4, tokens=64, limit_bytes=608 * MIB)
QUICK = Size(hidden=32, inner=48, layers=4, words=600, probes=2, tokens=8, limit_bytes=0)
PERTURBATIONS = 3


def probes_of(size: Size) -> list[Sequences]:
    return probe_set(size.probes, size.tokens, size.tokens, PERTURBATIONS, size.words)


def store_random(size: Size, store: BlobStore) -> ModelRef:
    """A Llama in bf16; each layer is another rotation of the same weights, so no chunk is there twice."""
    config = LlamaConfig(
        vocab_size=size.words,
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=max(1, size.hidden // 64),
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    generator = torch.Generator().manual_seed(3)
    wide, high = (size.inner, size.hidden), (size.hidden, size.inner)
    square = (size.hidden, size.hidden)
    shapes = {f"self_attn.{one}_proj": square for one in "qkvo"}
    shapes |= {"mlp.gate_proj": wide, "mlp.up_proj": wide, "mlp.down_proj": high}
    drawn = {name: torch.randn(shape, generator=generator).mul_(0.02).bfloat16() for name, shape in shapes.items()}
    tensors = {"model.norm.weight": torch.ones(size.hidden, dtype=torch.bfloat16)}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.randn((size.words, size.hidden), generator=generator).mul_(0.02).bfloat16()
    for layer in range(size.layers):
        prefix = f"model.layers.{layer}"
        tensors |= {f"{prefix}.{name}.weight": tensor.roll(97 * layer) for name, tensor in drawn.items()}
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{name}.weight"] = torch.ones(size.hidden, dtype=torch.bfloat16)
    manifest, _ = store_model(tensors, {"config.json": config.to_json_string().encode()}, store, lambda _: None)
    return ModelRef(manifest=manifest_digest(manifest), store=str(store.root))


def put_out_of_cache(manifest: Manifest, store: BlobStore) -> None:
    """So that chunks come from the disk (a hint, which Linux follows for clean pages)."""
    for shard in manifest.shards:
        descriptor = os.open(store.path(shard.chunk), os.O_RDONLY)
        try:
            os.fsync(descriptor)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def decode_all(manifest: Manifest, store: BlobStore) -> None:
    """Read, decode and verify every chunk once, and nothing else."""
    lineage = lineage_of(manifest, store)
    for _ in in_threads(lambda number: decode_in(lineage, number, store), range(len(manifest.shards)), 2):
        pass


def score_streamed(ref: ModelRef, size: Size) -> dict[str, Any]:
    """Score with a model that is read layer by layer; under the limit, where there is one."""
    manifest, store = read_manifest(ref), BlobStore(ref.store)
    probes = probes_of(size)
    room = 1 << 30
    if size.limit_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (size.limit_bytes, size.limit_bytes))
        room = size.limit_bytes - memory("VmData")
    with model_directory(manifest, store) as directory:
        scorer = StreamedScorer(directory, ShardReader(manifest, store), room)
        put_out_of_cache(manifest, store)
        started = time.perf_counter()
        scores = scorer.scores(probes, lambda _: None, "score")
        seconds = time.perf_counter() - started
    numbers = [msgspec.structs.astuple(score) for score in scores]
    return {"seconds": seconds, "scores": numbers, "path": scorer.path, "peak": memory("VmHWM")}


def memory(name: str) -> int:
    """Bytes of a line of the process's status; 0 where the system has none (other than Linux)."""
    status = Path("/proc/self/status")
    return resident(status.read_text(), name) if status.exists() else 0


def in_a_limited_process(ref: ModelRef, size: Size) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.kernels.streaming", ref.manifest.hex(), ref.store]
    command += [str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"scoring under a limit of {size.limit_bytes / MIB:.0f} MiB failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def streaming_rows(*, quick: bool) -> list[Row]:
    size = QUICK if quick else FULL
    with tempfile.TemporaryDirectory() as name:
        store = BlobStore(name)
        ref = store_random(size, store)
        manifest = read_manifest(ref)
        weight_bytes = sum(shard.decoded_bytes for shard in manifest.shards)
        found = score_streamed(ref, size) if quick else in_a_limited_process(ref, size)
        put_out_of_cache(manifest, store)
        decoding = seconds_of(lambda: decode_all(manifest, store))
        weights = load_weights(ref, lambda _: None)
        with model_directory(manifest, store) as directory:
            scorer = Scorer(build_model(directory, weights.tensors))
        del weights
        scores: list[TextScore] = []
        computing = seconds_of(lambda: scores.extend(scorer.scores(probes_of(size))))
    expected = [list(msgspec.structs.astuple(score)) for score in scores]
    apart = differences([list(numbers) for numbers in found["scores"]], expected)
    title = f"layer-streamed, {weight_bytes / 1e6:,.0f} MB of weights"
    limit = size.limit_bytes or weight_bytes
    beside = {
        "in memory (s)": computing,
        "reading and decoding alone (s)": decoding,
        "layer-streamed (s)": found["seconds"],
        "limit (MB)": limit / 1e6,
        "most resident at a time (MB)": found["peak"] / 1e6,
    }
    slower = max(computing, decoding) / found["seconds"]
    return [
        Row(f"{title} / limit of the process", weight_bytes / limit, "ratio", 4.0, at_least=True),
        Row(f"{title}: speed / the slower of disk and products", slower, "ratio", 0.7, at_least=True, beside=beside),
        Row("layer-streamed: numbers that differ from those in memory", apart, "", 1, at_least=False),
        *([] if quick else [identity_row()]),
    ]


def differences(one: list[list[float]], other: list[list[float]]) -> int:
    pairs = zip(chain.from_iterable(one), chain.from_iterable(other), strict=True)
    return sum(left != right for left, right in pairs)


def identity_row() -> Row:
    """A profile of a submission to SmolLM2-135M, a delta of it, both ways."""
    with tempfile.TemporaryDirectory() as name:
        imported = import_model(ImportModel(source="smollm2", store=name), lambda _: None)
        base = ModelRef(manifest=imported.manifest, store=name)
        weights = load_weights(base, lambda _: None)
        changed = {key: tensor.clone() for key, tensor in weights.tensors.items()}
        for tensor in changed.values():
            tensor.view(-1)[::3] *= 1.01
        manifest, _ = store_model(changed, weights.manifest.files, BlobStore(name), lambda _: None, base=weights)
        del weights, changed
        job = Profile(
            base=base,
            submissions=(ModelRef(manifest=manifest_digest(manifest), store=name),),
            probes=tuple(corpus()[:4]),
            plan=ProbePlan(4, 0, 0, 0, 3, 64, 1500, 2),
            seed=SEED,
        )
        resident_way, streamed_way = (numbers_of(job, way) for way in ("resident", "streamed"))
    beside = {"numbers": float(len(resident_way))}
    apart = differences([resident_way], [streamed_way])
    return Row("layer-streamed: differences of a SmolLM2 profile", apart, "", 1, at_least=False, beside=beside)


def numbers_of(job: Profile, way: ScoringPath) -> list[float]:
    """Every number of a profile's result."""
    result: ProfileResult = profile(msgspec.structs.replace(job, scoring=way), lambda _: None)
    (submission,) = result.submissions
    if submission.error:
        raise SystemExit(submission.error)
    scores = [number for score in (*result.base, *submission.profile) for number in msgspec.structs.astuple(score)]
    return [*scores, *submission.sketch]


def main() -> None:
    parser = argparse.ArgumentParser(description="Score under a limit, for `python -m bench.kernels cpu`.")
    parser.add_argument("manifest", type=bytes.fromhex)
    parser.add_argument("store")
    parser.add_argument("threads", type=int)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print(json.dumps(score_streamed(ModelRef(manifest=chosen.manifest, store=chosen.store), FULL)))


if __name__ == "__main__":
    main()
