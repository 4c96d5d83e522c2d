"""What the chain's file says of itself: whose chain it is, and what its tables must hold.

A damaged table may look like a shorter or an empty one, which no row's checksum shows; so the last height, the number
of receipts and the newest snapshot are written here with them. All entries are made with the file, read when it is
opened, by the table and by its index, and none may be absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from deepshard.disk.database import Database, row_checksum
from deepshard.errors import UsageError

META_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL, checksum BLOB NOT NULL)"
)
_NUMBERS: Final[Mapping[str, int]] = {"base": 1, "tip": 0, "receipts": 0, "snapshot": 0}
"""Numbers and what they begin with: the first height that is here, the last one, receipts, the newest snapshot."""


class Meta:
    """The table `meta`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def is_empty(self) -> bool:
        """Whether there is nothing, as in a new file."""
        return not self._database.execute("SELECT name FROM meta NOT INDEXED LIMIT 1")

    def create(self, identity: Mapping[str, bytes]) -> None:
        """Make all entries: those that say whose chain this is, and the numbers."""
        with self._database.transaction():
            for name, value in identity.items():
                self._put(name, value)
            for name, number in _NUMBERS.items():
                self.write(name, number)

    def check(self, identity: Mapping[str, bytes]) -> None:
        """Read all entries.

        Raises:
            UsageError: this is another chain than `identity` says.
            DiskCorruption: an entry is damaged, or one is gone.
        """
        # The name could be a number: SQLite stores any type in any column.
        found = {str(row[0]): row[1:] for row in self._database.execute("SELECT * FROM meta NOT INDEXED")}
        for name in (*identity, *_NUMBERS):
            indexed = self._database.execute("SELECT value, checksum FROM meta WHERE name = ?", name)
            if name not in found or not indexed:
                raise self._database.corrupt("meta", (name,), "is gone")
            if indexed != [found[name]]:
                raise self._database.corrupt("meta", (name,))
            self._intact(name, *found[name])
        for name, value in identity.items():
            if found[name][0] != value:
                raise UsageError(
                    f"{self._database.path} was made with {name} {found[name][0].hex()}, this node has {value.hex()}: "
                    "use another home directory, or the genesis file it was made with"
                )

    def read(self, name: str) -> int:
        """A number.

        Raises:
            DiskCorruption: it is damaged or gone.
        """
        rows = self._database.execute("SELECT value, checksum FROM meta WHERE name = ?", name)
        if not rows:
            raise self._database.corrupt("meta", (name,), "is gone")
        return int.from_bytes(self._intact(name, *rows[0]), "big")

    def write(self, name: str, number: int) -> None:
        """Replace a number, as part of a transaction."""
        self._put(name, number.to_bytes(8, "big"))

    def _put(self, name: str, value: bytes) -> None:
        checksum = row_checksum("meta", (name,), value)
        self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", name, value, checksum)

    def _intact(self, name: str, value: object, checksum: object) -> bytes:
        if not isinstance(value, bytes) or row_checksum("meta", (name,), value) != checksum:
            raise self._database.corrupt("meta", (name,))
        return value
