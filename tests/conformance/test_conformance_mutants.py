"""The suite judges broken nodes, each on the clause of the rule that it breaks, and ours."""

from __future__ import annotations

import ast
import os
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio
from solo_network import SoloNode, solo_node

from deepshard.conformance.registry import Case, load_cases, select
from deepshard.conformance.session import Options, run_cases
from deepshard.conformance.verdicts import Outcome, Result

BROKEN = Path(__file__).parent / "broken"
STARTER = str(Path(__file__).parent / "broken_node.py")
TOGETHER = 8
TIMEOUT_S = 8.0
"""For a busy machine longer than a person's; but shorter than a handshake may take, whose end is no refusal."""
LISTEN_HOSTS = (f"127.{1 + os.getpid() // 250 % 250}.{1 + os.getpid() % 250}.{1 + run % 250}" for run in count())
"""A loopback address for each run: a node goes on dialling ports that its run has closed, and another may get one."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """What a file of `broken/` says of itself."""

    name: str
    breaks: tuple[str, ...]
    only: tuple[str, ...]
    blocks: int
    listens: bool
    strict: bool


def read_mutant(path: Path) -> Mutant:
    """Read the constants without importing the file: importing breaks nothing, but calling does."""
    values: dict[str, Any] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
            try:
                values[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return Mutant(
        path.stem,
        values["BREAKS"],
        values["ONLY"],
        values.get("BLOCKS", 0),
        values.get("LISTEN", False),
        values.get("STRICT", False),
    )


MUTANTS = tuple(read_mutant(path) for path in sorted(BROKEN.glob("*.py")))


def cases_of(mutant: Mutant) -> tuple[Case, ...]:
    """The mutant's section: every case of the clauses that it breaks, and of the other families one each."""
    families: set[str] = set()
    chosen = []
    for case in select(load_cases(), mutant.only):
        family = case.name.partition("[")[0]
        if not is_too_long(case) and (set(case.clauses) & set(mutant.breaks) or family not in families):
            families.add(family)
            chosen.append(case)
    return tuple(chosen)


def is_too_long(case: Case) -> bool:
    """A minute of silence is for a whole run, not for every commit."""
    return "closes-the-silent" in case.name


async def judge(
    node: SoloNode, cases: tuple[Case, ...], *, listens: bool, strict: bool, timeout_s: float
) -> list[Result]:
    options = Options(
        target=node.listen,
        listen=f"{next(LISTEN_HOSTS)}:0" if listens else None,
        genesis=node.genesis,
        account=node.account,
        strict=strict,
        timeout_s=timeout_s,
    )
    return await run_cases(options, cases, lambda _: None)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Result]]:
    """What the suite says of every mutant, several at a time."""
    results: dict[str, list[Result]] = {}
    limiter = trio.CapacityLimiter(TOGETHER)

    async def one(mutant: Mutant) -> None:
        async with limiter:
            folder = tmp_path_factory.mktemp(mutant.name)
            async with solo_node(folder, blocks=mutant.blocks, command=(STARTER, mutant.name)) as node:
                results[mutant.name] = await judge(
                    node, cases_of(mutant), listens=mutant.listens, strict=mutant.strict, timeout_s=TIMEOUT_S
                )

    async def everyone() -> None:
        async with trio.open_nursery() as nursery:
            for mutant in MUTANTS:
                nursery.start_soon(one, mutant)

    trio.run(everyone)
    return results


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_broken_node_fails_on_the_clause_that_it_breaks(mutant: Mutant, judged: dict[str, list[Result]]) -> None:
    failed = [result for result in judged[mutant.name] if result.outcome is Outcome.FAILED]
    for result in failed:
        assert set(result.case.clauses) & set(mutant.breaks), result.line
    for clause in mutant.breaks:
        assert any(clause in result.case.clauses for result in failed), f"no case notices that {clause} is broken"


def test_there_are_enough_broken_nodes() -> None:
    assert len(MUTANTS) >= 20


def test_our_own_node_conforms(tmp_path: Path) -> None:
    cases = tuple(case for case in load_cases() if not is_too_long(case))

    async def run() -> list[Result]:
        async with solo_node(tmp_path, blocks=63, history=60) as node:
            return await judge(node, cases, listens=True, strict=True, timeout_s=TIMEOUT_S)

    results = trio.run(run)
    assert len(results) == len(cases) >= 200
    assert [result.line for result in results if result.outcome is Outcome.FAILED] == []
    assert [(result.case.name, result.reason) for result in results if result.outcome is Outcome.SKIPPED] == []
