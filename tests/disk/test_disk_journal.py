"""The journal keeps promises across restarts and notices damage."""

import sqlite3
from pathlib import Path

import pytest

from deepshard.disk.journal import Journal
from deepshard.errors import DiskCorruption, LocalError


def test_values_survive_reopening(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    journal.put("vote/1", b"first")
    journal.put("vote/1", b"second")
    journal.close()
    reopened = Journal(tmp_path / "journal.sqlite")
    assert reopened.get("vote/1") == b"second"
    assert reopened.get("vote/2") is None
    reopened.close()


def test_a_changed_value_is_noticed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    journal.put("vote/1", b"salt")
    journal.close()
    with sqlite3.connect(tmp_path / "journal.sqlite") as database:
        database.execute("UPDATE promise SET value = ?", (b"pepper",))
    database.close()
    with pytest.raises(DiskCorruption, match="vote/1"):
        Journal(tmp_path / "journal.sqlite")


@pytest.mark.parametrize("damage", ["value = 5", "value = 'salt'", "key = 'vote/2'", "key = x'00'", "checksum = x'00'"])
def test_any_damaged_entry_is_found_at_opening(tmp_path: Path, damage: str) -> None:
    test_values_survive_reopening(tmp_path)
    with sqlite3.connect(tmp_path / "journal.sqlite") as database:
        database.execute(f"UPDATE promise SET {damage}")
    database.close()
    with pytest.raises(DiskCorruption, match="does not match its checksum"):
        Journal(tmp_path / "journal.sqlite")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"not a database, but long enough to look like one" * 40)
    with pytest.raises(LocalError, match=r"journal\.sqlite"):
        Journal(tmp_path / "journal.sqlite")
