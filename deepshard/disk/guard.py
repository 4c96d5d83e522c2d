"""The signing guard: what this validator signed last, on disk before the signature leaves the process.

It has a file of its own, apart from the chain: a chain that is lost or damaged is fetched again from peers, but a guard
that is lost with it lets the validator sign twice and lose its stake. Never copy an older guard over a newer one, and
never run two nodes with one key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from deepshard.ballots import Round, ValidRound
from deepshard.consensus.types import SafetyState, Step
from deepshard.disk.database import Database, row_checksum
from deepshard.disk.files import OS_FILES, Files
from deepshard.encoding import Record, decode, encode
from deepshard.errors import DiskCorruption, LocalError, MalformedMessage
from deepshard.limits import MIB
from deepshard.primitives import Count, Digest, Height

GUARD_NAME: Final = "guard.db"
GUARD_REMEDY: Final = (
    "without it this node may sign twice and lose its stake: put the file back as it was (never an older copy), or "
    "give the node a new key and an empty home directory"
)
SIGNED_MAX: Final = 384
"""Signatures remembered of one height, to repeat them after a crash: those of 128 rounds."""
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS guard (id INTEGER PRIMARY KEY, data BLOB NOT NULL, checksum BLOB NOT NULL)",
)


class DoubleSignRefused(LocalError):
    """We were about to sign something in conflict with what we signed before."""

    def __init__(self, asked: Signed, recorded: Signed) -> None:
        super().__init__(f"refused to sign {_describe(asked)}: already signed {_describe(recorded)}")
        self.asked, self.recorded = asked, recorded


class Signed(Record, frozen=True):
    """One signature given: a proposal (step PROPOSE) or a vote, and the block it was for."""

    height: Height
    round: Round
    step: Step
    block_id: Digest
    valid_round: ValidRound


class GuardRecord(Record, frozen=True):
    """All the guard knows: signatures of the last height in the order given, and the lock they were given under.

    `logged` is how many entries the consensus log had of that height when the last of them was given; `beside` names
    the files that lie beside the guard.
    """

    signed: tuple[Signed, ...] = ()
    safety: SafetyState | None = None
    logged: Count = 0
    beside: tuple[str, ...] = ()


class SigningGuard:
    """Refuses any signature that conflicts with an earlier one or goes back behind it."""

    def __init__(self, path: Path, *, files: Files = OS_FILES) -> None:
        """Open or create the guard.

        Raises:
            UsageError: another process has the file.
            DiskCorruption: the file is damaged; restore it or retire the key, but don't delete it.
        """
        # Not WAL: a WAL frame with a flipped bit is dropped silently, and with it the latest signatures.
        self._database = Database(path, _SCHEMA, journal="TRUNCATE", remedy=GUARD_REMEDY, files=files)
        try:
            self._database.check()
            self._record = self._read()
        except LocalError:
            self._database.close()
            raise

    def safety(self) -> SafetyState | None:
        """The lock to resume with, or None if nothing was signed yet."""
        return self._record.safety

    def signed(self, height: int) -> tuple[Signed, ...]:
        """What was signed at `height`, oldest first, so that it can be signed and sent again after a restart."""
        return tuple(entry for entry in self._record.signed if entry.height == height)

    def logged(self, height: int) -> int:
        """How many entries the consensus log had of `height` when it was last signed at; 0 if it wasn't."""
        return self._record.logged if self.signed(height) else 0

    def allow_and_record(self, asked: Signed, safety: SafetyState, *, logged: int = 0) -> None:
        """Record a signature about to be given, durably; sign only after this returns.

        Args:
            asked: the vote or proposal, without its signature.
            safety: `State.safety()` after the transition that asked for the signature.
            logged: entries of this height in the consensus log, which are on disk.

        Raises:
            DoubleSignRefused: something else was signed for this height, round and step, or something later was
                signed already. Repeating a recorded signature is allowed.
        """
        if asked in self._record.signed:
            return
        if self._record.signed:
            last = self._record.signed[-1]
            if _position(asked) <= _position(last):
                same = (entry for entry in self._record.signed if _position(entry) == _position(asked))
                raise DoubleSignRefused(asked, next(same, last))
        signed = (*self.signed(asked.height), asked)[-SIGNED_MAX:]
        self._write(GuardRecord(signed, safety, logged, self._record.beside))

    def knows(self, name: str) -> bool:
        """Whether a file of this name, once filled, lies beside the guard."""
        return name in self._record.beside

    def note_beside(self, name: str, *, there: bool) -> None:
        """Remember, durably, that a file beside the guard was filled, or that it is to be made anew."""
        if there != self.knows(name):
            beside = {*self._record.beside, name} if there else {*self._record.beside} - {name}
            self._write(msgspec.structs.replace(self._record, beside=tuple(sorted(beside))))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _read(self) -> GuardRecord:
        rows = self._database.execute("SELECT id, data, checksum FROM guard")
        if not rows:
            if self._database.execute("PRAGMA user_version") != [(0,)]:
                raise self._database.corrupt("guard", (1,), "is gone")
            with self._database.transaction():
                self._write(GuardRecord())
                self._database.execute("PRAGMA user_version=1")
            return self._record
        id_, data, checksum = rows[0]
        if len(rows) > 1 or not isinstance(data, bytes) or row_checksum("guard", (id_,), data) != checksum:
            raise self._database.corrupt("guard", (1,))
        try:
            return decode(data, GuardRecord, bytes_max=MIB)
        except MalformedMessage as error:
            raise LocalError(f"{self._database.path} was written by another version: {error}") from error

    def _write(self, record: GuardRecord) -> None:
        data = encode(record)
        self._database.execute("INSERT OR REPLACE INTO guard VALUES (1, ?, ?)", data, row_checksum("guard", (1,), data))
        self._record = record


def lost_guard(path: Path) -> DiskCorruption:
    """The error for a guard that is gone though its node has lived."""
    return DiskCorruption(f"{path} is gone: {GUARD_REMEDY}")


def _position(signed: Signed) -> tuple[int, int, int]:
    return signed.height, signed.round, signed.step


def _describe(signed: Signed) -> str:
    return f"{signed.step.name.lower()} {signed.block_id.hex()[:16]} at height {signed.height}, round {signed.round}"
