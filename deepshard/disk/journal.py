"""The journal: promises this node has made and must keep, written before they are spoken.

A committed vote or submission is worth nothing without the salt that opens it, so the opening is stored with
`synchronous=FULL` before the commitment leaves the process. Values carry a BLAKE3 checksum.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from deepshard.errors import DiskCorruption, LocalError
from deepshard.primitives import tagged_hash


class Journal:
    """A durable map from text keys to bytes. Calls block for one fsync at most."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS promise (key TEXT PRIMARY KEY, value BLOB NOT NULL, checksum BLOB NOT NULL)"
            )
        except sqlite3.Error as error:
            raise LocalError(f"cannot open the journal {path}: {error}") from error

    def put(self, key: str, value: bytes) -> None:
        """Store durably, replacing what was there."""
        try:
            self._database.execute(
                "INSERT OR REPLACE INTO promise VALUES (?, ?, ?)", (key, value, _checksum(key, value))
            )
        except sqlite3.Error as error:
            raise LocalError(f"cannot write {key} to the journal {self._path}: {error}") from error

    def get(self, key: str) -> bytes | None:
        """Value of `key`, or None.

        Raises:
            DiskCorruption: the stored bytes don't match their checksum.
        """
        row = self._database.execute("SELECT value, checksum FROM promise WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        value, checksum = row
        if _checksum(key, value) != checksum:
            raise DiskCorruption(f"journal {self._path}: entry {key} does not match its checksum")
        return bytes(value)

    def close(self) -> None:
        """Close the file; the journal can't be used afterwards."""
        self._database.close()


def _checksum(key: str, value: bytes) -> bytes:
    return tagged_hash("journal", key.encode(), value)
