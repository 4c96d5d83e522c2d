"""One SQLite file with checksummed rows, open in one process at a time.

Calls are synchronous and short (a write is one fsync or a few); a lock serialises them, so they may be made from the
Trio thread or, where a write must not hold up the loop, through `trio.to_thread.run_sync`.

A row that carries bytes carries a BLAKE3 checksum over table, key and bytes: a flipped bit is found when the row is
read, and so is a row that turned up under another key.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from deepshard.disk.files import OS_FILES, Files
from deepshard.encoding import encode
from deepshard.errors import DiskCorruption, LocalError, UsageError
from deepshard.primitives import tagged_hash

Key = tuple[int | str | bytes, ...]


class DatabaseInUse(UsageError):
    """Another process has the file."""


class CorruptRow(DiskCorruption):
    """A row whose bytes don't match their checksum, or that is gone though it must be there.

    Attributes:
        path: the database file.
        table: the table in it.
        key: the row's key; for blocks and snapshots the height.
    """

    def __init__(self, path: Path, table: str, key: Key, fault: str, remedy: str) -> None:
        shown = ", ".join(part.hex() if isinstance(part, bytes) else str(part) for part in key)
        super().__init__(f"{path}: row ({shown}) of table {table} {fault}; {remedy}")
        self.path, self.table, self.key = path, table, key


def row_checksum(table: str, key: Key, *values: bytes) -> bytes:
    """Checksum of a row; 32 bytes."""
    return tagged_hash("row " + table, encode(key), *values)


class Database:
    """A connection, its lock and its error rules: a failure of SQLite becomes a `LocalError` or a `UsageError`."""

    def __init__(
        self,
        path: Path,
        schema: Sequence[str],
        *,
        journal: Literal["WAL", "TRUNCATE"],
        remedy: str,
        files: Files = OS_FILES,
    ) -> None:
        """Open or create the file and its tables.

        Args:
            path: the file.
            schema: statements that make the tables, if they are absent.
            journal: in either mode a commit returns after fsync. WAL is faster; TRUNCATE leaves nothing of a
                committed row outside the main file.
            remedy: what a person is to do when the file is damaged, as the end of a sentence.
            files: where it lies.

        Raises:
            DatabaseInUse: another process has it.
            DiskCorruption: it is damaged.
            LocalError: it can't be opened.
        """
        self.path = path
        self._remedy = remedy
        self._lock = threading.RLock()
        with self._translate_errors():
            self._connection = files.connect(path)
        try:
            with self.transaction(begin=False):
                # Whoever has the file keeps it: a second node is refused, and WAL needs no shared memory.
                self._connection.execute("PRAGMA locking_mode=EXCLUSIVE")
                self._connection.execute("PRAGMA synchronous=EXTRA")
                self._connection.execute("PRAGMA cell_size_check=ON")
                self._connection.execute(f"PRAGMA journal_mode={journal}")
            with self.transaction():
                for statement in schema:
                    self._connection.execute(statement)
            # A flipped bit in a table's definition may give another one that SQLite reads as well.
            made = {str(row[0]) for row in self.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")}
            if made != {statement.replace(" IF NOT EXISTS ", " ", 1) for statement in schema}:
                raise self.damaged("its tables are not those that this version makes")
        except (LocalError, UsageError):
            self._connection.close()
            raise

    @contextmanager
    def transaction(self, *, begin: bool = True) -> Iterator[None]:
        """All or nothing: commits and syncs at the end, rolls back on any error. Must not be nested."""
        with self._lock, self._translate_errors():
            if not begin:
                yield
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement and return all its rows; durable on return unless inside `transaction`."""
        with self._lock, self._translate_errors():
            return self._connection.execute(statement, values).fetchall()

    def checkpoint(self) -> None:
        """Bring all that is committed into the main file, durably, and empty the WAL."""
        self.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def check(self) -> None:
        """Let SQLite check the whole file and that its indexes fit its tables; only for small ones.

        Raises:
            DiskCorruption: with SQLite's finding.
        """
        findings = [str(row[0]) for row in self.execute("PRAGMA integrity_check(1)")]
        if findings != ["ok"]:
            raise self.damaged(findings[0])

    def corrupt(self, table: str, key: Key, fault: str = "does not match its checksum") -> CorruptRow:
        """The error for a row that is damaged or gone."""
        return CorruptRow(self.path, table, key, fault, self._remedy)

    def damaged(self, fault: object) -> DiskCorruption:
        """The error for a damaged file, in one line."""
        return DiskCorruption(f"{self.path}: {' '.join(str(fault).split())}; {self._remedy}")

    def close(self) -> None:
        """Close the file; nothing may be called afterwards."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            # A damaged schema shows as an operational error, too; its result code tells it from a full disk or a lock.
            # Text that isn't UTF-8 has none.
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if code == sqlite3.SQLITE_BUSY:
                raise DatabaseInUse(
                    f"{self.path} is in use by another process: a node needs a home of its own"
                ) from error
            if code == sqlite3.SQLITE_ERROR:
                raise self.damaged(error) from error
            raise LocalError(f"{self.path}: {error}") from error
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.InterfaceError) as error:
            raise LocalError(f"{self.path}: {error}") from error
        except sqlite3.Error as error:
            raise self.damaged(error) from error
