"""The journal: promises this node has made and must keep, written before they are spoken.

A committed vote or submission is worth nothing without the salt that opens it, so the opening is stored durably before
the commitment leaves the process. Values carry a BLAKE3 checksum, and all of them are read when the journal is opened:
what is damaged is found before anything new is promised.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from deepshard.disk.database import Database
from deepshard.disk.files import OS_FILES, Files
from deepshard.errors import LocalError, UsageError
from deepshard.primitives import tagged_hash

JOURNAL_REMEDY: Final = (
    "move it away to go on without its promises: a vote or submission that is open now can't be opened then"
)
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS promise (key TEXT PRIMARY KEY, value BLOB NOT NULL, checksum BLOB NOT NULL)",
)


class Journal:
    """A durable map from text keys to bytes. Calls block for a few fsyncs at most."""

    def __init__(self, path: Path, *, files: Files = OS_FILES) -> None:
        """Open or create the journal.

        Raises:
            UsageError: another process has the file.
            DiskCorruption: the file or an entry is damaged.
            LocalError: it can't be opened.
        """
        # Not WAL: a WAL frame with a flipped bit is dropped silently, and with it the latest promises.
        self._database = Database(path, _SCHEMA, journal="TRUNCATE", remedy=JOURNAL_REMEDY, files=files)
        try:
            self._database.check()
            for row in self._database.execute("SELECT key, value, checksum FROM promise"):
                self._intact(*row)
        except (LocalError, UsageError):
            self._database.close()
            raise

    def put(self, key: str, value: bytes) -> None:
        """Store durably, replacing what was there."""
        self._database.execute("INSERT OR REPLACE INTO promise VALUES (?, ?, ?)", key, value, _checksum(key, value))

    def get(self, key: str) -> bytes | None:
        """Value of `key`, or None.

        Raises:
            DiskCorruption: the stored bytes don't match their checksum.
        """
        rows = self._database.execute("SELECT key, value, checksum FROM promise WHERE key = ?", key)
        return self._intact(*rows[0]) if rows else None

    def close(self) -> None:
        """Close the file; the journal can't be used afterwards."""
        self._database.close()

    def _intact(self, key: Any, value: Any, checksum: Any) -> bytes:  # noqa: ANN401  # SQLite stores any type anywhere
        if not isinstance(key, str) or not isinstance(value, bytes) or _checksum(key, value) != checksum:
            raise self._database.damaged(f"entry {key!r} of the journal does not match its checksum")
        return value


def _checksum(key: str, value: bytes) -> bytes:
    return tagged_hash("journal", key.encode(), value)
