"""Part "rot", files that are no databases: the key, the genesis, a stored blob and one that has come in part."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from deepshard.disk.chunks import ChunkStore
from deepshard.disk.home import open_home
from deepshard.disk.keystore import load_key
from deepshard.errors import DiskCorruption, UsageError
from deepshard.identity.keyfile import write_key_file
from deepshard.ledger.genesis import dump_genesis, load_genesis
from deepshard.primitives import CONTENT_BLOCK_BYTES, content_digest
from deepshard.ranges import block_count
from deepshard.testing.durability.answers import disk_of
from deepshard.testing.durability.homes import FOLDER, homes
from deepshard.testing.durability.outcomes import Damage, Outcome, Verdict
from deepshard.testing.simulate.plan import chance

HOME: Final = "files"
_PASSPHRASE: Final = "correct horse"  # noqa: S105  # of a key made on the spot
_BLOB: Final = chance("blob").randbytes(2 * CONTENT_BLOCK_BYTES + 200)
_DIGEST: Final = content_digest(_BLOB)
_PARTIAL: Final = f"partial/{_DIGEST.hex()}"
_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # where it is there, syncing costs nothing


@cache
def contents(seed: int) -> dict[str, bytes]:
    """The files by name."""
    home = homes(seed)["stopped"]
    with _folder() as folder:
        store = ChunkStore(Path(folder))
        store.put_range(_DIGEST, _BLOB[:CONTENT_BLOCK_BYTES], size=len(_BLOB), first=0)
        partial = (Path(folder) / _PARTIAL).read_bytes()
    return {
        "key.json": write_key_file(home.key, _PASSPHRASE, ops=1, memory_bytes=8192).encode(),
        "genesis.json": dump_genesis(home.genesis).encode(),
        "blob": _BLOB,
        "partial": partial,
    }


def inflict(seed: int, damage: Damage) -> Verdict:
    """Damage a file, and see what becomes of it."""
    data = bytearray(contents(seed)[damage.file])
    if damage.kind == "flip":
        data[damage.point] ^= 1 << (damage.point + seed) % 8
    else:
        del data[damage.point :]
    try:
        match damage.file:
            case "key.json":
                return _key(seed, bytes(data))
            case "genesis.json":
                return _genesis(seed, bytes(data))
            case "blob":
                return _blob(bytes(data))
            case _:
                return _partial(bytes(data))
    except UsageError as error:
        is_one_line = "\n" not in str(error)
        return Verdict(Outcome.REFUSED if is_one_line else Outcome.VIOLATION, f"at the start: {error}")
    except Exception as error:  # noqa: BLE001  # what has no type of ours is a violation, and shown
        return Verdict(Outcome.VIOLATION, f"{type(error).__name__}: {error}")


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None)


def _same(*, same: bool, what: str) -> Verdict:
    return Verdict(Outcome.HARMLESS) if same else Verdict(Outcome.VIOLATION, f"{what}, and not refused")


def _key(seed: int, data: bytes) -> Verdict:
    with _folder() as folder:
        path = Path(folder) / "key.json"
        path.write_bytes(data)
        path.chmod(0o600)
        key = load_key(path, _PASSPHRASE)
    return _same(same=key.seed == homes(seed)["stopped"].key.seed, what="another key")


def _genesis(seed: int, data: bytes) -> Verdict:
    """A genesis that says something else is another network's: the chain is refused with it."""
    home = homes(seed)["stopped"]
    genesis = load_genesis(data.decode(errors="surrogateescape"))
    journal, store = open_home(FOLDER, genesis_hash=genesis.hash(), files=disk_of(home.image))
    store.close()
    journal.close()
    return _same(same=genesis.hash() == home.genesis.hash(), what="another network")


def _blob(data: bytes) -> Verdict:
    with _folder() as folder:
        ChunkStore(Path(folder)).put(_BLOB)
        name = _DIGEST.hex()
        (Path(folder) / name[:2] / name[2:]).write_bytes(data)
        store = ChunkStore(Path(folder))
        try:
            read = store.get(_DIGEST)
        except DiskCorruption as error:
            if store.has(_DIGEST) or "\n" in str(error):
                return Verdict(Outcome.VIOLATION, f"still served: {error}")
            store.put(_BLOB)
            again = store.get(_DIGEST) == _BLOB
            return Verdict(Outcome.RECOVERED if again else Outcome.VIOLATION, str(error))
        return _same(same=read == _BLOB, what="another blob")


def _partial(data: bytes) -> Verdict:
    """What is missing by the footer is fetched; the whole is right, or refused and fetched from the beginning."""
    with _folder() as folder:
        store = ChunkStore(Path(folder))
        (Path(folder) / _PARTIAL).write_bytes(data)
        outcome = Outcome.HARMLESS
        for attempt in (1, 2):
            try:
                state = store.partial(_DIGEST)
                missing = [(0, block_count(len(_BLOB)))] if state is None else state.missing()
                for first, count in missing if not store.has(_DIGEST) else ():
                    part = _BLOB[first * CONTENT_BLOCK_BYTES : (first + count) * CONTENT_BLOCK_BYTES]
                    store.put_range(_DIGEST, part, size=len(_BLOB), first=first)
            except DiskCorruption:
                outcome = Outcome.RECOVERED
                continue
            if state is None and attempt == 1:
                outcome = Outcome.RECOVERED
            break
        read = store.get(_DIGEST)
        return Verdict(outcome) if read == _BLOB else _same(same=False, what="another blob")
