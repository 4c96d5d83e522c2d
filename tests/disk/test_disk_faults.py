"""The faulty disk: what a power loss leaves, and that everything fails until the power is back."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from deepshard.disk.database import Database
from deepshard.errors import DiskCorruption, LocalError, UsageError
from deepshard.testing.fault_disk import Crash, FaultDisk, PowerLoss

PATH = Path("/home/node/numbers.db")
SCHEMA = ("CREATE TABLE IF NOT EXISTS numbers (value INTEGER PRIMARY KEY)",)


def open_on(disk: FaultDisk) -> Database:
    return Database(PATH, SCHEMA, journal="WAL", remedy="throw it away", files=disk)


def add(database: Database, value: int) -> None:
    database.execute("INSERT INTO numbers VALUES (?)", value)


def values(database: Database) -> list[int]:
    return [row[0] for row in database.execute("SELECT value FROM numbers ORDER BY value")]


@pytest.mark.parametrize("mode", list(Crash))
def test_a_commit_that_returned_survives_every_power_loss(mode: Crash) -> None:
    disk = FaultDisk(random.Random(1))
    database = open_on(disk)
    for value in range(20):
        add(database, value)
    disk.crash(mode)
    database.close()
    disk.reopen()
    assert values(open_on(disk)) == list(range(20))


@pytest.mark.parametrize("mode", list(Crash))
@pytest.mark.parametrize("journal", ["WAL", "TRUNCATE"])
def test_power_lost_at_any_operation_leaves_all_or_nothing_of_a_commit(mode: Crash, journal: str) -> None:
    point, done = 0, False
    while not done:
        point += 1
        disk = FaultDisk(random.Random(point))
        disk.crash_at = point
        committed = 0
        try:
            database = Database(PATH, SCHEMA, journal=journal, remedy="", files=disk)  # type: ignore[arg-type]
            for value in range(3):
                add(database, value)
                committed = value + 1
            done = True
        except PowerLoss:
            pass
        disk.crash(mode)
        disk.reopen()
        left = values(Database(PATH, SCHEMA, journal=journal, remedy="", files=disk))  # type: ignore[arg-type]
        assert left in {0: ([], [0]), 1: ([0], [0, 1]), 2: ([0, 1], [0, 1, 2]), 3: ([0, 1, 2],)}[committed]
    assert point > 20


def test_everything_fails_between_power_loss_and_reopening() -> None:
    disk = FaultDisk(random.Random(1))
    database = open_on(disk)
    disk.crash_at = disk.operations + 2
    with pytest.raises(PowerLoss):
        add(database, 1)
    before = disk.operations
    for touch in (lambda: values(database), lambda: open_on(disk), lambda: disk.size(PATH)):
        with pytest.raises(PowerLoss):
            touch()
    database.close()
    disk.crash(Crash.LOST)
    disk.reopen()
    with pytest.raises(PowerLoss):
        values(database)
    assert (disk.operations, values(open_on(disk))) == (before, [])


def test_a_connection_that_lost_its_power_touches_nothing_any_more() -> None:
    disk = FaultDisk(random.Random(1))
    database = open_on(disk)
    add(database, 1)
    disk.crash(Crash.KEPT)
    disk.reopen()
    image, operations = disk.files(), disk.operations
    database.close()
    del database
    assert (disk.files(), disk.operations) == (image, operations)
    assert values(open_on(disk)) == [1]


def test_unsynced_writes_are_lost_kept_or_torn_as_the_mode_says() -> None:
    def after(mode: Crash, seed: int = 0) -> list[int]:
        disk = FaultDisk(random.Random(seed))
        database = open_on(disk)
        database.execute("PRAGMA synchronous=OFF")
        add(database, 1)
        disk.crash(mode)
        disk.reopen()
        return values(open_on(disk))

    assert (after(Crash.LOST), after(Crash.KEPT)) == ([], [1])
    for mode in (Crash.SUBSET, Crash.TORN):
        assert {len(after(mode, seed)) for seed in range(40)} == {0, 1}


def test_a_name_is_durable_only_with_its_folder() -> None:
    disk = FaultDisk(random.Random(1))
    disk.connect(PATH).execute("PRAGMA user_version")
    assert disk.size(PATH) == 0
    disk.crash(Crash.LOST)
    disk.reopen()
    assert (disk.size(PATH), disk.files()) == (None, {})


def test_rot_is_read() -> None:
    disk = FaultDisk(random.Random(1))
    open_on(disk).close()
    image = disk.files()
    disk.flip(PATH, 3, 0)
    with pytest.raises(DiskCorruption, match="not a database"):
        open_on(disk)
    disk = FaultDisk(random.Random(1), image)
    disk.truncate(PATH, 4096)
    with pytest.raises(DiskCorruption):
        open_on(disk)
    assert disk.size(PATH) == 4096


def test_errors_are_those_of_sqlite3() -> None:
    disk = FaultDisk(random.Random(1))
    connection = disk.connect(PATH)
    cases = {
        "nonsense": (sqlite3.OperationalError, sqlite3.SQLITE_ERROR),
        "INSERT INTO numbers VALUES (NULL)": (sqlite3.IntegrityError, sqlite3.SQLITE_CONSTRAINT_NOTNULL),
        "SELECT zeroblob(9000000000)": (sqlite3.DataError, sqlite3.SQLITE_TOOBIG),
    }
    connection.execute("CREATE TABLE numbers (value INTEGER NOT NULL)")
    for statement, (kind, code) in cases.items():
        with pytest.raises(kind) as caught:
            connection.execute(statement)
        assert caught.value.sqlite_errorcode == code
    with pytest.raises(sqlite3.OperationalError, match="UTF-8"):
        connection.execute("SELECT CAST(x'ff' AS TEXT)")
    connection.close()
    with pytest.raises(sqlite3.ProgrammingError):
        connection.execute("SELECT 1")
    disk = FaultDisk(random.Random(1))
    first = open_on(disk)
    with pytest.raises(UsageError, match="in use"):
        open_on(disk)
    with pytest.raises(LocalError):
        first.execute("INSERT INTO numbers VALUES ('x', 'y')")
