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
    reopened = Journal(tmp_path / "journal.sqlite")
    with pytest.raises(DiskCorruption, match="vote/1"):
        reopened.get("vote/1")
    reopened.close()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"not a database, but long enough to look like one" * 40)
    with pytest.raises(LocalError, match="cannot open the journal"):
        Journal(tmp_path / "journal.sqlite")
