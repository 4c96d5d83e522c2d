"""`deepshard weights`: models in and out of a chunk store, and what is in it. Imports are late, as in the others."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from deepshard.cli.connection import Node, home_folder
from deepshard.cli.options import AsJson, Home, NodeUrl
from deepshard.cli.output import show_fields, show_json, show_table
from deepshard.errors import DeepshardError, LocalError, UsageError

if TYPE_CHECKING:
    from deepshard.compute.store import BlobStore
    from deepshard.shards.selection import Part

app = typer.Typer(
    name="weights", help="Bring models into a chunk store, out of it, and look at them.", no_args_is_help=True
)

Store = Annotated[
    Path | None,
    typer.Option("--store", metavar="DIR", help="The chunk store; `chunks` in the node's folder if not given."),
]
Version = Annotated[
    str,
    typer.Argument(metavar="VERSION", help="Address of a manifest, its beginning, or `latest` for the last import."),
]
DTypeChoice = Literal["keep", "bf16"]
FETCH_POLL_S: Final = 0.5


@app.command(name="import")
def import_command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A model's directory, a .safetensors or .gguf file, or a hub's owner/name."
        ),
    ],
    dtype: Annotated[str, typer.Option(help="`keep` the types of a safetensors model, or round to `bf16`.")] = "keep",
    *,
    store: Store = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Cut a model into chunks; broken off and started again, it goes on where it was."""
    from deepshard.compute.catalog import Note, add_note  # noqa: PLC0415

    if dtype not in {"keep", "bf16"}:
        raise UsageError(f"--dtype is keep or bf16, not {dtype}")
    target = _store(store, home)
    started = time.monotonic()
    path = Path(source).expanduser()
    if _is_safetensors(path):
        answer = _import_safetensors(path, target, as_bf16=dtype == "bf16")
    else:
        answer = _import_by_worker(str(path) if path.exists() else source, target)
    seconds = time.monotonic() - started
    add_note(target, Note(answer["manifest"], source, time.time()))
    answer |= {"seconds": round(seconds, 2), "store": str(target.root)}
    _show(answer, as_json=as_json)


