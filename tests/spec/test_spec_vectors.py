"""The vector files are what the generator writes, and every case of theirs is what the code does."""

from __future__ import annotations

import json
import tracemalloc
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from deepshard.conformance.vectors.document import unspell
from deepshard.conformance.vectors.files import NAMES, failures_of, text_of
from deepshard.conformance.vectors.types import TYPES
from deepshard.encoding import decode
from deepshard.errors import MalformedMessage

FOLDER = Path(__file__).parents[2] / "protocol-spec/vectors"
FILE_BYTES_MAX = 400 * 1024
ALL_BYTES_MAX = 13 << 18


@cache
def text(name: str) -> str:
    return (FOLDER / f"{name}.json").read_text(encoding="utf-8")


def cases(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(text(name))["cases"]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_what_the_generator_writes(name: str) -> None:
    assert text_of(name) == text(name), "run make vectors"


@pytest.mark.parametrize("name", NAMES)
def test_the_code_agrees_with_every_case(name: str) -> None:
    assert failures_of(name, text(name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_expectation_is_noticed_in_every_case(name: str) -> None:
    document = json.loads(text(name))
    for case in document["cases"]:
        case["expect"] = {"error": "BadSignature"} if case["expect"] == "ok" else "ok"
    assert len(failures_of(name, json.dumps(document))) == len(document["cases"])


@pytest.mark.parametrize("name", NAMES)
def test_a_field_that_nothing_checks_is_noticed(name: str) -> None:
    document = json.loads(text(name))
    good = [case for case in document["cases"] if case["expect"] == "ok"]
    for case in good:
        case["stray"] = 1
    assert len(failures_of(name, json.dumps(document))) == len(good)


def test_files_and_pages_are_complete_and_small() -> None:
    files = sorted(path.stem for path in FOLDER.glob("*.json"))
    assert files == sorted(NAMES)
    assert [name for name in NAMES if not (FOLDER / f"{name}.md").exists()] == []
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"[{name}]({name}.md)" not in readme] == []
    sizes = {name: len(text(name)) for name in NAMES}
    assert {name: size for name, size in sizes.items() if size > FILE_BYTES_MAX} == {}
    assert sum(sizes.values()) <= ALL_BYTES_MAX


@pytest.mark.parametrize("name", NAMES)
def test_cases_have_names_and_clauses_and_numbers_that_a_double_holds(name: str) -> None:
    assert [case["name"] for case in cases(name) if not case["clauses"]] == []
    numbers: list[int] = []
    json.loads(text(name), parse_int=lambda digits: numbers.append(int(digits)))
    assert [number for number in numbers if abs(number) >= 2**53] == []
    assert json.loads(text(name))["format"] == f"deepshard vectors {name} v1"


@pytest.mark.clause("2.4/4", "2.4/5")
def test_what_is_declared_and_not_there_costs_no_memory() -> None:
    hostile = [case for case in cases("encoding") if {"2.4/4", "2.4/5"} & {*case["clauses"]}]
    assert len(hostile) > 10
    for case in hostile:
        data, kind = unspell(case["encoded"]), TYPES[case["type"]]
        tracemalloc.start()
        try:
            with pytest.raises(MalformedMessage):
                decode(data, kind, bytes_max=len(data))
            assert tracemalloc.get_traced_memory()[1] < 64 * 1024, case["name"]
        finally:
            tracemalloc.stop()
