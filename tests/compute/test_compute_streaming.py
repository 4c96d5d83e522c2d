"""Import and export without the model in memory: what goes in comes out, and what was done isn't done again."""

from __future__ import annotations

import json
import resource
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import torch
import zstandard
from synthetic import SMALL, read_back, write_model
from transformers import AutoModelForCausalLM

from deepshard.compute.catalog import Note, add_note, find_manifest, notes
from deepshard.compute.exporting import export_model
from deepshard.compute.jobs import ImportResult, ModelRef
from deepshard.compute.models import build_model, load_tokenizer, model_directory
from deepshard.compute.sources import Source, open_safetensors
from deepshard.compute.store import BlobStore
from deepshard.compute.streaming import Imported, import_source
from deepshard.compute.tokens import encode_text
from deepshard.compute.verifying import verify_model
from deepshard.compute.weights import load_weights, store_model
from deepshard.encoding import encode
from deepshard.errors import LocalError, RemoteError, UsageError
from deepshard.shards.errors import CorruptChunk
from deepshard.shards.manifest import FileEntry, Manifest, TensorEntry
from deepshard.shards.rules import manifest_digest, weights_root


def quiet(*_: object) -> None:
    pass


def imported(directory: Path, store: BlobStore) -> Imported:
    source = open_safetensors(directory)
    try:
        return import_source(source, store, quiet)
    finally:
        source.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_model(tmp_path / "model")
    return tmp_path / "model"


class Breaking(BlobStore):
    """A store whose disk is full after some chunks."""

    def __init__(self, root: Path, left: int) -> None:
        super().__init__(root)
        self.left = left

    def put(self, data: bytes | memoryview, *, digest: bytes | None = None, verify: bool = False) -> bytes:
        if self.left == 0:
            raise LocalError("cannot write to the store: the disk is full")
        self.left -= 1
        return super().put(data, digest=digest, verify=verify)


def journals(store: BlobStore) -> list[Path]:
    return list((store.root / "imports").glob("*.journal"))


def test_every_tensor_and_file_comes_out_byte_for_byte(tmp_path: Path) -> None:
    data = write_model(tmp_path / "model")
    store = BlobStore(tmp_path / "chunks")
    made = imported(tmp_path / "model", store)
    assert (made.decoded_bytes, made.resumed_bytes) == (sum(map(len, data.values())), 0)
    assert any(part.column_count for shard in made.manifest.shards for part in shard.slices)
    for file_bytes in (10**9, 50_000):
        out = tmp_path / f"out-{file_bytes}"
        export_model(made.manifest, store, out, quiet, file_bytes=file_bytes)
        assert read_back(out) == data
        for name in ("config.json", "tokenizer.json"):
            assert (out / name).read_bytes() == (tmp_path / "model" / name).read_bytes()
        again = imported(out, BlobStore(tmp_path / f"again-{file_bytes}"))
        assert manifest_digest(again.manifest) == manifest_digest(made.manifest)
    index = json.loads((tmp_path / "out-50000" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == SMALL.keys()
    assert index["metadata"]["total_size"] == made.decoded_bytes
    assert not [path for path in out.iterdir() if path.name.startswith(".") or path.name.endswith(".part")]


def test_loading_what_was_streamed_gives_the_same_tensors(model: Path, tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "chunks")
    made = imported(model, store)
    data = read_back(model)
    weights = load_weights(ModelRef(manifest=manifest_digest(made.manifest), store=str(store.root)), quiet)
    found = {name: tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for name, tensor in weights.tensors.items()}
    assert found == data


def test_the_exported_model_opens_in_transformers_with_the_same_logits(
    tiny: ModelRef, tiny_import: tuple[ImportResult, Path], tmp_path: Path
) -> None:
    weights, store = load_weights(tiny, quiet), BlobStore(tiny.store)
    export_model(weights.manifest, store, tmp_path / "out", quiet)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, local_files_only=True).eval()
    with model_directory(weights.manifest, store) as directory:
        ours, tokenizer = build_model(directory, weights.tensors), load_tokenizer(directory)
    numbers = torch.tensor([encode_text(tokenizer, "The river begins as a spring under a stone.", 64)])
    with torch.no_grad():
        assert torch.equal(ours(input_ids=numbers).logits, plain(input_ids=numbers).logits)
    again = imported(tmp_path / "out", BlobStore(tmp_path / "chunks"))
    assert again.manifest.weights_root == tiny_import[0].weights_root


@pytest.mark.parametrize("done", [1, 7])
def test_an_import_goes_on_after_the_last_chunk_that_was_stored(done: int, model: Path, tmp_path: Path) -> None:
    whole = imported(model, BlobStore(tmp_path / "whole")).manifest
    store = Breaking(tmp_path / "chunks", done)
    with pytest.raises(LocalError, match="the disk is full"):
        imported(model, store)
    store.left = -1
    made = imported(model, store)
    assert 0 < made.resumed_bytes < made.decoded_bytes
    assert made.manifest == whole
    assert journals(store) == []
    assert verify_model(whole, store, quiet) == []


def test_a_journal_is_believed_only_where_its_chunks_are_whole(model: Path, tmp_path: Path) -> None:
    store = Breaking(tmp_path / "chunks", 9)
    with pytest.raises(LocalError):
        imported(model, store)
    (journal,) = journals(store)
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-3])  # the last record is torn
    chunks = sorted(path for path in store.root.glob("??/*"))
    chunks[0].write_bytes(chunks[0].read_bytes()[:-1] + b"!")
    chunks[1].unlink()
    store.left = -1
    made = imported(model, store)
    assert made.resumed_bytes > 0
    assert verify_model(made.manifest, store, quiet) == []
    assert made.manifest == imported(model, BlobStore(tmp_path / "whole")).manifest


