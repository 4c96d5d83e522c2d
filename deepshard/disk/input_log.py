"""The consensus log: what consensus took in, in order, of this height and the last.

What justified a signature is on disk before the signature leaves the process: entries gather in memory and are written
in one transaction by `flush`, which the signer calls first. The guard remembers how many there were, so a log that has
lost some is noticed. The log is a help, not a safeguard: without it the guard alone prevents signing twice.

Timeouts, built blocks and restarts aren't taken in again after a restart: they are logged so that it can be said later
why the node did what it did (`deepshard trace export`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from deepshard.ballots import Round
from deepshard.consensus.types import SafetyState, Step
from deepshard.disk.database import Database, row_checksum
from deepshard.encoding import Record
from deepshard.primitives import Count, Digest

INPUT_LOG_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS inputs (height INTEGER NOT NULL, seq INTEGER NOT NULL, kind INTEGER NOT NULL,"
    " data BLOB NOT NULL, checksum BLOB NOT NULL, PRIMARY KEY (height, seq))"
)
ENTRIES_MAX: Final = 1 << 14
"""Entries kept of one height, some 3 MiB; the oldest go first."""


class LoggedKind(IntEnum):
    """What an entry's bytes are."""

    VALID_PROPOSAL = 1
    INVALID_PROPOSAL = 2
    VOTE = 3
    LOCK_PROOF = 4
    TIMEOUT = 5
    VALUE = 6
    RESTART = 7


@dataclass(frozen=True, slots=True)
class LoggedInput:
    """An encoded, signed proposal or vote, a proof-of-lock, or one of the three below."""

    kind: LoggedKind
    data: bytes


class LoggedTimeout(Record, frozen=True):
    """A timeout of the height that was over."""

    step: Step
    round: Round


class LoggedValue(Record, frozen=True):
    """A block that was built for a round of the height."""

    round: Round
    block_id: Digest


class LoggedRestart(Record, frozen=True):
    """The node began anew when the log had so many entries, and resumed the height with `safety`."""

    entries: Count
    safety: SafetyState | None


@dataclass(frozen=True, slots=True)
class Recalled:
    """What the log has of a height, oldest first, and what is wrong with it (None: nothing)."""

    entries: tuple[LoggedInput, ...]
    fault: str | None


class InputLog:
    """The table `inputs` of the chain's file."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._height = 0
        self._count = 0
        self._known: set[bytes] = set()
        self._waiting: dict[int, LoggedInput] = {}

    @property
    def count(self) -> int:
        """Entries of the height being decided so far, those in memory and those dropped included."""
        return self._count

    def note(self, height: int, entry: LoggedInput) -> None:
        """Consensus took something in; kept in memory until the next `flush`. Known entries change nothing."""
        if height != self._height:
            self._begin(height)
        if entry.data in self._known:
            return
        if len(self._known) >= 2 * ENTRIES_MAX:
            self._known.clear()
        self._known.add(entry.data)
        self._waiting[self._count] = entry
        self._waiting.pop(self._count - ENTRIES_MAX, None)
        self._count += 1

    def flush(self) -> None:
        """Write what is in memory; durable on return."""
        if self._waiting:
            with self._database.transaction():
                self.write()
            self.written()

    def write(self) -> None:
        """Write what is in memory as part of a transaction; `written` is to be called once it is committed."""
        for seq, entry in self._waiting.items():
            checksum = row_checksum("inputs", (self._height, seq, int(entry.kind)), entry.data)
            self._database.execute(
                "INSERT OR REPLACE INTO inputs VALUES (?, ?, ?, ?, ?)",
                self._height,
                seq,
                int(entry.kind),
                entry.data,
                checksum,
            )
        if self._waiting and self._count > ENTRIES_MAX:
            self._database.execute(
                "DELETE FROM inputs WHERE height = ? AND seq < ?", self._height, self._count - ENTRIES_MAX
            )

    def written(self) -> None:
        """What `write` wrote is committed."""
        self._waiting.clear()

    def drop_below(self, height: int) -> None:
        """Forget earlier heights, as part of a transaction."""
        self._database.execute("DELETE FROM inputs WHERE height < ?", height)

    def resume(self, height: int, count_min: int) -> Recalled:
        """Read the log of the height to be decided after a restart, and go on behind it.

        Args:
            height: the height being decided.
            count_min: entries there were when the last signature was given, as the guard remembers.
        """
        intact, damaged = self._read(height)
        count = max(count_min, max(intact, default=-1) + 1)
        missing = count - max(0, count - ENTRIES_MAX) - len(intact)
        self._begin(height)
        self._count = count
        self._known = {entry.data for entry in intact.values()}
        fault = f"{missing} entries are gone or damaged" if damaged or missing else None
        return Recalled(tuple(intact.values()), fault)

    def entries(self, height: int) -> tuple[LoggedInput, ...]:
        """Intact entries on disk of the height being decided or the last decided one, oldest first."""
        return tuple(self._read(height)[0].values())

    def _read(self, height: int) -> tuple[dict[int, LoggedInput], bool]:
        """Intact entries by number, in order, and whether there are others."""
        rows = self._database.execute(
            "SELECT seq, kind, data, checksum FROM inputs WHERE height = ? ORDER BY seq", height
        )
        intact = {
            seq: LoggedInput(LoggedKind(kind), data)
            for seq, kind, data, checksum in rows
            if isinstance(data, bytes) and row_checksum("inputs", (height, seq, kind), data) == checksum
        }
        return intact, len(intact) < len(rows)

    def _begin(self, height: int) -> None:
        self._height, self._count = height, 0
        self._known.clear()
        self._waiting.clear()
