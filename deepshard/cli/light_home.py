"""What a stand-alone light client keeps in its home: trusted headers, the network they belong to, and whom to ask.

Everything is in one checksummed file, `light.sqlite`, written durably before it is shown. Whoever has followed a
network once need not name its genesis and peers again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepshard.disk.evidence import EvidenceFolder
from deepshard.disk.journal import Journal
from deepshard.encoding import Record, decode, encode
from deepshard.errors import DiskCorruption, LocalError, MalformedMessage, OversizedMessage, UsageError
from deepshard.ledger.genesis import load_genesis
from deepshard.ledger.params import Genesis

GENESIS_BYTES_MAX: Final = 4 * 1024 * 1024
FILE_NAME: Final = "light.sqlite"
_KEY: Final = "light/followed"


class Followed(Record, frozen=True):
    """The network that is followed, and peers to begin with, as `net.endpoints.parse_dial_target` reads them."""

    genesis: Genesis
    peers: tuple[str, ...]


@dataclass(frozen=True)
class LightHome:
    """An open home; `journal` keeps what is trusted, `evidence` what proves attacks."""

    folder: Path
    journal: Journal
    followed: Followed
    evidence: EvidenceFolder

    def close(self) -> None:
        """Let another process have it."""
        self.journal.close()


def open_home(folder: Path, *, genesis: Path | None, peers: tuple[str, ...]) -> LightHome:
    """Open or make a home; what isn't given is what was given the last time.

    Raises:
        UsageError: it is in use or can't be, follows another network, or nothing says which network or whom to ask.
        DiskCorruption: its file is damaged.
        LocalError: its file can't be opened.
    """
    given = None if genesis is None else _read_genesis(genesis)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot use {folder} as a home: {error.strerror}") from None
    path = folder / FILE_NAME
    journal = _open(path)
    try:
        return LightHome(folder, journal, _settle(journal, path, given, peers), evidence_folder(folder))
    except (LocalError, UsageError):
        journal.close()
        raise


def evidence_folder(folder: Path) -> EvidenceFolder:
    """Where evidence lies in a home."""
    return EvidenceFolder(folder / "evidence")


def damaged(path: Path, finding: str) -> DiskCorruption:
    """What a person is told of a damaged file."""
    return DiskCorruption(
        f"{finding}; nothing in it is trusted any more: move {path} away and begin again with --peers and --genesis, "
        "and with --trust HEIGHT:ID if you know a recent block"
    )


def _open(path: Path) -> Journal:
    try:
        return Journal(path)
    except UsageError:
        raise UsageError(f"another light client is running in {path.parent}: stop it, or use another --home") from None
    except DiskCorruption as error:
        raise damaged(path, str(error)) from error


def _settle(journal: Journal, path: Path, genesis: Genesis | None, peers: tuple[str, ...]) -> Followed:
    stored = journal.get(_KEY)
    known: Followed | None = None
    if stored is not None:
        try:
            known = decode(stored, Followed, bytes_max=GENESIS_BYTES_MAX)
        except (MalformedMessage, OversizedMessage) as error:
            raise damaged(path, f"{path}: {error}") from error
    if genesis is None and known is None:
        raise UsageError("no genesis file: name the network to follow with --genesis FILE")
    if genesis is not None and known is not None and genesis.hash() != known.genesis.hash():
        raise UsageError(
            f"{path.parent} follows the network {known.genesis.chain_id} with genesis {known.genesis.hash().hex()}, "
            f"and the file given is {genesis.chain_id} with {genesis.hash().hex()}: use another --home for it"
        )
    if not peers and known is None:
        raise UsageError("no peers: name some nodes of the network with --peers HOST:PORT,...")
    followed = known
    if genesis is not None:
        followed = Followed(genesis, peers or (known.peers if known is not None else ()))
    elif known is not None and peers:
        followed = Followed(known.genesis, peers)
    assert followed is not None
    if followed != known:
        journal.put(_KEY, encode(followed))
    return followed


def _read_genesis(path: Path) -> Genesis:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(GENESIS_BYTES_MAX)
    except OSError as error:
        raise UsageError(f"cannot read the genesis file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"the genesis file {path} is not text") from None
    return load_genesis(text)
