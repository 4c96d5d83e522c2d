"""Versions that were imported into a store, noted beside its chunks so that people need not remember addresses."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from deepshard.compute.store import BlobStore, MissingBlob, advice
from deepshard.errors import LocalError, UsageError
from deepshard.shards.manifest import Manifest
from deepshard.shards.rules import decode_manifest

_FOLDER: Final = "imports"
_PREFIX_MIN: Final = 6


class Note(msgspec.Struct, frozen=True):
    """An imported version: the address of its manifest, what it was made of, and when, in seconds since 1970."""

    manifest: str
    source: str
    time_s: float


def add_note(store: BlobStore, note: Note) -> None:
    """Remember a version.

    Raises:
        LocalError: the store can't be written.
    """
    folder = store.root / _FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, suffix=".new")
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(note) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(folder / f"{note.manifest}.json")
    except OSError as error:
        raise LocalError(f"cannot write to {folder}: {advice(error)}") from error


def notes(store: BlobStore) -> list[Note]:
    """Versions imported here, the newest first; damaged notes are left out."""
    found: list[Note] = []
    for path in (store.root / _FOLDER).glob("*.json"):
        try:
            note = msgspec.json.decode(path.read_bytes(), type=Note)
        except (OSError, msgspec.DecodeError):
            continue
        if note.manifest == path.stem:
            found.append(note)
    return sorted(found, key=lambda note: (-note.time_s, note.manifest))


def find_manifest(store: BlobStore, reference: str) -> tuple[bytes, Manifest]:
    """A version by the address of its manifest, by the beginning of one imported here, or `latest`.

    Raises:
        UsageError: there is none, or several begin so.
        LocalError: the manifest is corrupt on disk.
        RemoteError: it breaks a rule.
    """
    wanted = reference.strip().lower()
    known = [note.manifest for note in notes(store)]
    if wanted == "latest":
        matching = known[:1]
    elif len(wanted) == 64 and set(wanted) <= set("0123456789abcdef"):
        matching = [wanted]
    else:
        matching = [each for each in known if len(wanted) >= _PREFIX_MIN and each.startswith(wanted)]
    if len(matching) > 1:
        raise UsageError(f"{len(matching)} versions in {store.root} begin with {wanted}: give more digits")
    if not matching:
        hint = f": it holds {', '.join(each[:12] for each in known[:5])}" if known else ": nothing was imported there"
        raise UsageError(f"no version {reference!r} in {store.root}{hint}")
    digest = bytes.fromhex(matching[0])
    try:
        return digest, decode_manifest(store.get(digest, "manifest"))
    except MissingBlob:
        raise UsageError(f"the manifest {wanted[:16]} is not in {store.root}") from None
