"""What a case can end with, and what is noted on the way there."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from enum import StrEnum

from deepshard.conformance.registry import Case
from deepshard.errors import DeepshardError

SHOWN_CHARACTERS_MAX = 300
NOTES_MAX = 4


class Outcome(StrEnum):
    """Result of one case."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class ClauseFailed(DeepshardError):
    """The target did something else than the clause demands."""

    def __init__(self, *, sent: str, expected: str, got: str, clause: str | None = None) -> None:
        super().__init__(f"sent {sent}; expected {expected}; got {got}")
        self.sent, self.expected, self.got, self.clause = sent, expected, got, clause


class CaseSkipped(DeepshardError):
    """The case can't be run here; says why."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a case ended. `clause` is the one that failed, else the case's first."""

    case: Case
    outcome: Outcome
    seconds: float
    clause: str
    sent: str = ""
    expected: str = ""
    got: str = ""
    reason: str = ""

    @property
    def line(self) -> str:
        """The failure in one line."""
        return (
            f"{self.clause} {self.case.level.value} {self.case.title} | sent: {self.sent} | "
            f"expected: {self.expected} | got: {self.got}"
        )


@dataclass(slots=True)
class Witness:
    """What the target did wrong by itself on any link of the run, by clause, and how often a clause was looked at."""

    seen: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    broken: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def check(self, clause: str, holds: bool, fact: str) -> bool:  # noqa: FBT001  # reads as an assertion
        """Note whether the target kept to a clause; gives `holds`."""
        self.seen[clause] += 1
        if not holds and len(self.broken[clause]) < NOTES_MAX:
            self.broken[clause].append(shown(fact))
        return holds


def shown(text: str) -> str:
    """Text of a peer, fit for one line: printable and short."""
    clean = "".join(character if character.isprintable() else "?" for character in text)
    return clean if len(clean) <= SHOWN_CHARACTERS_MAX else clean[: SHOWN_CHARACTERS_MAX - 3] + "..."
