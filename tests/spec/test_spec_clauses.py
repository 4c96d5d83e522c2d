"""Every MUST of the chapters is shown by a vector, a conformance case or a test, and the index says by which."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepshard.conformance.clauses import (
    Clause,
    collect,
    index_of,
    misnumbered,
    problems,
    read_clauses,
    shown_by_tests,
    uncovered,
    unknown,
)

ROOT = Path(__file__).parents[2]
PENDING: frozenset[str] = frozenset()
"""Clauses that are being written and not shown yet. Empty in any state that is released."""

CHAPTER = """# 5 Chapter

- **5.1/1** Text that goes on
  in the next line and MUST NOT be cut.
  And on.
- **5.1/2** A sender SHOULD do this and MAY do that.

Text between. MUST in capitals counts for nothing here.

- **5.1/3** A definition.

## 5.2 Next

- **5.2/1** A receiver MUST (`X`) do more.
"""


def test_every_must_is_shown_and_the_index_is_fresh() -> None:
    pending = {f"nobody shows {number}, a MUST" for number in PENDING}
    assert [line for line in problems(ROOT) if line not in pending] == []


def test_nothing_is_pending_that_is_shown() -> None:
    clauses = read_clauses(ROOT / "protocol-spec")
    assert set(uncovered(clauses, collect(ROOT))) >= PENDING


def test_there_are_as_many_clauses_as_a_protocol_has() -> None:
    clauses = read_clauses(ROOT / "protocol-spec")
    assert len(clauses) > 300
    assert sum(clause.level == "MUST" for clause in clauses) > 150


def write(folder: Path, text: str, name: str = "05-chapter.md") -> list[Clause]:
    (folder / name).write_text(text, encoding="utf-8")
    return read_clauses(folder)


def test_clauses_are_read_with_their_level(tmp_path: Path) -> None:
    clauses = write(tmp_path, CHAPTER)
    assert [(clause.number, clause.level) for clause in clauses] == [
        ("5.1/1", "MUST"),
        ("5.1/2", "SHOULD"),
        ("5.1/3", ""),
        ("5.2/1", "MUST"),
    ]
    assert misnumbered(clauses) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [("5.1/3", "5.1/4"), ("5.1/3", "5.1/2"), ("5.2/1", "5.2/2"), ("5.2/1", "6.2/1")],
)
def test_numbers_that_repeat_or_have_gaps_are_noticed(tmp_path: Path, old: str, new: str) -> None:
    assert len(misnumbered(write(tmp_path, CHAPTER.replace(old, new)))) == 1


def test_a_must_that_nobody_shows_and_a_clause_that_is_not_there_are_noticed(tmp_path: Path) -> None:
    clauses = write(tmp_path, CHAPTER)
    shown = {"vectors": {"5.1/1": ["frames"]}, "conformance": {}, "tests": {"5.1/9": ["test"], "5.1/3": ["test"]}}
    assert uncovered(clauses, shown) == ["5.2/1"]
    assert unknown(clauses, shown) == ["5.1/9, named by test"]
    assert "| 5.1/1 | MUST | frames |  |  |" in index_of(clauses, shown)


def test_marks_are_found_on_functions_parameters_and_files(tmp_path: Path) -> None:
    (tmp_path / "test_marked.py").write_text(
        "import pytest\n"
        'pytestmark = pytest.mark.clause("1.1/1")\n'
        '@pytest.mark.clause("1.1/2", "1.1/3")\n'
        "async def test_one() -> None: ...\n"
        '@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.clause("1.1/4"))])\n'
        "def test_two(x: int) -> None: ...\n",
        encoding="utf-8",
    )
    assert shown_by_tests(tmp_path) == {
        "1.1/1": ["`test_marked`"],
        "1.1/2": ["`test_marked: test_one`"],
        "1.1/3": ["`test_marked: test_one`"],
        "1.1/4": ["`test_marked: test_two`"],
    }
