"""The index of clauses: which vectors, conformance cases and tests show each (`protocol-spec/clauses.md`).

`python -m deepshard.conformance.clauses` writes it from the chapters and from whoever names a clause; with `--check` it
writes nothing and says what is wrong: a MUST that nobody shows, a clause that doesn't exist, numbers with gaps.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from deepshard.conformance.registry import clause_key, load_cases

INDEX: Final = "clauses.md"
_CHAPTER: Final = re.compile(r"\d{2}-[a-z-]+\.md")
_CLAUSE: Final = re.compile(r"- \*\*(\d+\.\d+/\d+)\*\* (.*)")
_LEVELS: Final = (
    ("MUST", re.compile(r"\bMUST\b")),
    ("SHOULD", re.compile(r"\bSHOULD\b")),
    ("MAY", re.compile(r"\bMAY\b")),
)
_HEAD: Final = """# Clauses and what shows them

Every clause of the chapters, and the vectors, conformance cases and tests that show it. Written by `make clauses`,
never by hand. A clause with more than one of the words is listed under the strongest; one without is a definition
(1.1). Of vectors the file is named, with the number of cases; of conformance cases the name without what varies within
a family.
"""


@dataclass(frozen=True, slots=True)
class Clause:
    """A clause of a chapter."""

    number: str
    level: str
    """MUST, SHOULD, MAY, or empty for a definition."""
    chapter: str
    """The chapter's file."""

    @property
    def section(self) -> str:
        """Chapter and section, as 5.2."""
        return self.number.partition("/")[0]


def read_clauses(folder: Path) -> list[Clause]:
    """All clauses of the chapters of `protocol-spec/`, in the order in which they stand."""
    chapters = sorted(path for path in folder.glob("*.md") if _CHAPTER.fullmatch(path.name))
    return [clause for path in chapters for clause in _clauses_of(path)]


def _clauses_of(path: Path) -> Iterator[Clause]:
    number, words = "", ""
    for line in [*path.read_text(encoding="utf-8").splitlines(), "end"]:
        begun = _CLAUSE.fullmatch(line)
        if begun is None and line.startswith("  ") and number:
            words += f" {line.strip()}"
            continue
        if number:
            yield Clause(number, _level_of(words), path.name)
            number = ""
        if begun is not None:
            number, words = begun[1], begun[2]


def _level_of(words: str) -> str:
    return next((level for level, pattern in _LEVELS if pattern.search(words)), "")


def shown_by_vectors(folder: Path) -> dict[str, list[str]]:
    """Clauses that cases of `protocol-spec/vectors/` name: the file, with the number of its cases."""
    found: dict[str, list[str]] = {}
    for path in sorted((folder / "vectors").glob("*.json")):
        named = Counter(clause for case in json.loads(path.read_text("utf-8"))["cases"] for clause in case["clauses"])
        for clause, times in named.items():
            found.setdefault(clause, []).append(f"[{path.stem}](vectors/{path.stem}.md) ({times})")
    return found


def shown_by_conformance() -> dict[str, list[str]]:
    """Clauses that conformance cases name: the cases, families once."""
    found: dict[str, dict[str, None]] = {}
    for case in load_cases():
        name = case.name.partition("[")[0]
        for clause in case.clauses:
            found.setdefault(clause, {})[f"`{name}`"] = None
    return {clause: list(names) for clause, names in found.items()}


