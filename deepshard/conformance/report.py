"""Results for people and for machines: a tree in the terminal, JUnit XML, JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from deepshard.conformance.registry import Case, Level, clause_key
from deepshard.conformance.verdicts import Outcome, Result

CHAPTERS: Final = {
    1: "Notation and primitives",
    2: "Canonical encoding",
    3: "Identities and signatures",
    4: "Handshake",
    5: "Packets, frames and streams",
    6: "Messages",
    7: "Gossip",
    8: "Shards",
    9: "Consensus",
    10: "Blocks",
    11: "Transactions",
    12: "Limits",
    13: "Errors",
    14: "Versions",
    15: "Security",
}
_MARKS: Final = {Outcome.PASSED: "[green]✓[/]", Outcome.FAILED: "[red]✗[/]", Outcome.SKIPPED: "[yellow]-[/]"}


def verdict(results: Iterable[Result], *, strict: bool) -> int:
    """Exit code: 1 if a MUST failed, or a SHOULD under `--strict`; else 0."""
    counted = (result for result in results if strict or result.case.level is Level.MUST)
    return int(any(result.outcome is Outcome.FAILED for result in counted))


def ordered(results: Iterable[Result]) -> list[Result]:
    """By clause."""
    return sorted(results, key=lambda result: (clause_key(result.case.clause), result.case.name))


def print_tree(console: Console, results: Sequence[Result], *, verbose: bool) -> None:
    """A tree of chapters, sections and clauses. What passed is one line for each clause, unless `verbose`."""
    for chapter, of_chapter in groupby(ordered(results), key=lambda result: clause_key(result.case.clause)[0]):
        in_chapter = list(of_chapter)
        tree = Tree(f"{chapter} {CHAPTERS[chapter]}  {_counts(in_chapter)}")
        for section, of_section in groupby(in_chapter, key=lambda result: result.case.clause.partition("/")[0]):
            in_section = list(of_section)
            branch = tree.add(f"{section}  {_counts(in_section)}")
            for clause, of_clause in groupby(in_section, key=lambda result: result.case.clause):
                _add_clause(branch, clause, list(of_clause), verbose=verbose)
        console.print(tree, highlight=False, soft_wrap=True)


def _add_clause(branch: Tree, clause: str, results: list[Result], *, verbose: bool) -> None:
    if len(results) == 1 and results[0].outcome is Outcome.PASSED:
        branch.add(f"{_MARKS[Outcome.PASSED]} {clause} {escape(results[0].case.title)}")
        return
    failed = [result for result in results if result.outcome is not Outcome.PASSED]
    mark = next((_MARKS[outcome] for outcome in (Outcome.FAILED, Outcome.SKIPPED) if _has(results, outcome)), None)
    node = branch.add(f"{mark or _MARKS[Outcome.PASSED]} {clause}  {_counts(results)}")
    for result in results if verbose else failed:
        shown = f"{_MARKS[result.outcome]} {escape(result.case.title)}"
        node.add(f"{shown}: {escape(result.reason)}" if result.reason else shown)


def _has(results: Iterable[Result], outcome: Outcome) -> bool:
    return any(result.outcome is outcome for result in results)


def _counts(results: Sequence[Result]) -> str:
    counts = Counter(result.outcome for result in results)
    parts = [f"[green]{counts[Outcome.PASSED]}[/]/{len(results)}"]
    if counts[Outcome.FAILED]:
        parts.append(f"[red]{counts[Outcome.FAILED]} failed[/]")
    if counts[Outcome.SKIPPED]:
        parts.append(f"[yellow]{counts[Outcome.SKIPPED]} skipped[/]")
    return " ".join(parts)


def print_failures(console: Console, results: Iterable[Result]) -> None:
    """One line for each failure: clause, what was sent, what was expected, what came."""
    for result in ordered(results):
        if result.outcome is Outcome.FAILED:
            console.print(f"[red]FAILED[/] {escape(result.line)}", highlight=False, soft_wrap=True)


def print_summary(console: Console, results: Sequence[Result], seconds: float, *, strict: bool) -> None:
    """The last line."""
    counts = Counter(result.outcome for result in results)
    good = verdict(results, strict=strict) == 0
    words = "[green]conforms[/]" if good else "[red]does not conform[/]"
    console.print(
        f"{len(results)} cases: {counts[Outcome.PASSED]} passed, {counts[Outcome.FAILED]} failed, "
        f"{counts[Outcome.SKIPPED]} skipped in {seconds:.1f} s; the target {words}",
        highlight=False,
        soft_wrap=True,
    )


def print_list(console: Console, cases: Sequence[Case]) -> None:
    """The cases, without running them."""
    for case in cases:
        side = f"{case.side.value}, {case.level.value}"
        console.print(f"{case.clause:8} {escape(case.title)} [dim]({side})[/]", highlight=False, soft_wrap=True)
    console.print(f"{len(cases)} cases", highlight=False)


def write_json(path: Path, results: Sequence[Result], target: str, seconds: float, *, strict: bool) -> None:
    """Every result, as JSON."""
    report = {
        "format": "deepshard-conformance-1",
        "target": target,
        "strict": strict,
        "seconds": round(seconds, 3),
        "conforms": verdict(results, strict=strict) == 0,
        "results": [_json(result) for result in ordered(results)],
    }
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _json(result: Result) -> dict[str, Any]:
    case = result.case
    entry: dict[str, Any] = {
        "name": case.name,
        "clauses": list(case.clauses),
        "title": case.title,
        "level": case.level.value,
        "side": case.side.value,
        "outcome": result.outcome.value,
        "seconds": round(result.seconds, 3),
    }
    if result.outcome is Outcome.FAILED:
        entry |= {"failed": result.clause, "sent": result.sent, "expected": result.expected, "got": result.got}
    if result.outcome is Outcome.SKIPPED:
        entry["reason"] = result.reason
    return entry


def write_junit(path: Path, results: Sequence[Result], seconds: float) -> None:
    """A test suite for each chapter, in JUnit's XML."""
    root = ET.Element("testsuites", name="deepshard.conformance", time=f"{seconds:.3f}")
    for chapter, of_chapter in groupby(ordered(results), key=lambda result: clause_key(result.case.clause)[0]):
        in_chapter = list(of_chapter)
        counts = Counter(result.outcome for result in in_chapter)
        suite = ET.SubElement(
            root,
            "testsuite",
            name=f"{chapter} {CHAPTERS[chapter]}",
            tests=str(len(in_chapter)),
            failures=str(counts[Outcome.FAILED]),
            skipped=str(counts[Outcome.SKIPPED]),
            time=f"{sum(result.seconds for result in in_chapter):.3f}",
        )
        for result in in_chapter:
            _add_testcase(suite, result)
    ET.indent(root)
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _add_testcase(suite: ET.Element, result: Result) -> None:
    case = result.case
    element = ET.SubElement(
        suite, "testcase", classname=f"clause {case.clause}", name=case.title, time=f"{result.seconds:.3f}"
    )
    if result.outcome is Outcome.FAILED:
        failure = ET.SubElement(element, "failure", type=case.level.value, message=result.line)
        failure.text = f"sent: {result.sent}\nexpected: {result.expected}\ngot: {result.got}"
    if result.outcome is Outcome.SKIPPED:
        ET.SubElement(element, "skipped", message=result.reason)


class Progress:
    """A line that counts, where somebody watches."""

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total, self._done, self._failed = console, total, 0, 0
        self._status = console.status("shaking hands ...") if console.is_terminal else None
        if self._status is not None:
            self._status.start()

    def show(self, result: Result) -> None:
        """One more case has ended."""
        self._done += 1
        self._failed += result.outcome is Outcome.FAILED
        if self._status is not None:
            self._status.update(f"{self._done} of {self._total} cases, {self._failed} failed: {result.case.name}")

    def done(self) -> None:
        """Take the line away."""
        if self._status is not None:
            self._status.stop()
