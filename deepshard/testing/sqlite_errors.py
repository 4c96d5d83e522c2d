"""Errors of APSW as those of the standard library's `sqlite3`."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Final

import apsw

_CLASSES: Final[Mapping[int, type[sqlite3.Error]]] = {
    **dict.fromkeys(
        (
            sqlite3.SQLITE_ERROR,
            sqlite3.SQLITE_PERM,
            sqlite3.SQLITE_ABORT,
            sqlite3.SQLITE_BUSY,
            sqlite3.SQLITE_LOCKED,
            sqlite3.SQLITE_READONLY,
            sqlite3.SQLITE_INTERRUPT,
            sqlite3.SQLITE_IOERR,
            sqlite3.SQLITE_FULL,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_PROTOCOL,
            sqlite3.SQLITE_EMPTY,
            sqlite3.SQLITE_SCHEMA,
        ),
        sqlite3.OperationalError,
    ),
    sqlite3.SQLITE_INTERNAL: sqlite3.InternalError,
    sqlite3.SQLITE_NOTFOUND: sqlite3.InternalError,
    sqlite3.SQLITE_TOOBIG: sqlite3.DataError,
    sqlite3.SQLITE_CONSTRAINT: sqlite3.IntegrityError,
    sqlite3.SQLITE_MISMATCH: sqlite3.IntegrityError,
    sqlite3.SQLITE_MISUSE: sqlite3.InterfaceError,
    sqlite3.SQLITE_RANGE: sqlite3.InterfaceError,
}
"""As in CPython's `Modules/_sqlite/util.c`; what isn't here is a `DatabaseError`."""


def as_sqlite3(error: apsw.Error | UnicodeDecodeError) -> sqlite3.Error:
    """The `sqlite3` error for one that came out of APSW, with its `sqlite_errorcode`."""
    if isinstance(error, UnicodeDecodeError):  # sqlite3 gives this one no code
        return sqlite3.OperationalError(f"Could not decode to UTF-8: {error}")
    code = getattr(error, "extendedresult", None)
    if code is None:  # APSW's own: a closed connection, a wrong number of values
        return sqlite3.ProgrammingError(str(error))
    translated = _CLASSES.get(code & 0xFF, sqlite3.DatabaseError)(str(error))
    translated.sqlite_errorcode = code
    return translated