@app.command()
def export(
    version: Version,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder for the model.")],
    *,
    store: Store = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write a version as a Hugging Face directory; broken off and started again, it goes on where it was."""
    from deepshard.compute.catalog import find_manifest  # noqa: PLC0415
    from deepshard.compute.exporting import export_model  # noqa: PLC0415

    target = _store(store, home)
    digest, manifest = find_manifest(target, version)
    with _bar("export") as on_bytes:
        done = export_model(manifest, target, directory.expanduser(), on_bytes)
    answer = {"manifest": digest.hex(), "directory": str(directory), "tensor_bytes": done.tensor_bytes}
    _show({**answer, "resumed_bytes": done.resumed_bytes, "files": list(done.files)}, as_json=as_json)


@app.command()
def verify(version: Version, *, store: Store = None, home: Home = None, as_json: AsJson = False) -> None:
    """Read and decode every chunk of a version; what is missing or damaged is named, and the exit code is 1."""
    from deepshard.compute.catalog import find_manifest  # noqa: PLC0415
    from deepshard.compute.verifying import verify_model  # noqa: PLC0415

    target = _store(store, home)
    digest, manifest = find_manifest(target, version)
    with _bar("verify") as on_bytes:
        faults = verify_model(manifest, target, on_bytes)
    decoded = sum(shard.decoded_bytes for shard in manifest.shards)
    answer = {"manifest": digest.hex(), "weights_root": manifest.weights_root.hex(), "decoded_bytes": decoded}
    _show({**answer, "damaged": [{"what": fault.what, "reason": fault.reason} for fault in faults]}, as_json=as_json)
    if faults:
        raise LocalError(f"{len(faults)} parts of {digest.hex()[:16]} are missing or damaged: import or fetch it again")


@app.command()
def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="A version, as for export.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Another.")],
    *,
    store: Store = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Say which tensors differ between two versions, and what getting from one to the other costs."""
    from deepshard.compute.catalog import find_manifest  # noqa: PLC0415
    from deepshard.shards.comparison import compare  # noqa: PLC0415

    target = _store(store, home)
    found = compare(find_manifest(target, old)[1], find_manifest(target, new)[1])
    answer: dict[str, Any] = {
        "shards": found.shards,
        "shards_changed": found.shards_changed,
        "bytes_to_fetch": found.bytes_to_fetch,
        "bytes_whole": found.bytes_whole,
        "only_in_old": list(found.only_in_old),
        "only_in_new": list(found.only_in_new),
        "tensors": [
            {"name": each.name, "bytes_changed": each.bytes_changed, "bytes": each.size} for each in found.changed
        ],
    }
    if as_json:
        show_json(answer)
        return
    changed = answer.pop("tensors")
    show_fields(answer)
    columns = {"name": "TENSOR", "bytes_changed": "IN CHANGED SHARDS", "bytes": "BYTES"}
    show_table(columns, changed, empty="no tensor differs")


@app.command()
def ls(
    version: Annotated[str | None, typer.Argument(metavar="[VERSION]", help="List this version's tensors.")] = None,
    layers: Annotated[str | None, typer.Option(metavar="A-B", help="Only these layers, such as 0-11.")] = None,
    rank: Annotated[str | None, typer.Option(metavar="R/N", help="Only what rank R of N needs, such as 0/8.")] = None,
    *,
    store: Store = None,
    home: Home = None,
    node: NodeUrl = None,
    as_json: AsJson = False,
) -> None:
    """List the versions of a store, the tensors of one, or (with --node) what a node has."""
    if node is not None:
        if version is not None or layers is not None or rank is not None:
            raise UsageError("a node lists no tensors: give --store, or --home where the node runs on this machine")
        status = Node.find(home, node).get("/v1/status")
        _show({"model": status.get("model"), "storage": status.get("storage")}, as_json=as_json)
        return
    target = _store(store, home)
    if version is None:
        if layers is not None or rank is not None:
            raise UsageError("--layers and --rank need a version")
        _list_versions(target, as_json=as_json)
    else:
        _list_tensors(target, version, _part(layers, rank), as_json=as_json)


@app.command()
def fetch(
    directory: Annotated[
        Path | None, typer.Option("--export", metavar="DIR", help="Then export into a new folder.")
    ] = None,
    layers: Annotated[str | None, typer.Option(metavar="A-B", help="Only these layers.")] = None,
    rank: Annotated[str | None, typer.Option(metavar="R/N", help="Only what rank R of N needs.")] = None,
    *,
    home: Home = None,
    node: NodeUrl = None,
    as_json: AsJson = False,
) -> None:
    """Follow the download of the version that the node's licence covers, until all of it is here and verified."""
    if layers is not None or rank is not None:
        _part(layers, rank)
        raise UsageError("a node fetches whole versions: it can't yet be asked for some layers or one rank's part only")
    if directory is not None and node is not None:
        raise UsageError("--export reads the node's folder: give --home instead of --node")
    found = Node.find(home, node)
    answer = _follow(found)
    _show({key: answer[key] for key in ("version", "manifest", "weights_root", "chunks_total")}, as_json=as_json)
    if directory is not None:
        export(answer["manifest"], directory, home=home, as_json=as_json)


def _store(store: Path | None, home: Path | None) -> BlobStore:
    from deepshard.compute.store import BlobStore  # noqa: PLC0415

    return BlobStore(store.expanduser() if store else home_folder(home) / "chunks")


def _is_safetensors(path: Path) -> bool:
    try:
        if path.is_dir():
            names = [file.name for file in path.iterdir()]
            return any(name.endswith(".safetensors") for name in names) and not any(
                name.endswith(".gguf") for name in names
            )
        return path.is_file() and path.name.endswith(".safetensors")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None


def _import_safetensors(path: Path, target: BlobStore, *, as_bf16: bool) -> dict[str, Any]:
    from deepshard.chunk_tree import chunks_root  # noqa: PLC0415
    from deepshard.compute.sources import open_safetensors  # noqa: PLC0415
    from deepshard.compute.streaming import import_source  # noqa: PLC0415
    from deepshard.shards.layout import chunk_leaves  # noqa: PLC0415
    from deepshard.shards.rules import manifest_digest  # noqa: PLC0415

    source = open_safetensors(path, as_bf16=as_bf16)
    try:
        with _bar("import") as on_bytes:
            made = import_source(source, target, on_bytes)
    finally:
        source.close()
    return {
        "manifest": manifest_digest(made.manifest).hex(),
        "weights_root": made.manifest.weights_root.hex(),
        "chunks_root": chunks_root(chunk_leaves([made.manifest])).hex(),
        "tensors": len(made.manifest.tensors),
        "shards": len(made.manifest.shards),
        "decoded_bytes": made.decoded_bytes,
        "encoded_bytes": sum(shard.chunk_bytes for shard in made.manifest.shards),
        "resumed_bytes": made.resumed_bytes,
    }


def _import_by_worker(source: str, target: BlobStore) -> dict[str, Any]:
    """GGUF files and models of the hub are read with transformers, which a process of its own imports."""
    from deepshard.compute.client import ComputeJobFailed, run_job  # noqa: PLC0415
    from deepshard.compute.jobs import ImportModel, ImportResult, Progress  # noqa: PLC0415

    with _bar("import") as on_bytes:

        def report(progress: Progress) -> None:
            if progress.stage == "stream":
                on_bytes(progress.done, progress.total)

        try:
            result = run_job(ImportModel(source=source, store=str(target.root.absolute())), report)
        except ComputeJobFailed as error:
            raise (UsageError if error.kind == "UsageError" else LocalError)(error.message) from None
    assert isinstance(result, ImportResult)
    return {
        "manifest": result.manifest.hex(),
        "weights_root": result.weights_root.hex(),
        "chunks_root": result.chunks_root.hex(),
        "shards": result.shard_count,
        "parameters": result.parameters,
        "encoded_bytes": result.encoded_bytes,
    }


def _list_versions(target: BlobStore, *, as_json: bool) -> None:
    from deepshard.compute.catalog import find_manifest, notes  # noqa: PLC0415

    rows: list[dict[str, Any]] = []
    for note in notes(target):
        row: dict[str, Any] = {"manifest": note.manifest, "source": note.source}
        try:
            manifest = find_manifest(target, note.manifest)[1]
        except DeepshardError as error:
            rows.append({**row, "state": str(error)})
            continue
        here = sum(target.has(shard.chunk) for shard in manifest.shards)
        row |= {"tensors": len(manifest.tensors), "bytes": sum(shard.decoded_bytes for shard in manifest.shards)}
        row["state"] = "whole" if here == len(manifest.shards) else f"{here} of {len(manifest.shards)} chunks"
        rows.append(row)
    columns = {"manifest": "MANIFEST", "tensors": "TENSORS", "bytes": "BYTES", "state": "STATE", "source": "SOURCE"}
    if as_json:
        show_json(rows)
    else:
        show_table(columns, rows, empty=f"nothing was imported into {target.root}")


def _list_tensors(target: BlobStore, version: str, part: Part, *, as_json: bool) -> None:
    from deepshard.compute.catalog import find_manifest  # noqa: PLC0415
    from deepshard.shards.layout import tensor_bytes  # noqa: PLC0415
    from deepshard.shards.selection import shards_for  # noqa: PLC0415

    manifest = find_manifest(target, version)[1]
    wanted = shards_for(manifest, part)
    shards: dict[int, list[int]] = {}
    for number in wanted:
        for cut in manifest.shards[number].slices:
            shards.setdefault(cut.tensor, []).append(number)
    rows = [
        {
            "name": tensor.name,
            "dtype": tensor.dtype,
            "shape": "x".join(map(str, tensor.shape)) or "scalar",
            "bytes": tensor_bytes(tensor),
            "shards": len(shards[place]),
            "here": sum(target.has(manifest.shards[number].chunk) for number in shards[place]),
        }
        for place, tensor in enumerate(manifest.tensors)
        if place in shards
    ]
    if as_json:
        show_json(
            {"tensors": rows, "shards": len(wanted), "bytes": sum(manifest.shards[one].decoded_bytes for one in wanted)}
        )
        return
    columns = {
        "name": "TENSOR",
        "dtype": "TYPE",
        "shape": "SHAPE",
        "bytes": "BYTES",
        "shards": "SHARDS",
        "here": "HERE",
    }
    show_table(columns, rows, empty="no tensors")


def _part(layers: str | None, rank: str | None) -> Part:
    from deepshard.shards.selection import Part  # noqa: PLC0415

    part = Part()
    if layers is not None:
        first, dash, last = layers.partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)):
            raise UsageError(f"{layers!r} are no layers: give the first and the last, such as 0-11")
        part = part._replace(layers=(int(first), int(last or first) + 1))
    if rank is not None:
        number, slash, ranks = rank.partition("/")
        if not (slash and number.isdecimal() and ranks.isdecimal()):
            raise UsageError(f"{rank!r} is no rank: give it with the number of ranks, such as 0/8")
        part = part._replace(rank=int(number), ranks=int(ranks))
    return part


