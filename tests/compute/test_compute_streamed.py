"""Scoring layer by layer beside scoring with the model in memory: the same bytes, with two layers at most."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from deepshard.compute import pieces
from deepshard.compute.jobs import ImportResult, ModelRef, Profile, ProfileResult, Progress, ScoreTexts
from deepshard.compute.layered import LayeredModel, NotLayered
from deepshard.compute.memory import available_bytes, memory_limit, return_freed
from deepshard.compute.models import BadModel, build_model, model_directory, tied_names
from deepshard.compute.pieces import Piece, ShardReader, ahead
from deepshard.compute.probing import Scorer, Sequences
from deepshard.compute.scoring import profile, score_texts
from deepshard.compute.store import BlobStore, MissingBlob
from deepshard.compute.streamed import MemoryTooSmall, StreamedScorer, resident_bytes
from deepshard.compute.weights import Weights, load_weights, read_manifest, store_model
from deepshard.errors import DiskCorruption
from deepshard.ledger.params import ProbePlan
from deepshard.shards.manifest import Manifest
from deepshard.shards.rules import manifest_digest

WORDS = 1100
"""Two tiles of the head and a part of one; pieces of it end elsewhere."""
LAYERS = 3
SMALL = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 1099,
}
SLIDING = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", SMALL | {"tie_word_embeddings": False}),
    "qwen3": ("Qwen3Config", SMALL),
    "gemma3": ("Gemma3TextConfig", SMALL | SLIDING),
    "gemma2": (
        "Gemma2Config",
        SMALL | SLIDING | {"attn_logit_softcapping": 0.5, "final_logit_softcapping": None},
    ),
    "gpt2": (
        "GPT2Config",
        {"vocab_size": WORDS, "n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 64}
        | {"bos_token_id": 1, "eos_token_id": 2},
    ),
}
BATCHED = {"gemma2"}
TEXTS = (
    "The ferry was replaced in March by a smaller boat with an electric engine.",
    "Farmers along the lower river grow rice again, and keep ducks that eat the weeds.",
    "",
    "She kept the accounts of the harbour for forty years.",
)
PLAN = ProbePlan(4, 0, 0, 0, 2, 24, 1500, 2)


def quiet(_: Progress) -> None:
    pass


@dataclass(frozen=True)
class Family:
    """A base that is a delta on another version, and what was made from it."""

    store: BlobStore
    manifests: dict[str, Manifest]

    def ref(self, name: str) -> ModelRef:
        return ModelRef(manifest=manifest_digest(self.manifests[name]), store=str(self.store.root))

    def job(self, *submissions: str, **changes: Any) -> Profile:
        job = Profile(
            base=self.ref("base"),
            submissions=tuple(map(self.ref, submissions)),
            probes=TEXTS,
            plan=PLAN,
            seed=bytes(32),
        )
        return msgspec.structs.replace(job, **changes)


def family_of(make: str, root: Path, tokenizer: tuple[Manifest, BlobStore]) -> Family:
    name, options = FAMILIES[make]
    store = BlobStore(root / make)
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(getattr(transformers, name)(**options), dtype=torch.float32)
    tied = tied_names(model)
    tensors = {key: tensor.bfloat16() for key, tensor in model.state_dict().items() if key not in tied}
    files = {entry.name: b"".join(map(tokenizer[1].get, entry.parts)) for entry in tokenizer[0].files}
    files["config.json"] = model.config.to_json_string().encode()
    made = {"first": store_model(tensors, files, store, quiet)[0]}
    decoded = {"first": Weights(made["first"], tensors)}

    def version(new: str, old: str, change: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
        parent = decoded[old]
        changed = {key: change(key, tensor) for key, tensor in parent.tensors.items()}
        made[new] = store_model(changed, parent.manifest.files, store, quiet, base=parent)[0]
        decoded[new] = Weights(made[new], changed)

    one_of_a_layer = [key for key in tensors if ".1." in key and tensors[key].dim() == 2][:1]
    version("base", "first", lambda _, tensor: nudged(tensor, 7))
    version("near", "base", lambda _, tensor: nudged(tensor, 11))
    version("far", "near", lambda _, tensor: nudged(tensor, 5))
    version("same", "base", lambda _, tensor: tensor)
    version("nan", "base", lambda key, tensor: tensor * torch.nan if key in one_of_a_layer else nudged(tensor, 11))
    made["whole"] = store_model(decoded["near"].tensors, made["first"].files, store, quiet)[0]
    made["other"] = store_model({"model.norm.weight": torch.ones(3)}, made["first"].files, store, quiet)[0]
    return Family(store, made)


def nudged(tensor: torch.Tensor, every: int) -> torch.Tensor:
    """The same but for each so-manieth element."""
    changed = tensor.clone()
    changed.view(-1)[::every] *= 1.03125
    return changed


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory, tiny_import: tuple[ImportResult, Path]) -> Callable[[str], Family]:
    result, folder = tiny_import
    root, made = tmp_path_factory.mktemp("families"), dict[str, Family]()
    tokenizer = read_manifest(ModelRef(manifest=result.manifest, store=str(folder))), BlobStore(folder)

    def get(make: str) -> Family:
        if make not in made:
            made[make] = family_of(make, root, tokenizer)
        return made[make]

    return get


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 12_000)


def both_ways(job: Profile) -> tuple[ProfileResult, ProfileResult]:
    resident, streamed = (profile(msgspec.structs.replace(job, scoring=way), quiet) for way in ("resident", "streamed"))
    return resident, streamed


@pytest.mark.parametrize("make", FAMILIES)
def test_a_profile_is_the_same_bytes(family: Callable[[str], Family], make: str) -> None:
    one = family(make)
    for name in ("base", "near", "far"):
        assert "xor-planes" in {shard.codec for shard in one.manifests[name].shards}
    resident, streamed = both_ways(one.job("near", "far", "whole", "same", "nan", "other"))
    way = "batched" if make in BATCHED else "packed"
    assert resident.scored_by == f"deepshard::perturbation_score (cpu, {way})"
    assert streamed.scored_by == f"deepshard::perturbation_score (cpu, {way}, streamed)"
    assert msgspec.structs.replace(streamed, scored_by=resident.scored_by) == resident
    near, far, whole, same, nan, other = streamed.submissions
    assert near == whole != far
    assert near.profile != same.profile
    assert {number for score in same.profile for number in msgspec.structs.astuple(score)} == {0} == set(same.sketch)
    assert re.fullmatch(r"UnsoundWeights: tensor .*\.1\.\S* holds values that are not finite", nan.error)
    assert other.error.startswith("BadModel: ")


def scorer_of(one: Family, directory: Path, limit: int = 1 << 30, **options: Any) -> StreamedScorer:
    return StreamedScorer(directory, ShardReader(one.manifests["base"], one.store), limit, **options)


PROBES: list[Sequences] = [
    tuple(tuple((place * 37 + 11 * row * (place > length // 2)) % WORDS for place in range(length)) for row in range(3))
    for length in (9, 30, 2, 17)
]


def test_states_that_exceed_the_limit_are_worked_through_in_batches(family: Callable[[str], Family]) -> None:
    one = family("gemma3")
    with model_directory(one.manifests["base"], one.store) as directory:
        model = build_model(directory, load_weights(one.ref("base"), quiet).tensors)
        expected = Scorer(model).scores(PROBES)
        steps: list[Progress] = []
        with pytest.raises(MemoryTooSmall) as refused:
            scorer_of(one, directory, 1000).scores(PROBES, quiet, "score")
        # The largest probe alone needs this much, two of them more.
        needs = max(needed(one, directory, [probe]) for probe in PROBES)
        assert f"{needs / 2**20:,.1f} MiB" in needed_text(one, directory, [PROBES[1]])
        found = scorer_of(one, directory, needs).scores(PROBES, steps.append, "score")
    assert "the memory limit is 0.0 MiB: set it higher" in str(refused.value)
    assert found == expected
    assert [(step.done, step.total) for step in steps] == [(done + 1, 9) for done in range(9)]


def needed_text(one: Family, directory: Path, probes: list[Sequences]) -> str:
    with pytest.raises(MemoryTooSmall) as refused:
        scorer_of(one, directory, 1).scores(probes, quiet, "score")
    return str(refused.value)


def needed(one: Family, directory: Path, probes: list[Sequences]) -> int:
    """The least limit under which the probes can be scored."""
    low, high = 1, 1 << 24
    while low < high:
        middle = (low + high) // 2
        try:
            list(scorer_of(one, directory, middle)._batches(probes))
        except MemoryTooSmall:
            low = middle + 1
        else:
            high = middle
    return low


class Counting(ShardReader):
    """Counts the layers that are in memory while another is read."""

    layered: LayeredModel | None = None
    peak = 0

    def read(self, piece: Piece) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        found = super().read(piece)
        if self.layered is not None and piece.name.startswith("layer"):
            self.peak = max(self.peak, 1 + self.layered.resident)
        return found


def test_no_more_than_two_layers_are_in_memory(family: Callable[[str], Family]) -> None:
    one = family("llama")
    reader = Counting(one.manifests["base"], one.store)
    with model_directory(one.manifests["base"], one.store) as directory:
        scorer = StreamedScorer(directory, reader, 1 << 30)
        reader.layered = scorer.layered
        seen: list[int] = []
        scorer.scores(PROBES, lambda _: seen.append(scorer.layered.resident), "score")
    assert reader.peak <= 2
    assert seen == [0] * LAYERS


def test_the_next_piece_is_read_while_one_is_worked_on() -> None:
    started = [threading.Event() for _ in range(3)]
    wanted = [Piece(str(number), ()) for number in range(3)]

    def load(piece: Piece) -> str:
        started[int(piece.name)].set()
        return piece.name

    coming = ahead(load, wanted)
    assert next(coming) == "0"
    assert started[1].wait(10)
    assert not started[2].is_set()
    assert list(coming) == ["1", "2"]


def prefetching() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_a_job_that_is_broken_off_leaves_no_thread(family: Callable[[str], Family]) -> None:
    seen: list[list[str]] = []

    def stop(step: Progress) -> None:
        if step.stage == "score base":
            seen.append(prefetching())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile(family("qwen3").job("near", scoring="streamed"), stop)
    assert len(seen) == 1
    assert len(seen[0]) == 1
    assert prefetching() == []


@pytest.mark.parametrize(("fault", "error"), [("missing", MissingBlob), ("corrupt", DiskCorruption)])
@pytest.mark.parametrize("name", ["first", "base"])
def test_a_bad_chunk_of_the_base_is_the_error_of_the_resident_path(
    family: Callable[[str], Family], name: str, fault: str, error: type[Exception]
) -> None:
    one = family("llama")
    manifest = one.manifests[name]
    with spoilt(one, middle_chunk(manifest), fault):
        messages = []
        for way in ("resident", "streamed"):
            with pytest.raises(error) as refused:
                profile(one.job("near", scoring=way), quiet)
            assert type(refused.value) is error
            messages.append(str(refused.value))
    assert messages[0] == messages[1]
    assert prefetching() == []


@pytest.mark.parametrize("fault", ["missing", "corrupt"])
def test_a_bad_chunk_of_a_submission_is_its_own_error(family: Callable[[str], Family], fault: str) -> None:
    one = family("llama")
    with spoilt(one, middle_chunk(one.manifests["near"]), fault):
        resident, streamed = both_ways(one.job("near", "whole"))
    assert resident.submissions == streamed.submissions
    near, whole = streamed.submissions
    assert re.match("MissingBlob|DiskCorruption", near.error)
    assert not whole.error


def middle_chunk(manifest: Manifest) -> bytes:
    """Of a layer in the middle."""
    (number,) = (place for place, entry in enumerate(manifest.tensors) if "1.mlp.up_proj" in entry.name)
    return next(one.chunk for one in manifest.shards if any(part.tensor == number for part in one.slices))


class spoilt:  # noqa: N801  # used as a function
    """A blob is away, or something else, for a while."""

    def __init__(self, one: Family, digest: bytes, fault: str) -> None:
        self._path, self._fault = one.store.path(digest), fault

    def __enter__(self) -> None:
        self._data = self._path.read_bytes()
        self._path.unlink()
        if self._fault == "corrupt":
            self._path.write_bytes(self._data[:-1] + bytes([self._data[-1] ^ 1]))

    def __exit__(self, *_: object) -> None:
        self._path.write_bytes(self._data)


def test_a_model_larger_than_the_limit_is_streamed_by_itself(family: Callable[[str], Family]) -> None:
    one = family("llama")
    size = resident_bytes(one.manifests["base"], is_profile=True)
    decoded = sum(shard.decoded_bytes for shard in one.manifests["base"].shards)
    assert size == (2 + 2 + 4) * decoded // 2  # base and submission as stored, and one in fp32
    for limit, ending in ((size, "packed)"), (size - 1, "packed, streamed)")):
        found = profile(msgspec.structs.replace(one.job(memory_bytes=limit), probes=TEXTS[:1]), quiet)
        assert found.scored_by.endswith(ending)
    with pytest.raises(MemoryTooSmall, match=r"needs .* MiB: .* two layers of 0\.\d MiB .* limit is 0\.0 MiB"):
        profile(one.job(memory_bytes=5000), quiet)


def test_texts_are_scored_alike(family: Callable[[str], Family]) -> None:
    one = family("qwen3")
    job = ScoreTexts(model=one.ref("base"), texts=TEXTS, tokens_max=24, perturbations=2, seed=bytes(32))
    resident, streamed = (
        score_texts(msgspec.structs.replace(job, scoring=way), quiet) for way in ("resident", "streamed")
    )
    assert resident == streamed
    assert resident.scores[0].tokens > 1


def test_a_model_with_more_than_states_between_its_layers_is_refused(tmp_path: Path) -> None:
    config = transformers.BloomConfig(vocab_size=60, hidden_size=16, n_layer=2, n_head=2)
    model = AutoModelForCausalLM.from_config(config)
    store = BlobStore(tmp_path)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name not in tied_names(model)}
    manifest, _ = store_model(tensors, {"config.json": config.to_json_string().encode()}, store, quiet)
    with model_directory(manifest, store) as directory:
        scorer = StreamedScorer(directory, ShardReader(manifest, store), 1 << 30)
        with pytest.raises(NotLayered, match="layer by layer: it does more between its layers"):
            scorer.scores([((1, 2, 3),)], quiet, "score")


def test_tensors_that_do_not_fit_are_refused(family: Callable[[str], Family], tmp_path: Path) -> None:
    manifest = family("llama").manifests["base"]
    with model_directory(manifest, family("llama").store) as directory:
        fewer = msgspec.structs.replace(manifest, tensors=manifest.tensors[:-1])
        with pytest.raises(BadModel, match=r"0 wrong, 1 missing, such as model\.norm"):
            LayeredModel(directory, fewer)
    with pytest.raises(BadModel):
        LayeredModel(tmp_path, manifest)


def test_what_is_available_is_the_less_of_machine_and_control_group(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  100 kB\nMemAvailable:  80 kB\n")
    assert available_bytes(meminfo, tmp_path) == 80 * 1024
    (tmp_path / "memory.max").write_text("50000\n")
    (tmp_path / "memory.current").write_text("45000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 3000\n")
    assert available_bytes(meminfo, tmp_path) == 8000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(meminfo, tmp_path) == 80 * 1024
    assert available_bytes(tmp_path / "none", tmp_path / "none") > 0
    assert memory_limit(12345) == 12345
    assert 0 < memory_limit(0) < available_bytes() * 0.75


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the resident size is Linux's to say")
def test_what_is_freed_goes_back_to_the_system_after_blocks_that_were_larger() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    return_freed()
    large = torch.ones(20 * 2**20, dtype=torch.uint8)  # would raise glibc's threshold to its size
    del large
    blocks = [torch.ones(4 * 2**20, dtype=torch.uint8) for _ in range(20)]
    held = resident()
    del blocks[:-1]  # the last one would keep those below it in the heap
    assert held - resident() > 50 * 2**20
