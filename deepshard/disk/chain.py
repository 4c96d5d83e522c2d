"""The chain on disk: committed blocks, receipts, pending blocks and state snapshots in one SQLite file.

Blocks, receipts and snapshots are opaque bytes here. A committed block, its receipts and its snapshot are written in
one transaction that is synced before it returns. The signing guard lies beside it in a file of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from deepshard.disk.database import Database, Key, row_checksum
from deepshard.disk.files import OS_FILES, Files
from deepshard.disk.guard import GUARD_NAME, SigningGuard, lost_guard
from deepshard.disk.input_log import INPUT_LOG_SCHEMA, InputLog
from deepshard.disk.meta import META_SCHEMA, Meta
from deepshard.errors import DiskCorruption, LocalError, UsageError

SCHEMA_VERSION: Final = 3
SNAPSHOTS_KEPT: Final = 2
CHAIN_REMEDY: Final = (
    "move the chain's files away (never guard.db), and the node fetches the chain from its peers again"
)
_CHECKED_AT_ONCE: Final = 1000
_SCHEMA: Final = (
    META_SCHEMA,
    (
        "CREATE TABLE IF NOT EXISTS blocks (height INTEGER PRIMARY KEY, block BLOB NOT NULL, certificate BLOB NOT NULL,"
        " validators BLOB NOT NULL, checksum BLOB NOT NULL)"
    ),
    (
        "CREATE TABLE IF NOT EXISTS receipts (seq INTEGER PRIMARY KEY, height INTEGER NOT NULL, kind TEXT NOT NULL,"
        " account BLOB NOT NULL, subject BLOB NOT NULL, data BLOB NOT NULL, checksum BLOB NOT NULL)"
    ),
    "CREATE INDEX IF NOT EXISTS receipts_by_account ON receipts (account, seq)",
    "CREATE INDEX IF NOT EXISTS receipts_by_subject ON receipts (subject, seq)",
    (
        "CREATE TABLE IF NOT EXISTS pending (height INTEGER NOT NULL, block_id BLOB NOT NULL, block BLOB NOT NULL,"
        " checksum BLOB NOT NULL, PRIMARY KEY (height, block_id))"
    ),
    "CREATE TABLE IF NOT EXISTS snapshots (height INTEGER PRIMARY KEY, data BLOB NOT NULL, checksum BLOB NOT NULL)",
    (
        "CREATE TABLE IF NOT EXISTS parts (root BLOB NOT NULL, first BLOB NOT NULL, height INTEGER NOT NULL,"
        " data BLOB NOT NULL, checksum BLOB NOT NULL, PRIMARY KEY (root, first))"
    ),
    INPUT_LOG_SCHEMA,
)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A committed block: encoded block, certificate and validator set of its height."""

    height: int
    block: bytes
    certificate: bytes
    validators: bytes


@dataclass(frozen=True, slots=True)
class NewReceipt:
    """A receipt to be stored with its block: encoded, with what it is looked up by."""

    kind: str
    account: bytes
    subject: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class StoredReceipt:
    """A stored receipt; `seq` counts from 1 over the whole chain."""

    seq: int
    height: int
    kind: str
    account: bytes
    subject: bytes
    data: bytes