def _follow(node: Node) -> dict[str, Any]:
    """The node's own download, once it is complete."""
    with _bar("fetch", unit="chunks") as on_chunks:
        while True:
            answer: dict[str, Any] = node.get("/v1/download")
            on_chunks(answer["chunks_verified"], answer["chunks_total"])
            match answer["state"]:
                case "ready":
                    return answer
                case "failed":
                    raise LocalError(f"the node could not fetch version {answer['version']}: {answer['error']}")
                case "unlicensed":
                    raise UsageError("the node has no licence to fetch weights: buy one with `deepshard licence buy`")
            time.sleep(FETCH_POLL_S)


@contextmanager
def _bar(what: str, *, unit: str = "bytes") -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal, with speed and the time left; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich import progress  # noqa: PLC0415

    counted = unit == "bytes"
    columns = [
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn() if counted else progress.MofNCompleteColumn(),
        progress.TransferSpeedColumn() if counted else progress.TextColumn(unit),
        progress.TimeRemainingColumn(),
    ]
    from rich.console import Console  # noqa: PLC0415

    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=None)
        started = False

        def update(done: int, total: int) -> None:
            nonlocal started
            if not started:  # what an earlier try did is no part of the speed
                shown.reset(task, total=total, completed=done)
                started = True
            shown.update(task, completed=done, total=total)

        yield update


def _show(answer: dict[str, Any], *, as_json: bool) -> None:
    (show_json if as_json else show_fields)(answer)
