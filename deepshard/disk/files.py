"""How the disk room reaches the disk: everything goes through `Files`, so that a faulty disk can stand in for the real.

What stands in has to raise the exceptions of `sqlite3`, with `sqlite_errorcode` set, as the real files do.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol


class Rows(Protocol):
    """The outcome of a statement."""

    def fetchall(self) -> list[Any]:
        """All rows, each a tuple."""
        ...


class Connection(Protocol):
    """One open SQLite file, in autocommit mode."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        ...

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Rows:
        """Run one statement."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class Files(Protocol):
    """A place where SQLite files lie."""

    def connect(self, path: Path) -> Connection:
        """Open or create a file; it fails at once, without waiting, where another has it."""
        ...

    def size(self, path: Path) -> int | None:
        """Size of a file in bytes; None if it is absent."""
        ...


class OsFiles:
    """The operating system's files."""

    def connect(self, path: Path) -> Connection:
        """Open or create a file; the connection may be used from any thread, one at a time."""
        return sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)

    def size(self, path: Path) -> int | None:
        """Size of a file in bytes; None if it is absent."""
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return None


OS_FILES = OsFiles()