def test_a_source_that_changed_is_imported_anew(model: Path, tmp_path: Path) -> None:
    store = Breaking(tmp_path / "chunks", 9)
    with pytest.raises(LocalError):
        imported(model, store)
    other = tmp_path / "other"
    data = write_model(other, seed=7)
    store.left = -1
    made = imported(other, store)
    export_model(made.manifest, store, tmp_path / "out", quiet)
    assert read_back(tmp_path / "out") == data


def test_importing_again_mends_what_was_flipped_at_rest(model: Path, tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "chunks")
    manifest = imported(model, store).manifest
    flipped, absent = manifest.shards[0].chunk, manifest.shards[3].chunk
    data = store.path(flipped).read_bytes()
    store.path(flipped).write_bytes(bytes([data[0] ^ 1]) + data[1:])
    store.path(absent).unlink()
    store.path(manifest.files[0].parts[0]).write_bytes(b"{}")
    faults = verify_model(manifest, store, quiet)
    assert [fault.what.split("[")[0] for fault in faults] == ["model.embed_tokens.weight"] * 2 + ["config.json"]
    assert "does not have the content" in faults[0].reason
    assert "is not in the store" in faults[1].reason
    with pytest.raises(LocalError, match=r"does not have the content|is not in the store"):
        export_model(manifest, store, tmp_path / "out", quiet)
    assert imported(model, store).manifest == manifest
    assert verify_model(manifest, store, quiet) == []
    export_model(manifest, store, tmp_path / "out", quiet)  # goes on
    assert read_back(tmp_path / "out") == read_back(model)


def _grown(manifest: Manifest, store: BlobStore, model: Path) -> Manifest:
    """A child of a version, of which some tensors changed a little."""
    base = load_weights(ModelRef(manifest=manifest_digest(manifest), store=str(store.root)), quiet)
    changed = {name: tensor.clone() for name, tensor in base.tensors.items()}
    for name in ("model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.up_proj.weight"):
        changed[name].reshape(-1)[::7] *= 1.01
    child, _ = store_model(changed, manifest.files, store, quiet, base=base, depth=1)
    return child


def test_a_version_of_deltas_is_exported_whole(model: Path, tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "chunks")
    child = _grown(imported(model, store).manifest, store, model)
    assert {shard.codec for shard in child.shards} == {"planes", "xor-planes"}
    export_model(child, store, tmp_path / "out", quiet)
    weights = load_weights(ModelRef(manifest=manifest_digest(child), store=str(store.root)), quiet)
    assert read_back(tmp_path / "out") == {
        name: tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for name, tensor in weights.tensors.items()
    }