class ChainStore:
    """The chain of one network in the directory's file `path`, with `guard.db` beside it.

    A chain that was joined by a snapshot begins at its block, the *base*: there is nothing below.
    """

    def __init__(self, path: Path, *, genesis_hash: bytes, files: Files = OS_FILES) -> None:
        """Open or create the store.

        Raises:
            UsageError: the file belongs to another network, another version of this program or another process.
            DiskCorruption: the file, or the guard's, is damaged.
            LocalError: it can't be opened.
        """
        guard = path.with_name(GUARD_NAME)
        opened: list[SigningGuard | Database] = []
        try:
            if had_guard := bool(files.size(guard)):
                opened.append(known := SigningGuard(guard, files=files))
                _check_chain_is_there(path, known, files)
            opened.append(database := Database(path, _SCHEMA, journal="WAL", remedy=CHAIN_REMEDY, files=files))
            self._database, self._meta, self.log = database, Meta(database), InputLog(database)
            if not had_guard:
                # The guard is made before the first entry of `meta`, so a chain that has some has lost it.
                if not self._meta.is_empty():
                    raise lost_guard(guard)
                opened.append(known := SigningGuard(guard, files=files))
            self.guard = known
            self._check_meta(genesis_hash)
            self._base = self._meta.read("base")
            self._check_tip()
            known.note_beside(path.name, there=True)
        except (LocalError, UsageError):
            for file in opened:
                file.close()
            raise
        self._receipts_checked = 0

    def close(self) -> None:
        """Close both files."""
        self.guard.close()
        self._database.close()

    def height(self) -> int:
        """Height of the last committed block; 0 for an empty chain."""
        return int(self._database.execute("SELECT coalesce(max(height), 0) FROM blocks")[0][0])

    @property
    def base(self) -> int:
        """Height of the first block that is here, or would be: 1 but for a chain that was joined by a snapshot."""
        return self._base

    def save_block(
        self,
        block: StoredBlock,
        receipts: Sequence[NewReceipt],
        *,
        snapshot: bytes | None = None,
        keep: Sequence[int] = (),
    ) -> None:
        """Append the next block with its receipts and, if given, the state after it; durable on return.

        Pending blocks up to this height are dropped, and snapshots but for the latest and those of heights in `keep`.

        Raises:
            LocalError: it isn't the next height, or the disk failed; nothing was written.
        """
        height = block.height
        with self._database.transaction():
            if height != self.height() + 1:
                raise LocalError(f"{self._database.path}: cannot store block {height} after block {self.height()}")
            parts = (block.block, block.certificate, block.validators)
            checksum = row_checksum("blocks", (height,), *parts)
            self._database.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?)", height, *parts, checksum)
            self._insert_receipts(height, receipts)
            self._database.execute("DELETE FROM pending WHERE height <= ?", height)
            self._meta.write("tip", height)
            self.log.write()
            self.log.drop_below(height)
            if snapshot is not None:
                self._insert_snapshot(height, snapshot, keep)
        self.log.written()
        # A flipped bit in the WAL drops what comes behind it, unseen: a decided block doesn't stay there.
        self._database.checkpoint()

    def install(self, block: StoredBlock, snapshot: bytes) -> None:
        """Let the chain begin anew at a block above the last one, with the state after it; durable on return.

        All blocks, pending blocks, snapshots and parts that were here are dropped; receipts stay.

        Raises:
            LocalError: the block isn't above the last one, or the disk failed; nothing was written.
        """
        height = block.height
        with self._database.transaction():
            if height <= self.height():
                raise LocalError(f"{self._database.path}: block {height} is not above block {self.height()}")
            for table in ("blocks", "pending", "snapshots", "parts", "inputs"):
                self._database.execute(f"DELETE FROM {table}")  # noqa: S608  # the names above
            parts = (block.block, block.certificate, block.validators)
            checksum = row_checksum("blocks", (height,), *parts)
            self._database.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?)", height, *parts, checksum)
            self._insert_snapshot(height, snapshot)
            self._meta.write("base", height)
            self._meta.write("tip", height)
        self._base = height
        self._database.checkpoint()

    def save_part(self, height: int, root: bytes, first: bytes, data: bytes) -> None:
        """Keep a verified part of the state of `height` with this root, beginning at the path `first`; durable."""
        checksum = row_checksum("parts", (root, first, height), data)
        self._database.execute(
            "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?)", root, first, height, data, checksum
        )

    def parts(self, root: bytes) -> list[bytes]:
        """What is kept of the state with this root and intact, in the order of paths. Parts of others are dropped."""
        self._database.execute("DELETE FROM parts WHERE root != ?", root)
        rows = self._database.execute(
            "SELECT first, height, data, checksum FROM parts WHERE root = ? ORDER BY first", root
        )
        return [row[2] for row in rows if _is_intact("parts", (root, *row[:2]), *row[2:])]

    def part_heights(self) -> list[int]:
        """Heights of whose states parts are kept."""
        return [int(row[0]) for row in self._database.execute("SELECT DISTINCT height FROM parts ORDER BY height")]

    def block(self, height: int) -> StoredBlock | None:
        """The committed block at `height`; None beyond the last one and below the base.

        Raises:
            DiskCorruption: it doesn't match its checksum, or is missing.
        """
        found = self.blocks(height, 1)
        return found[0] if found and height > 0 else None

    def blocks(self, from_height: int, count: int) -> list[StoredBlock]:
        """Up to `count` committed blocks from a height on, in order; none if that height is below the base.

        Raises:
            DiskCorruption: one doesn't match its checksum, or is missing.
        """
        first = max(from_height, 1)
        expected = range(first, min(self.height(), first + count - 1) + 1)
        if not expected or first < self._base:
            return []
        rows = self._database.execute(
            "SELECT * FROM blocks WHERE height BETWEEN ? AND ? ORDER BY height", expected.start, expected.stop - 1
        )
        for height, row in zip(expected, rows, strict=False):
            if row[0] != height:
                raise self._database.corrupt("blocks", (height,), "is gone")
            self._check("blocks", (height,), row[1:])
        if len(rows) != len(expected):
            raise self._database.corrupt("blocks", (expected.start + len(rows),), "is gone")
        return [StoredBlock(*row[:-1]) for row in rows]

    def receipts(
        self, *, after: int = 0, account: bytes | None = None, subject: bytes | None = None, limit: int = 1000
    ) -> list[StoredReceipt]:
        """Up to `limit` receipts with a sequence number above `after`, of an account or about a subject if given.

        Raises:
            DiskCorruption: one doesn't match its checksum, or is missing.
        """
        if account is not None or subject is not None:
            self._check_receipts()
        rows = self._database.execute(
            "SELECT * FROM receipts WHERE seq > ?1 AND (?2 IS NULL OR account = ?2) AND (?3 IS NULL OR subject = ?3)"
            " ORDER BY seq LIMIT ?4",
            min(after, 2**63 - 1),
            account,
            subject,
            limit,
        )
        if account is None and subject is None:
            self._check_unbroken([row[0] for row in rows], max(after, 0) + 1, limit)
        for row in rows:
            self._check("receipts", row[:-2], row[-2:])
        return [StoredReceipt(*row[:-1]) for row in rows]

    def save_pending_block(self, height: int, block_id: bytes, block: bytes) -> None:
        """Keep a proposed block of the current height, so that a lock on it survives a restart; durable on return."""
        self._database.execute(
            "INSERT OR REPLACE INTO pending VALUES (?, ?, ?, ?)",
            height,
            block_id,
            block,
            row_checksum("pending", (height, block_id), block),
        )

    def pending_block(self, height: int, block_id: bytes) -> bytes | None:
        """A proposed block by its id, or None.

        Raises:
            DiskCorruption: it doesn't match its checksum.
        """
        return self.pending_blocks(height).get(block_id)

    def pending_blocks(self, height: int) -> dict[bytes, bytes]:
        """All proposed blocks kept of a height, by id.

        Raises:
            DiskCorruption: one doesn't match its checksum.
        """
        rows = self._database.execute(
            "SELECT block_id, block, checksum FROM pending WHERE height = ? ORDER BY block_id", height
        )
        for row in rows:
            self._check("pending", (height, row[0]), row[1:])
        return {row[0]: row[1] for row in rows}

    def snapshot(self) -> tuple[int, bytes] | None:
        """Height and bytes of the latest intact state snapshot, or None.

        A damaged one is passed over for an older: the blocks after it lead to the same state.
        """
        rows = self._database.execute("SELECT height, data, checksum FROM snapshots ORDER BY height DESC")
        for height, data, checksum in rows:
            if _is_intact("snapshots", (height,), data, checksum):
                return int(height), data
        return None

    def snapshot_at(self, height: int) -> bytes | None:
        """The snapshot of a height, if there is one and it is intact."""
        rows = self._database.execute("SELECT data, checksum FROM snapshots WHERE height = ?", height)
        found: list[bytes] = [data for data, checksum in rows if _is_intact("snapshots", (height,), data, checksum)]
        return found[0] if found else None

    @property
    def snapshot_height(self) -> int:
        """Height of the newest snapshot that was stored, intact or not; 0 if there was none."""
        return self._meta.read("snapshot")

    def snapshot_heights(self) -> list[int]:
        """Heights that there are snapshots of, ascending; some may be damaged."""
        return [int(row[0]) for row in self._database.execute("SELECT height FROM snapshots ORDER BY height")]

    def _insert_receipts(self, height: int, receipts: Sequence[NewReceipt]) -> None:
        seq = int(self._database.execute("SELECT coalesce(max(seq), 0) FROM receipts")[0][0])
        for receipt in receipts:
            seq += 1
            key = (seq, height, receipt.kind, receipt.account, receipt.subject)
            checksum = row_checksum("receipts", key, receipt.data)
            self._database.execute("INSERT INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?)", *key, receipt.data, checksum)
        if receipts:
            self._meta.write("receipts", seq)

    def _insert_snapshot(self, height: int, data: bytes, keep: Sequence[int] = ()) -> None:
        checksum = row_checksum("snapshots", (height,), data)
        self._database.execute("INSERT INTO snapshots VALUES (?, ?, ?)", height, data, checksum)
        self._meta.write("snapshot", height)
        self._database.execute(
            "DELETE FROM snapshots WHERE height NOT IN (SELECT height FROM snapshots ORDER BY height DESC LIMIT ?)"
            " AND height NOT IN (SELECT value FROM json_each(?))",
            SNAPSHOTS_KEPT,
            json.dumps(list(keep)),
        )

    def _check_meta(self, genesis_hash: bytes) -> None:
        identity = {"schema": SCHEMA_VERSION.to_bytes(4, "big"), "genesis": genesis_hash}
        if self._meta.is_empty():
            if self.height() or self.guard.knows(self._database.path.name):
                raise self._database.damaged("the table meta is empty")
            self._meta.create(identity)
        self._meta.check(identity)

    def _check_tip(self) -> None:
        tip = self._meta.read("tip")
        if tip != self.height():
            fault = f"is gone: the last block that is here has height {self.height()}"
            raise self._database.corrupt("blocks", (tip,), fault)

    def _check_receipts(self) -> None:
        """Read all receipts that this process hasn't read yet: a damaged one may not be found by what it is about."""
        while self._receipts_checked < self._meta.read("receipts"):
            found = self.receipts(after=self._receipts_checked, limit=_CHECKED_AT_ONCE)
            self._receipts_checked = found[-1].seq

    def _check_unbroken(self, found: Sequence[int], first: int, limit: int) -> None:
        """Receipts are numbered without gaps, up to the number that `meta` knows."""
        expected = range(first, min(self._meta.read("receipts"), first + limit - 1) + 1)
        for seq, there in zip(expected, found, strict=False):
            if there != seq:
                raise self._database.corrupt("receipts", (seq,), "is gone")
        if len(found) != len(expected):
            raise self._database.corrupt("receipts", (first + len(found),), "is gone")

    def _check(self, table: str, key: Key, values_and_checksum: Sequence[Any]) -> None:
        *values, checksum = values_and_checksum
        # SQLite stores any type in any column: a damaged row may hold a number where bytes belong.
        if not all(isinstance(value, bytes) for value in values) or row_checksum(table, key, *values) != checksum:
            raise self._database.corrupt(table, key)


def _check_chain_is_there(path: Path, guard: SigningGuard, files: Files) -> None:
    """An empty file was cut off; SQLite takes it for a new one. One that is absent was moved away by a person."""
    if not guard.knows(path.name) or files.size(path):
        return
    if files.size(path) is not None:
        raise DiskCorruption(f"{path} is empty: it was cut off; {CHAIN_REMEDY}")
    _log.error("chain.missing", path=str(path), remedy="the chain is fetched from peers again")
    guard.note_beside(path.name, there=False)


def _is_intact(table: str, key: Key, data: object, checksum: object) -> bool:
    return isinstance(data, bytes) and row_checksum(table, key, data) == checksum
