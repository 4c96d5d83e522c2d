"""The suite as a pytest plugin: with `--deepshard-target` every case becomes a test, without it nothing happens.

    pytest --deepshard-target 127.0.0.1:7420 [--deepshard-only 5.4] [--deepshard-strict] ...

All cases run together when the first of their tests is due; each test then tells how its case ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from deepshard.conformance.registry import Case
    from deepshard.conformance.verdicts import Result

_OPTIONS = {
    "target": "HOST:PORT of the node to judge; without it the suite doesn't run.",
    "listen": "HOST:PORT that the target can dial.",
    "genesis": "Genesis file of the target's network.",
    "chain-id": "Instead of the genesis file; else the target is asked.",
    "genesis-hash": "With the chain id.",
    "key": "Public key that the target must prove.",
    "account": "File with the seed of an account that has a balance.",
    "timeout": "Seconds the target may take to answer or to close.",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the command line, with a prefix."""
    group = parser.getgroup("deepshard conformance")
    for name, text in _OPTIONS.items():
        group.addoption(f"--deepshard-{name}", default=None, help=text)
    group.addoption("--deepshard-strict", action="store_true", help="SHOULD counts like MUST.")
    group.addoption("--deepshard-only", action="append", default=[], help="Chapter, section or clause; repeatable.")


def pytest_collection(session: pytest.Session) -> None:
    """Remember whether there is anything to do."""
    session.config.stash[_WANTED] = session.config.getoption("--deepshard-target") is not None


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add a test for each case."""
    if not config.stash.get(_WANTED, False):
        return
    from deepshard.conformance.registry import load_cases, select  # noqa: PLC0415  # nothing is loaded unless asked for
    from deepshard.errors import UsageError  # noqa: PLC0415

    try:
        cases = select(load_cases(), config.getoption("--deepshard-only"))
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None
    suite = Suite.from_parent(session, name="conformance", nodeid="conformance")
    suite.cases = cases
    items.extend(suite.collect())


_WANTED = pytest.StashKey[bool]()


class Suite(pytest.Collector):
    """All cases; they run together, once."""

    cases: tuple[Case, ...] = ()
    _results: dict[str, Result] | None = None

    def collect(self) -> Iterator[CaseItem]:
        """A test for each case."""
        for case in self.cases:
            item = CaseItem.from_parent(self, name=case.name)
            item.case = case
            yield item

    def results(self) -> dict[str, Result]:
        """How every case ended."""
        if self._results is None:
            self._results = {result.case.name: result for result in self._run()}
        return self._results

    def _run(self) -> list[Result]:
        import trio  # noqa: PLC0415

        from deepshard.conformance.session import TIMEOUT_S, Options, run_cases  # noqa: PLC0415

        def given(name: str) -> Any:  # noqa: ANN401
            return self.config.getoption(f"--deepshard-{name}")

        options = Options(
            target=given("target"),
            listen=given("listen"),
            genesis=Path(given("genesis")) if given("genesis") else None,
            chain_id=given("chain-id"),
            genesis_hash=given("genesis-hash"),
            key=given("key"),
            account=Path(given("account")) if given("account") else None,
            strict=given("strict"),
            timeout_s=float(given("timeout") or TIMEOUT_S),
        )
        return trio.run(run_cases, options, self.cases, lambda _: None)


class ClauseBroken(Exception):
    """A case failed; its text is the report."""


class CaseItem(pytest.Item):
    """One case."""

    case: Case

    def runtest(self) -> None:
        """Tell how the case ended.

        Raises:
            ClauseBroken: the target breaks a clause.
        """
        from deepshard.conformance.verdicts import Outcome  # noqa: PLC0415

        suite = self.parent
        assert isinstance(suite, Suite)
        result = suite.results()[self.case.name]
        if result.outcome is Outcome.SKIPPED:
            pytest.skip(result.reason)
        if result.outcome is Outcome.FAILED:
            raise ClauseBroken(result.line)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:  # noqa: ANN401
        """The report alone: a traceback would show the suite, not the target."""
        if isinstance(excinfo.value, ClauseBroken):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where pytest says it is."""
        return Path(__file__), None, f"{self.case.clause}: {self.case.title}"
