"""The registry of cases, keyed by clause of `protocol-spec/`.

    @case("5.1/1", title="a packet of 0 bytes is refused")
    async def empty_packet(harness: Harness) -> None: ...

A family is one function with `each`: a case for every entry, named after it. The function gets the entry's value.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from deepshard.errors import UsageError

_CLAUSE: Final = re.compile(r"\d{1,2}\.\d{1,2}/\d{1,3}")
_SELECTOR: Final = re.compile(r"\d{1,2}(\.\d{1,2}(/\d{1,3})?)?")


class Level(StrEnum):
    """What breaking the clause means: a MUST fails the run, a SHOULD only under `--strict`."""

    MUST = "MUST"
    SHOULD = "SHOULD"


class Side(StrEnum):
    """Which side of the handshake the suite takes."""

    DIALLER = "dialler"
    LISTENER = "listener"


class Lane(StrEnum):
    """What a case may run beside."""

    ORDINARY = "ordinary"
    WAITING = "waiting"
    """It waits for a time-out of the target: such cases cost next to nothing and wait together."""
    MESH = "mesh"
    """Its links are members of the gossip mesh, which has room for a few."""
    ALONE = "alone"
    """It takes up what the target has for everybody, or measures time."""
    LAST = "last"
    """It judges what all the others have seen."""


class Needs(StrEnum):
    """What a case needs beyond an address; it is skipped, with the reason, where that isn't there."""

    GENESIS = "genesis"
    ACCOUNT = "account"


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to check. `clauses[0]` is what it fails on; the others are shown, too, when it passes."""

    name: str
    clauses: tuple[str, ...]
    title: str
    level: Level
    side: Side
    run: Callable[[Any], Awaitable[None]]
    lane: Lane = Lane.ORDINARY
    needs: tuple[Needs, ...] = ()

    @property
    def clause(self) -> str:
        """The clause it is filed under."""
        return self.clauses[0]


Run = Callable[..., Awaitable[None]]
_cases: dict[str, Case] = {}


def case(
    *clauses: str,
    title: str,
    level: Level = Level.MUST,
    side: Side = Side.DIALLER,
    each: Mapping[str, Any] | Iterable[Any] | None = None,
    lane: Lane = Lane.ORDINARY,
    needs: tuple[Needs, ...] = (),
) -> Callable[[Run], Run]:
    """Register a case, or with `each` a family of them: `title` may hold `{}` for the entry's name."""
    assert clauses
    assert all(_CLAUSE.fullmatch(clause) for clause in clauses), clauses

    def register(function: Run) -> Run:
        where = "dialled-" if side is Side.LISTENER else ""
        name = f"{clauses[0]} {where}{function.__name__.replace('_', '-')}"
        entries: Mapping[str, Any]
        if each is None:
            _add(Case(name, clauses, title, level, side, function, lane, needs))
            return function
        entries = each if isinstance(each, Mapping) else {str(entry): entry for entry in each}
        for label, value in entries.items():
            run = _bound(function, value)
            shown = title.replace("{}", label) if "{}" in title else f"{title}: {label}"
            _add(Case(f"{name}[{label}]", clauses, shown, level, side, run, lane, needs))
        return function

    return register


def _bound(function: Run, value: object) -> Callable[[Any], Awaitable[None]]:
    async def run(harness: object) -> None:
        await function(harness, value)

    return run


def _add(new: Case) -> None:
    assert new.name not in _cases, f"two cases are called {new.name}"
    _cases[new.name] = new


def load_cases() -> tuple[Case, ...]:
    """Every case, ordered by clause."""
    from deepshard.conformance import cases  # noqa: PLC0415  # the cases import this module

    for module in pkgutil.iter_modules(cases.__path__):
        importlib.import_module(f"{cases.__name__}.{module.name}")
    return tuple(sorted(_cases.values(), key=lambda each: (clause_key(each.clause), each.name)))


def clause_key(clause: str) -> tuple[int, ...]:
    """Order of clauses: by number, not by letter."""
    return tuple(int(part) for part in re.split(r"[./]", clause))


def select(cases: Iterable[Case], only: Iterable[str]) -> tuple[Case, ...]:
    """Cases of which a clause lies in one of the chapters (`4`), sections (`4.2`) or clauses (`4.2/7`) named.

    Raises:
        UsageError: one of them has no case, or isn't such a number.
    """
    everything = tuple(cases)
    selectors = tuple(only)
    chosen: dict[str, Case] = {}
    for selector in selectors:
        if not _SELECTOR.fullmatch(selector):
            raise UsageError(f"--only {selector}: give a chapter (4), a section (4.2) or a clause (4.2/7)")
        found = [each for each in everything if any(_lies_in(clause, selector) for clause in each.clauses)]
        if not found:
            raise UsageError(f"--only {selector}: no case is filed under it; --list shows all")
        chosen.update((each.name, each) for each in found)
    return everything if not selectors else tuple(each for each in everything if each.name in chosen)


def _lies_in(clause: str, selector: str) -> bool:
    return clause == selector or clause.startswith((f"{selector}.", f"{selector}/"))
