"""Checking vector files against the code, from nothing but their JSON.

A check is given a case and returns what it computed, by field: each has to be equal to what the case lists. A case
whose `expect` is an error has to raise exactly that one. Every field of a case that goes well has to be read or
computed by its check, so that nothing stands in a file that nobody looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from deepshard.conformance.vectors.document import Json, plain, unspell
from deepshard.errors import DeepshardError

_META: Final = frozenset({"name", "clauses", "expect", "why", "note"})


class Fields(Mapping[str, Any]):
    """A case, and which of its fields were read; `shared` is what stands beside the cases of its file."""

    def __init__(self, case: Json, shared: Json) -> None:
        """Wrap a case as it stands in the JSON."""
        self._case = case
        self.shared = shared
        self.seen: set[str] = set()

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401
        value = self._case[key]
        self.seen.add(key)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._case)

    def __len__(self) -> int:
        return len(self._case)

    def data(self, key: str) -> bytes:
        """Bytes, written in hex or as runs."""
        return unspell(self[key])

    def number(self, key: str) -> int:
        """An integer, written as a number or a decimal string."""
        return int(self[key])


class Ended(DeepshardError):
    """What a check raises to tell more of how a case ended than the error: what was sent, for what reason."""

    def __init__(self, error: DeepshardError, **facts: Any) -> None:  # noqa: ANN401
        super().__init__(str(error))
        self.name = type(error).__name__
        self.facts = {key: plain(value) for key, value in facts.items()}


Check = Callable[[Fields], Json]


def failures(document: Json, check: Check) -> list[str]:
    """What is wrong with a file, one line for each case that doesn't hold."""
    shared = {key: value for key, value in document.items() if key != "cases"}
    found = ((case["name"], _failure(case, shared, check)) for case in document["cases"])
    return [f"{document['format']}: {name}: {failure}" for name, failure in found if failure]


def _failure(case: Json, shared: Json, check: Check) -> str:
    fields = Fields(case, shared)
    expected = case["expect"]
    try:
        computed = {key: plain(value) for key, value in check(fields).items()}
    except Ended as ended:
        got = {"error": ended.name, **ended.facts}
        return "" if got == expected else f"expected {expected}, got {got}: {ended}"
    except DeepshardError as error:
        got = {"error": type(error).__name__}
        return "" if got == expected else f"expected {expected}, got {got}: {error}"
    if expected != "ok":
        return f"expected {expected}, but it went well"
    wrong = [key for key, value in computed.items() if case.get(key) != value]
    if wrong:
        return f"{wrong[0]} is {computed[wrong[0]]!r}, the vector has {case.get(wrong[0])!r}"
    unread = set(case) - fields.seen - set(computed) - _META
    return f"nothing checks {sorted(unread)}" if unread else ""
