"""A disk in memory that loses power, tears writes and rots: `deepshard.disk.files.Files` over an SQLite VFS of its own.

A file keeps two images: what the process sees, and what has been synced; and between them the writes and truncations
not yet synced, in order. A power loss leaves the synced image and any part of the rest, as its mode says. Names are
kept likewise: that a file was made or deleted is durable only after its directory is synced. SQLite does that when it
first syncs a journal it made, and at every deletion it wants durable; the real VFS does the same.

The SQLite here is the one APSW carries, which needn't have the version of the `sqlite3` module. Its errors come out as
those of `sqlite3`. Nothing is thread-safe but one connection from one thread at a time.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final
from weakref import WeakValueDictionary

import apsw

from deepshard.testing.sqlite_errors import as_sqlite3

SECTOR_BYTES: Final = 512
"""A torn write ends anywhere, or leaves any of its sectors."""
FILE_BYTES_MAX: Final = 64 << 20
"""What would make a file longer meets a full disk."""
_NO_POWER: Final = "the disk has lost power"
_VFS_NAME: Final = "deepshard-fault-disk"
# What SQLite's own VFS says of a Linux file system: overwriting part of a sector harms nothing beside it.
_CHARACTERISTICS: Final = apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE
_JOURNALS: Final = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL | apsw.SQLITE_OPEN_WAL

Write = tuple[int, bytes]
"""Offset and data of a write; or a truncation to the offset, if the data is empty."""


class PowerLoss(Exception):
    """The disk has lost power: raised by everything that touches it until `FaultDisk.reopen`."""


class Crash(Enum):
    """What a power loss leaves of what wasn't synced."""

    LOST = "lost"
    """Nothing."""
    KEPT = "kept"
    """Everything, as when only the process was killed."""
    SUBSET = "subset"
    """A random part of the writes, truncations and names."""
    TORN = "torn"
    """A random part, and of the last write of each file a random prefix or random sectors."""


@dataclass(slots=True, eq=False)
class _File:
    data: bytearray = field(default_factory=bytearray)
    synced: bytearray = field(default_factory=bytearray)
    unsynced: list[Write] = field(default_factory=list)
    holder: _Handle | None = None

    def sync(self) -> None:
        for write in self.unsynced:
            _apply(self.synced, write)
        self.unsynced.clear()


def _apply(image: bytearray, write: Write) -> None:
    offset, data = write
    if not data:
        del image[offset:]
        return
    if offset > len(image):
        image.extend(bytes(offset - len(image)))
    image[offset : offset + len(data)] = data


