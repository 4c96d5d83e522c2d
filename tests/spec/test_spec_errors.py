"""The errors of chapter 13 are the classes of the code, with their points."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Final

import pytest
from spec_text import rows

import deepshard
from deepshard.errors import InvalidTransaction, RemoteError

ROOMS: Final = ("errors", "ranges", "identity", "evidence", "wire", "gossip", "consensus", "ledger", "shards")
"""The rooms that judge what peers send; the others pass their errors on."""


def modules() -> Iterator[str]:
    for module in pkgutil.walk_packages(deepshard.__path__, "deepshard."):
        if module.name.split(".")[1] in ROOMS:
            yield module.name


def in_code() -> list[tuple[str, int, bool]]:
    """Name, points, and whether it is a transaction's, of every error a peer can cause."""
    names = list(modules())
    for name in names:
        importlib.import_module(name)
    found: list[type[RemoteError]] = []
    waiting: list[type[RemoteError]] = [RemoteError]
    while waiting:
        below = waiting.pop().__subclasses__()
        waiting += below
        found += [error for error in below if error.__module__ in names]
    return sorted((error.__name__, error.penalty, issubclass(error, InvalidTransaction)) for error in found)


@pytest.mark.clause("13.1/1")
def test_errors_and_points_are_those_of_the_code() -> None:
    described: list[tuple[str, int, bool]] = []
    is_transaction = False
    for row in rows("13-errors", "error", "points", "meaning"):
        name = row["error"].strip("`")
        is_transaction = is_transaction or name == "InvalidTransaction"
        described.append((name, int(row["points"]), is_transaction))
    assert sorted(described) == in_code()
