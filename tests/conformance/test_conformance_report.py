"""The registry of cases, verdicts and reports."""

from __future__ import annotations

import ast
import io
import json
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from deepshard.conformance import plugin, report
from deepshard.conformance.registry import Case, Lane, Level, Side, load_cases, select
from deepshard.conformance.verdicts import ClauseFailed, Outcome, Result, Witness, shown
from deepshard.errors import UsageError

CASES_MIN = 200


async def nothing(_: object) -> None:
    """A case that does nothing."""


def made(clause: str, level: Level = Level.MUST) -> Case:
    return Case(f"{clause} made", (clause,), "a title with [brackets]", level, Side.DIALLER, nothing)


PASSED = Result(made("5.2/1"), Outcome.PASSED, 0.1, "5.2/1")
FAILED = Result(made("5.10/2"), Outcome.FAILED, 0.2, "5.10/2", sent="a <frame>", expected="silence", got="noise")
SHOULD = Result(made("4.1/1", Level.SHOULD), Outcome.FAILED, 0.2, "4.1/1", sent="x", expected="y", got="z")
SKIPPED = Result(made("5.2/2"), Outcome.SKIPPED, 0.0, "5.2/2", reason="needs [more]")
RESULTS = [FAILED, SKIPPED, PASSED, SHOULD]


def test_there_are_many_cases_and_each_has_a_name_of_its_own() -> None:
    cases = load_cases()
    assert len(cases) >= CASES_MIN
    assert [name for name, count in Counter(case.name for case in cases).items() if count > 1] == []
    assert {case.side for case in cases} == set(Side)
    assert {case.level for case in cases} == set(Level)
    assert {case.lane for case in cases} == set(Lane)


def test_every_case_has_a_title_that_tells_it_from_the_others() -> None:
    titles = Counter((case.clause, case.side, case.title) for case in load_cases())
    assert [title for title, count in titles.items() if count > 1] == []
    assert [case.name for case in load_cases() if "{" in case.title and "}" in case.title] == []


def test_cases_are_chosen_by_chapter_section_and_clause() -> None:
    cases = (made("5.1/1"), made("5.1/10"), made("5.10/1"), made("15.1/1"))
    assert select(cases, []) == cases
    assert select(cases, ["5"]) == cases[:3]
    assert select(cases, ["5.1"]) == cases[:2]
    assert select(cases, ["5.1/1"]) == cases[:1]
    assert select(cases, ["15", "5.1/1"]) == (cases[0], cases[3])
    for wrong in ("6", "5.1/2", "x", "5.", ""):
        with pytest.raises(UsageError):
            select(cases, [wrong])


def test_the_exit_code_is_the_verdict() -> None:
    assert report.verdict([PASSED, SKIPPED], strict=True) == 0
    assert report.verdict([PASSED, FAILED], strict=False) == 1
    assert report.verdict([PASSED, SHOULD], strict=False) == 0
    assert report.verdict([PASSED, SHOULD], strict=True) == 1


def test_the_tree_is_in_the_order_of_the_text_and_shows_what_failed() -> None:
    out = Console(file=io.StringIO(), width=200)
    report.print_tree(out, RESULTS, verbose=False)
    report.print_failures(out, RESULTS)
    report.print_summary(out, RESULTS, 1.0, strict=False)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    places = [
        text.index(part) for part in ("4 Handshake", "5 Packets", "5.2/1 a title with [brackets]", "5.2/2", "5.10/2")
    ]
    assert places == sorted(places)
    assert "needs [more]" in text
    assert FAILED.line in text
    assert "does not conform" in text


def test_a_failure_is_one_line_with_clause_sent_expected_and_got() -> None:
    for part in ("5.10/2", "sent: a <frame>", "expected: silence", "got: noise"):
        assert part in FAILED.line
    assert "\n" not in FAILED.line


def test_junit_and_json_hold_every_result(tmp_path: Path) -> None:
    report.write_junit(tmp_path / "junit.xml", RESULTS, 1.0)
    root = ET.parse(tmp_path / "junit.xml").getroot()
    assert [(suite.get("tests"), suite.get("failures"), suite.get("skipped")) for suite in root] == [
        ("1", "1", "0"),
        ("3", "1", "1"),
    ]
    report.write_json(tmp_path / "report.json", RESULTS, "127.0.0.1:1", 1.0, strict=True)
    facts = json.loads((tmp_path / "report.json").read_text())
    assert (facts["conforms"], facts["strict"], len(facts["results"])) == (False, True, 4)
    assert facts["results"][-1] | {"failed": "5.10/2", "sent": "a <frame>", "got": "noise"} == facts["results"][-1]


def test_text_of_the_target_cannot_forge_a_report() -> None:
    assert shown("a\nFAILED\x1b[2J") == "a?FAILED?[2J"
    assert len(shown("x" * 10_000)) <= 300
    assert isinstance(ClauseFailed(sent="", expected="", got=""), Exception)


def test_the_witness_keeps_the_first_few_facts_of_each_clause() -> None:
    witness = Witness()
    for number in range(10):
        witness.check("5.2/2", number < 2, f"fact {number}")
    assert witness.seen["5.2/2"] == 10
    assert witness.broken["5.2/2"] == ["fact 2", "fact 3", "fact 4", "fact 5"]


def test_the_plugin_loads_nothing_until_it_is_asked() -> None:
    tree = ast.parse(Path(plugin.__file__).read_text(encoding="utf-8"))
    loaded = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    loaded |= {node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert loaded == {"__future__", "collections.abc", "pathlib", "typing", "pytest"}
