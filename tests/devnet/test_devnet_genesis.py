from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from deepshard.chunk_tree import chunks_root
from deepshard.compute.jobs import ImportModel, ImportResult, Progress
from deepshard.devnet import genesis as ceremony
from deepshard.devnet.genesis import (
    CHAIN_ID,
    cache_name,
    chunk_path,
    distribute,
    import_model,
    make_genesis,
    write_genesis,
)
from deepshard.devnet.plans import TINY, VALIDATOR_STAKE, params_for, probe_texts, read_text
from deepshard.devnet.roster import Participant, make_roster, write_home
from deepshard.encoding import encode
from deepshard.errors import LocalError
from deepshard.ledger.genesis import load_genesis
from deepshard.ledger.onion import OnionChain
from deepshard.primitives import UNITS_PER_TOKEN, ZERO_DIGEST, content_digest, tagged_hash
from deepshard.shards.codec import encode_entry
from deepshard.shards.layout import chunk_leaves
from deepshard.shards.manifest import FileEntry, Manifest, TensorEntry, TensorSlice
from deepshard.shards.rules import weights_root

SHARDS = 24
CONFIG = b'{"model_type": "none"}'


def put(store: Path, data: bytes) -> bytes:
    digest = content_digest(data)
    place = chunk_path(store, digest)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return digest


def small_model(store: Path) -> ImportResult:
    """A model of many small shards, one tensor each, so that placement has something to spread."""
    tensors = tuple(TensorEntry(f"layer.{number:02d}", "i8", (2, 4)) for number in range(SHARDS))
    entries = []
    for number in range(SHARDS):
        entry, chunk = encode_entry(tensors, (TensorSlice(number, 0, 2),), bytes([number]) * 8)
        put(store, chunk)
        entries.append(entry)
    root = weights_root(tensors, entries)
    files = (FileEntry("config.json", len(CONFIG), (put(store, CONFIG),)),)
    manifest = Manifest(1, ZERO_DIGEST, root, tensors, tuple(entries), files)
    return ImportResult(
        manifest=put(store, encode(manifest)),
        weights_root=root,
        chunks_root=chunks_root(chunk_leaves([manifest])),
        shard_count=SHARDS,
        parameters=8 * SHARDS,
        encoded_bytes=1,
    )


def blobs(home: Path) -> set[bytes]:
    chunks = home / "chunks"
    found = set()
    for path in chunks.rglob("*"):
        if path.is_file():
            digest = bytes.fromhex(path.parent.name + path.name)
            assert content_digest(path.read_bytes()) == digest
            found.add(digest)
    return found


@pytest.fixture
def roster(tmp_path: Path) -> tuple[Participant, ...]:
    (tmp_path / "net").mkdir()
    cast = make_roster(tmp_path / "net", TINY, dishonest=1)
    for each in cast:
        write_home(each)
    return cast


def test_the_genesis_file_reads_back_and_holds_the_promised_amounts(
    tmp_path: Path, roster: tuple[Participant, ...]
) -> None:
    imported = small_model(tmp_path / "store")
    params = params_for(TINY)
    genesis = make_genesis(roster, params, imported, chain_id=CHAIN_ID, time_ms=5)
    write_genesis(genesis, tmp_path / "genesis.json")
    assert load_genesis((tmp_path / "genesis.json").read_text()) == genesis
    balances = {entry.address: entry.balance // UNITS_PER_TOKEN for entry in genesis.accounts}
    tokens = {"validator": 100, "informant": 1000, "trainer": 500, "inference": 5000}
    assert balances == {each.key.address: tokens[each.role] for each in roster}
    by_key = {entry.public_key: entry for entry in genesis.validators}
    first = next(each for each in roster if each.role == "validator")
    assert by_key[first.key.public].stake == VALIDATOR_STAKE
    assert by_key[first.key.public].onion_tip == OnionChain(tagged_hash("onion seed", first.key.seed)).tip
    assert genesis.canaries == tuple(content_digest(read_text(f"canary-{n}").encode()) for n in (1, 2))


def test_every_chunk_lies_on_three_validators_and_nobody_else_has_any(
    tmp_path: Path, roster: tuple[Participant, ...]
) -> None:
    store = tmp_path / "store"
    imported = small_model(store)
    genesis = make_genesis(roster, params_for(TINY), imported, chain_id=CHAIN_ID, time_ms=5)
    held = distribute(genesis, store, roster)
    shared = {imported.manifest, content_digest(CONFIG)}
    shared |= {content_digest(text.encode()) for texts in probe_texts().values() for text in texts}
    copies: dict[bytes, int] = {}
    for each in roster:
        if each.role != "validator":
            assert blobs(each.home) == set()
            continue
        found = blobs(each.home)
        assert shared <= found
        assert len(found - shared) == held[each.name]
        for chunk in found - shared:
            copies[chunk] = copies.get(chunk, 0) + 1
    assert len(copies) == SHARDS
    assert set(copies.values()) == {3}


def test_a_store_that_lacks_a_chunk_is_named(tmp_path: Path, roster: tuple[Participant, ...]) -> None:
    store = tmp_path / "store"
    imported = small_model(store)
    genesis = make_genesis(roster, params_for(TINY), imported, chain_id=CHAIN_ID, time_ms=5)
    lost = content_digest(CONFIG)
    chunk_path(store, lost).unlink()
    with pytest.raises(LocalError, match=lost.hex()):
        distribute(genesis, store, roster)


async def test_an_import_happens_once_and_leaves_nothing_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[ImportModel] = []

    def worker(job: Any, on_progress: Any) -> ImportResult:
        jobs.append(job)
        if len(jobs) == 1:
            raise LocalError("out of memory")
        return small_model(Path(job.store))

    monkeypatch.setattr(ceremony, "run_job", worker)
    cache = tmp_path / "cache"

    def ignore(_: Progress) -> None:
        return None

    with pytest.raises(LocalError, match="out of memory"):
        await import_model("tiny", cache, ignore)
    assert list(cache.iterdir()) == []
    result, store = await import_model("tiny", cache, ignore)
    assert chunk_path(store, result.manifest).is_file()
    assert await import_model("tiny", cache, ignore) == (result, store)
    assert [job.source for job in jobs] == ["tiny", "tiny"]
    assert [path.name for path in cache.iterdir()] == [cache_name("tiny")]
    (store.parent / "import.json").write_bytes(msgspec.json.encode({"broken": True}))
    assert await import_model("tiny", cache, ignore) == (result, store)
    assert len(jobs) == 3


def test_cache_names_tell_models_apart(tmp_path: Path) -> None:
    assert cache_name("tiny") == cache_name("tiny")
    assert cache_name("tiny").startswith("tiny-")
    assert cache_name("owner/name").startswith("owner-name-")
    empty = cache_name(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert cache_name(str(tmp_path)) != empty