class FaultDisk:
    """One machine's disk. Open `ChainStore`s and `Journal`s with `files=` this.

    Attributes:
        operations: writes, truncations, syncs, creations and deletions so far; each is one point to crash at.
        crash_at: the operation before which the power goes, or None; the operation itself is lost with a sync, and
            counts as the last one not synced otherwise.
    """

    def __init__(self, rng: random.Random, files: Mapping[Path, bytes] | None = None) -> None:
        """Start with `files`, synced; `rng` decides what a power loss leaves."""
        self.operations = 0
        self.crash_at: int | None = None
        self.on_operation: Callable[[str, str], None] | None = None
        """Told each operation's kind and path before it is done; may raise, and isn't to touch the disk."""
        self._rng = rng
        self._generation = 0
        self._down = False
        self._settled = True
        self._id = next(_ids)
        self._names: dict[str, _File] = {
            str(path): _File(bytearray(data), bytearray(data)) for path, data in (files or {}).items()
        }
        self._durable = dict(self._names)
        _disks[self._id] = self

    # -- Files -------------------------------------------------------------------------------------------------------

    def connect(self, path: Path) -> _Connection:
        """Open or create a file."""
        self._check()
        return _Connection(self, f"/{self._id}.{self._generation}:{path}", self._generation)

    def size(self, path: Path) -> int | None:
        """Size of a file in bytes; None if it is absent."""
        self._check()
        found = self._names.get(str(path))
        return None if found is None else len(found.data)

    # -- faults ------------------------------------------------------------------------------------------------------

    def crash(self, mode: Crash) -> None:
        """Lose power, if it isn't lost already, and settle what is left; the disk is dead until `reopen`."""
        self._lose_power()
        names: dict[str, _File] = {}
        for name in sorted(self._names.keys() | self._durable.keys()):
            before, now = self._durable.get(name), self._names.get(name)
            found = now if before is now or mode is Crash.KEPT or self._lucky(mode) else before
            if found is not None:
                names[name] = _File(image := self._left(found, mode), bytearray(image))
        self._names, self._durable = names, dict(names)
        self._settled = True

    def reopen(self) -> None:
        """Turn the power on again after `crash`."""
        assert self._settled, "crash(mode) says first what is left"
        self._down, self.crash_at = False, None

    def flip(self, path: Path, offset: int, bit: int) -> None:
        """Flip one bit of a byte of a file, behind the back of whoever has it open."""
        file = self._names[str(path)]
        for image in (file.data, file.synced):
            if offset < len(image):
                image[offset] ^= 1 << bit

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file off, behind the back of whoever has it open."""
        file = self._names[str(path)]
        del file.data[size:], file.synced[size:]

    def remove(self, path: Path) -> None:
        """Take a file away, if it is there."""
        self._names.pop(str(path), None)
        self._durable.pop(str(path), None)

    def files(self) -> dict[Path, bytes]:
        """What a process would read now, by path."""
        return {Path(name): bytes(file.data) for name, file in sorted(self._names.items())}

    # -- for the VFS -------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._down:
            raise PowerLoss(_NO_POWER)

    def _is_current(self, generation: int) -> bool:
        return generation == self._generation and not self._down

    def _operate(self, kind: str, name: str) -> None:
        """Count an operation; raises where the power goes before it."""
        self.operations += 1
        if self.on_operation is not None:
            self.on_operation(kind, name)
        if self.operations == self.crash_at:
            self._lose_power()
            raise apsw.IOError

    def _lose_power(self) -> None:
        if not self._down:
            self._generation += 1
            self._down, self._settled = True, False

    def _lucky(self, mode: Crash) -> bool:
        return mode is not Crash.LOST and self._rng.random() < 0.5

    def _left(self, file: _File, mode: Crash) -> bytearray:
        if mode is Crash.KEPT:
            return file.data
        image = file.synced
        for position, write in enumerate(file.unsynced):
            if mode is Crash.TORN and position == len(file.unsynced) - 1:
                self._tear(image, write)
            elif self._lucky(mode):
                _apply(image, write)
        return image

    def _tear(self, image: bytearray, write: Write) -> None:
        offset, data = write
        if self._rng.random() < 0.5:
            data = data[: self._rng.randint(0, len(data))]
            if data:
                _apply(image, (offset, data))
            return
        for start in range(0, len(data), SECTOR_BYTES):
            if self._rng.random() < 0.5:
                _apply(image, (offset + start, data[start : start + SECTOR_BYTES]))

    def _sync_folder(self, name: str) -> None:
        folder = name.rpartition("/")[0]
        beside = {key for key in self._names.keys() | self._durable.keys() if key.rpartition("/")[0] == folder}
        for key in beside:
            if key in self._names:
                self._durable[key] = self._names[key]
            else:
                del self._durable[key]


_ids = itertools.count(1)
_disks: WeakValueDictionary[int, FaultDisk] = WeakValueDictionary()


def _find(full: str) -> tuple[FaultDisk | None, str]:
    """Disk and path of a name; None for the disk if the power went since the name was given out."""
    number, _, name = full[1:].partition(":")
    key, _, generation = number.partition(".")
    disk = _disks.get(int(key))
    return (disk if disk is not None and disk._is_current(int(generation)) else None), name  # noqa: SLF001  # one module


class _Vfs(apsw.VFS):
    """Leads every name `/DISK.GENERATION:PATH` to its disk, while its power lasts."""

    def __init__(self) -> None:
        super().__init__(_VFS_NAME, "")

    def xOpen(self, name: Any, flags: list[int]) -> _Handle:  # noqa: N802, ANN401
        """Open, or make, a file; one without a name is a temporary of no disk."""
        flags[1] = flags[0]
        if name is None:
            return _Handle(None, "", _File(), is_new_journal=False)
        disk, path = _find(name if isinstance(name, str) else name.filename())
        if disk is None:
            raise apsw.CantOpenError
        file = disk._names.get(path)  # noqa: SLF001
        is_new = file is None
        if file is None:
            if not flags[0] & apsw.SQLITE_OPEN_CREATE:
                raise apsw.CantOpenError
            disk._operate("create", path)  # noqa: SLF001
            file = disk._names[path] = _File()  # noqa: SLF001
        return _Handle(disk, path, file, is_new_journal=is_new and bool(flags[0] & _JOURNALS))

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802, FBT001
        """Delete a file."""
        disk, path = _find(filename)
        if disk is None:
            return
        if path not in disk._names:  # noqa: SLF001
            error = apsw.IOError()
            setattr(error, "extendedresult", apsw.SQLITE_IOERR_DELETE_NOENT)  # noqa: B010  # its stub lacks it
            raise error
        disk._operate("delete", path)  # noqa: SLF001
        del disk._names[path]  # noqa: SLF001
        if syncdir:
            disk._sync_folder(path)  # noqa: SLF001

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: N802, ARG002
        """Whether a file is there; an empty one counts as absent, as in SQLite's own VFS."""
        disk, path = _find(pathname)
        file = None if disk is None else disk._names.get(path)  # noqa: SLF001
        return file is not None and len(file.data) > 0

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        """The name as it is."""
        return name

    def excepthook(self, etype: Any, evalue: Any, etraceback: Any) -> bool:  # noqa: ANN401, ARG002
        """SQLite gets a result code, and our connection says why."""
        return True


