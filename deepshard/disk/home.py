"""A full node's files in its home: journal, chain and guard, each of which remembers that the others were there.

Whoever finds a file empty that it must have filled knows that it was cut off; SQLite alone takes it for a new one. A
file that is absent was moved away by a person, as the messages about damage advise: a chain is fetched again, and a
journal begun anew, with a line in the log. Without the guard a node never starts. Decision 011 has the table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import structlog

from deepshard.disk.chain import ChainStore
from deepshard.disk.files import OS_FILES, Files
from deepshard.disk.guard import GUARD_NAME, lost_guard
from deepshard.disk.journal import JOURNAL_REMEDY, Journal
from deepshard.errors import DeepshardError, DiskCorruption

CHAIN_NAME: Final = "chain.sqlite"
JOURNAL_NAME: Final = "journal.sqlite"
_GUARD_MADE: Final = "home/guard"
_log = structlog.get_logger(__name__)


def open_home(home: Path, *, genesis_hash: bytes, files: Files = OS_FILES) -> tuple[Journal, ChainStore]:
    """Open or create the files of a full node in the folder `home`.

    Raises:
        UsageError: they belong to another network, another version of this program or another process.
        DiskCorruption: one is damaged, or was lost.
        LocalError: one can't be opened.
    """
    path = home / JOURNAL_NAME
    opened: list[Journal | ChainStore] = []
    try:
        if files.size(path):
            opened.append(journal := Journal(path, files=files))
            if journal.get(_GUARD_MADE) and not files.size(home / GUARD_NAME):
                raise lost_guard(home / GUARD_NAME)
        opened.append(store := ChainStore(home / CHAIN_NAME, genesis_hash=genesis_hash, files=files))
        if not files.size(path):
            _note_lost_journal(store, path, files)
            opened.append(journal := Journal(path, files=files))
        store.guard.note_beside(JOURNAL_NAME, there=True)
        if not journal.get(_GUARD_MADE):
            journal.put(_GUARD_MADE, b"1")
    except DeepshardError:
        for file in opened:
            file.close()
        raise
    return journal, store


def _note_lost_journal(store: ChainStore, path: Path, files: Files) -> None:
    if not store.guard.knows(JOURNAL_NAME):
        return
    if files.size(path) is not None:
        raise DiskCorruption(f"{path} is empty: it was cut off; {JOURNAL_REMEDY}")
    _log.error("journal.missing", path=str(path), lost="what opens the votes and submissions made before")
    store.guard.note_beside(JOURNAL_NAME, there=False)