def test_an_export_goes_on_where_it_was_and_writes_over_what_is_not_right(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, out = BlobStore(tmp_path / "chunks"), tmp_path / "out"
    manifest = imported(model, store).manifest
    monkeypatch.setattr("deepshard.compute.exporting._BATCH_BYTES", 1)
    broken = store.path(manifest.shards[-1].chunk)
    data = broken.read_bytes()
    broken.unlink()
    with pytest.raises(LocalError, match="is not in the store"):
        export_model(manifest, store, out, quiet)
    assert not (out / "model.safetensors").exists()
    assert not (out / "config.json").exists()
    part = out / "model.safetensors.part"
    with part.open("r+b") as file:
        file.seek(part.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    broken.write_bytes(data)
    done = export_model(manifest, store, out, quiet)
    assert 0 < done.resumed_bytes < done.tensor_bytes
    assert read_back(out) == read_back(model)


def test_an_export_never_touches_a_folder_of_something_else(model: Path, tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "chunks")
    manifest = imported(model, store).manifest
    with pytest.raises(UsageError, match="is not empty"):
        export_model(manifest, store, model, quiet)
    assert read_back(model)
    out = tmp_path / "out"
    out.mkdir()
    (out / ".deepshard-export").write_text("ab" * 32)
    with pytest.raises(UsageError, match="unfinished export of manifest abababab"):
        export_model(manifest, store, out, quiet)


@contextmanager
def _files_up_to(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_more_is_one_clear_line(model: Path, tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "chunks")
    manifest = imported(model, store).manifest
    with _files_up_to(1000), pytest.raises(LocalError, match="the disk is full: free some space and go on"):
        imported(model, BlobStore(tmp_path / "small"))
    with _files_up_to(100_000), pytest.raises(LocalError, match="the disk is full: free some space and go on"):
        export_model(manifest, store, tmp_path / "out", quiet)
    made = imported(model, BlobStore(tmp_path / "small"))
    assert made.manifest == manifest
    assert list((tmp_path / "small" / "tmp").iterdir()) == []
    assert (tmp_path / "out" / "model.safetensors.part").stat().st_size == 0
    export_model(manifest, store, tmp_path / "out", quiet)
    assert read_back(tmp_path / "out") == read_back(model)


def test_a_file_without_tensors_is_a_model_of_none(tmp_path: Path) -> None:
    source: Source = open_safetensors(_empty(tmp_path))
    manifest = import_source(source, BlobStore(tmp_path / "chunks"), quiet).manifest
    assert (manifest.tensors, manifest.shards) == ((), ())


def _empty(folder: Path) -> Path:
    path = folder / "empty.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    return path


def _with(manifest: Manifest, **changes: object) -> Manifest:
    changed: Manifest = msgspec.structs.replace(manifest, **changes)
    return msgspec.structs.replace(changed, weights_root=weights_root(changed.tensors, changed.shards))


def _with_shard(manifest: Manifest, number: int, **changes: object) -> Manifest:
    shards = list(manifest.shards)
    shards[number] = msgspec.structs.replace(shards[number], **changes)
    return _with(manifest, shards=tuple(shards))


def _bad_manifests(good: Manifest) -> dict[str, Manifest]:
    first = good.tensors[0]
    return {
        "overlapping": _with_shard(good, 1, slices=good.shards[0].slices),
        "missing": _with(good, shards=good.shards[:-1]),
        "absurd": _with(good, tensors=(TensorEntry(first.name, "f32", (2**31 - 1,) * 4), *good.tensors[1:])),
        "path": _with(good, tensors=(TensorEntry("../../evil", first.dtype, first.shape), *good.tensors[1:])),
        "file path": _with(good, files=(FileEntry("../evil", 0, ()),)),
        "root": msgspec.structs.replace(good, weights_root=bytes(32)),
    }


@pytest.mark.parametrize("kind", ["overlapping", "missing", "absurd", "path", "file path", "root"])
def test_a_manifest_that_breaks_a_rule_is_refused_before_anything_is_read_or_written(
    kind: str, model: Path, tmp_path: Path
) -> None:
    store = BlobStore(tmp_path / "chunks")
    bad = _bad_manifests(imported(model, store).manifest)[kind]
    digest = store.put(encode(bad))
    with pytest.raises(RemoteError) as caught:
        find_manifest(store, digest.hex())
    assert "\n" not in str(caught.value)


def test_a_chunk_that_is_a_bomb_is_refused_by_what_it_declares(model: Path, tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "chunks")
    good = imported(model, store).manifest
    frame = zstandard.ZstdCompressor().compress(bytes(1 << 26))
    size = good.shards[0].decoded_bytes // 2
    bomb = struct.pack("<B2I", 1, len(frame) | 1 << 31, size) + frame + bytes(size)
    bad = _with_shard(good, 0, chunk=store.put(bomb), chunk_bytes=len(bomb))
    store.put(encode(bad))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (fault,) = verify_model(bad, store, quiet)
    assert fault.what.startswith("model.embed_tokens.weight[0:")
    assert "declares 67108864 bytes" in fault.reason
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # kilobytes
    with pytest.raises(CorruptChunk, match="declares 67108864 bytes"):
        export_model(bad, store, tmp_path / "out", quiet)


def test_versions_are_found_by_the_beginning_of_their_address(model: Path, tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "chunks")
    digest = manifest_digest(imported(model, store).manifest)
    add_note(store, Note(digest.hex(), "model", 2.0))
    add_note(store, Note("00" * 32, "lost", 1.0))
    (store.root / "imports" / "damaged.json").write_text("{")
    assert [note.source for note in notes(store)] == ["model", "lost"]
    for reference in ("latest", digest.hex()[:6], digest.hex().upper()):
        assert find_manifest(store, reference)[0] == digest
    for reference, message in (
        (digest.hex()[:5], "no version"),
        ("000000", "manifest 000000 is not in"),
        ("ff" * 32, "manifest ffffffffffffffff is not in"),
    ):
        with pytest.raises(UsageError, match=message):
            find_manifest(store, reference)
    add_note(store, Note(digest.hex()[:6] + "0" * 58, "other", 0.0))
    with pytest.raises(UsageError, match=r"2 versions in .* begin with"):
        find_manifest(store, digest.hex()[:6])