def shown_by_tests(folder: Path) -> dict[str, list[str]]:
    """Clauses that tests below `folder` name by `@pytest.mark.clause`: the functions, or the file for all of it."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        for owner, clause in _marks(tree, path.stem):
            names = found.setdefault(clause, [])
            if owner not in names:
                names.append(owner)
    return found


def _marks(tree: ast.Module, stem: str) -> Iterator[tuple[str, str]]:
    """Each marked function or file, and a clause it names."""
    for node in tree.body:
        functions = [one for one in ast.walk(node) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
        for function in functions:
            yield from ((f"`{stem}: {function.name}`", clause) for clause in _named_in(function))
        if not functions:
            yield from ((f"`{stem}`", clause) for clause in _named_in(node))


def _named_in(node: ast.AST) -> Iterator[str]:
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.clause":
            for argument in call.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value


Shown = Mapping[str, Mapping[str, list[str]]]
"""By kind: vectors, conformance, tests."""


def collect(root: Path) -> Shown:
    """Who names which clause, in a checkout."""
    return {
        "vectors": shown_by_vectors(root / "protocol-spec"),
        "conformance": shown_by_conformance(),
        "tests": shown_by_tests(root / "tests"),
    }


def uncovered(clauses: Iterable[Clause], shown: Shown) -> list[str]:
    """Clauses with MUST or MUST NOT that nobody names."""
    named = {clause for by_clause in shown.values() for clause in by_clause}
    return [clause.number for clause in clauses if clause.level == "MUST" and clause.number not in named]


def unknown(clauses: Iterable[Clause], shown: Shown) -> list[str]:
    """Clauses that somebody names and no chapter has."""
    known = {clause.number for clause in clauses}
    return [
        f"{clause}, named by {names[0]}"
        for by_clause in shown.values()
        for clause, names in sorted(by_clause.items(), key=lambda entry: clause_key(entry[0]))
        if clause not in known
    ]


def misnumbered(clauses: Iterable[Clause]) -> list[str]:
    """Clauses that don't stand where their number says: repeated, out of order, after a gap, in another chapter."""
    wrong: list[str] = []
    expected = {"": 0}
    for clause in clauses:
        section, number = clause.section, int(clause.number.partition("/")[2])
        expected[section] = expected.get(section, 0) + 1
        if number != expected[section]:
            wrong.append(f"{clause.number} stands where {section}/{expected[section]} should")
            expected[section] = number
        if int(clause.chapter[:2]) != int(section.partition(".")[0]):
            wrong.append(f"{clause.number} stands in {clause.chapter}")
    return wrong


def index_of(clauses: Iterable[Clause], shown: Shown) -> str:
    """The text of `clauses.md`."""
    parts = [_HEAD]
    for chapter, members in groupby(clauses, key=lambda clause: clause.chapter):
        rows = [_row(clause, shown) for clause in members]
        table = "\n".join(("| clause | level | vectors | conformance | tests |", "|---|---|---|---|---|", *rows))
        parts.append(f"## [{chapter.removesuffix('.md')}]({chapter})\n\n{table}\n")
    return "\n".join(parts)


def _row(clause: Clause, shown: Shown) -> str:
    cells = (", ".join(shown[kind].get(clause.number, ())) for kind in ("vectors", "conformance", "tests"))
    return f"| {clause.number} | {clause.level} | {' | '.join(cells)} |"


def problems(root: Path) -> list[str]:
    """Everything that is wrong in a checkout, one line each."""
    clauses, shown = read_clauses(root / "protocol-spec"), collect(root)
    path = root / "protocol-spec" / INDEX
    found = [f"numbers: {line}" for line in misnumbered(clauses)]
    found += [f"no such clause: {line}" for line in unknown(clauses, shown)]
    found += [f"nobody shows {number}, a MUST" for number in uncovered(clauses, shown)]
    if not path.exists() or path.read_text(encoding="utf-8") != index_of(clauses, shown):
        found.append(f"{path.relative_to(root)} is stale: run make clauses")
    return found


def main() -> int:
    """Exit code 1 if `--check` finds something."""
    parser = argparse.ArgumentParser(prog="python -m deepshard.conformance.clauses", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; say what is wrong")
    parser.add_argument("--root", type=Path, default=Path(), help="the checkout (%(default)s)")
    options = parser.parse_args()
    root: Path = options.root
    if options.check:
        found = problems(root)
        sys.stdout.writelines(f"{line}\n" for line in found)
        return 1 if found else 0
    clauses, shown = read_clauses(root / "protocol-spec"), collect(root)
    (root / "protocol-spec" / INDEX).write_text(index_of(clauses, shown), encoding="utf-8")
    missing = uncovered(clauses, shown)
    sys.stdout.write(f"{len(clauses)} clauses, {len(missing)} with MUST that nobody shows\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