class _Handle(apsw.VFSFile):
    """An open file. Kept short: SQLite calls these for every page."""

    def __init__(self, disk: FaultDisk | None, name: str, file: _File, *, is_new_journal: bool) -> None:
        self._disk, self._name, self._file = disk, name, file
        self._generation = 0 if disk is None else disk._generation  # noqa: SLF001
        self._is_new_journal = is_new_journal

    def _is_dead(self) -> bool:
        """Whether the power went since: what a dying connection still does goes nowhere, and its caller is told."""
        disk = self._disk
        return disk is not None and self._generation != disk._generation  # noqa: SLF001

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        """Read."""
        return bytes(self._file.data[offset : offset + amount])

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802, ANN401
        """Write."""
        disk, file = self._disk, self._file
        if self._is_dead():
            return
        if offset + len(data) > FILE_BYTES_MAX:
            raise apsw.FullError
        if disk is not None:
            write = (offset, bytes(data))
            file.unsynced.append(write)
            disk._operate("write", self._name)  # noqa: SLF001
        _apply(file.data, (offset, data))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        """Cut off."""
        disk, file = self._disk, self._file
        if self._is_dead() or newsize >= len(file.data):
            return
        if disk is not None:
            file.unsynced.append((newsize, b""))
            disk._operate("truncate", self._name)  # noqa: SLF001
        del file.data[newsize:]

    def xSync(self, flags: int) -> None:  # noqa: N802, ARG002
        """Make durable; the first time in a new journal, its directory too."""
        disk = self._disk
        if disk is None or self._is_dead():
            return
        disk._operate("sync", self._name)  # noqa: SLF001
        self._file.sync()
        if self._is_new_journal:
            self._is_new_journal = False
            disk._sync_folder(self._name)  # noqa: SLF001

    def xFileSize(self) -> int:  # noqa: N802
        """Size in bytes."""
        return len(self._file.data)

    def xLock(self, level: int) -> None:  # noqa: N802, ARG002
        """Take the file; whoever has it keeps it, as the disk room's connections do."""
        holder = self._file.holder
        if holder is not None and holder is not self:
            raise apsw.BusyError
        self._file.holder = self

    def xUnlock(self, level: int) -> None:  # noqa: N802
        """Let the file go."""
        if level == apsw.SQLITE_LOCK_NONE and self._file.holder is self:
            self._file.holder = None

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        """Whether another has the file."""
        return self._file.holder not in {None, self}

    def xClose(self) -> None:  # noqa: N802
        """Close."""
        self.xUnlock(apsw.SQLITE_LOCK_NONE)

    def xSectorSize(self) -> int:  # noqa: N802
        """As SQLite's own VFS says where it doesn't know better."""
        return 4096

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        """See `_CHARACTERISTICS`."""
        return _CHARACTERISTICS

    def xFileControl(self, op: int, ptr: int) -> bool:  # noqa: N802, ARG002
        """Nothing is understood."""
        return False

    def excepthook(self, etype: Any, evalue: Any, etraceback: Any) -> bool:  # noqa: ANN401, ARG002
        """See `_Vfs.excepthook`."""
        return True


_vfs = _Vfs()


class _Rows:
    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def fetchall(self) -> list[Any]:
        return self._rows


class _Connection:
    """An APSW connection that behaves as one of `sqlite3`."""

    def __init__(self, disk: FaultDisk, full: str, generation: int) -> None:
        self._disk, self._generation = disk, generation
        self._connection: apsw.Connection = self._call(apsw.Connection, full, vfs=_VFS_NAME)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open that can still be rolled back."""
        return self._disk._is_current(self._generation) and self._connection.in_transaction  # noqa: SLF001

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> _Rows:
        """Run one statement to its end."""
        return _Rows(self._call(self._run, statement, values))

    def close(self) -> None:
        """Close the file; after a power loss there is nothing left to write."""
        with suppress(PowerLoss):
            self._call(self._connection.close, force=True)

    def _run(self, statement: str, values: Sequence[Any]) -> list[Any]:
        return self._connection.execute(statement, values).fetchall()

    def _call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        if not self._disk._is_current(self._generation):  # noqa: SLF001
            raise PowerLoss(_NO_POWER)
        try:
            result = function(*arguments, **named)
        except (apsw.Error, UnicodeDecodeError) as error:
            if not self._disk._is_current(self._generation):  # noqa: SLF001
                raise PowerLoss(_NO_POWER) from None
            raise as_sqlite3(error) from error
        if not self._disk._is_current(self._generation):  # noqa: SLF001
            raise PowerLoss(_NO_POWER)
        return result
