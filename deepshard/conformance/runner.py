"""Runs cases against a target, several at a time, and gives their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from deepshard.conformance.account import Purse
from deepshard.conformance.harness import Harness
from deepshard.conformance.listening import Hub
from deepshard.conformance.peer import Ended
from deepshard.conformance.registry import Case, Lane, Level, Needs, Side
from deepshard.conformance.target import Target
from deepshard.conformance.verdicts import CaseSkipped, ClauseFailed, Outcome, Result, Witness

TOGETHER = 8
"""Cases at a time; each has a few links with the target, which allows only so many from one address."""
WAITING_TOGETHER = 16
"""Cases that wait for a time-out of the target cost it next to nothing."""
MEMBERS_PER_CASE = 3
CASE_S = 90.0

OnResult = Callable[[Result], None]


class Run:
    """One run: its target, its witness and what came of it."""

    def __init__(self, target: Target, hub: Hub | None, on_result: OnResult = lambda _: None) -> None:
        self.target, self.hub = target, hub
        self.witness = Witness()
        self.results: list[Result] = []
        self._on_result = on_result
        account = target.account
        self._purse = None if account is None else Purse(account, target.network.chain_id)

    async def cases(self, cases: Sequence[Case]) -> list[Result]:
        """Run them: three lanes beside each other, then those that must be alone, then the judges."""
        limiters = {
            Lane.ORDINARY: trio.CapacityLimiter(TOGETHER),
            Lane.WAITING: trio.CapacityLimiter(WAITING_TOGETHER),
            Lane.MESH: trio.CapacityLimiter(max(1, self.target.mesh_room // MEMBERS_PER_CASE)),
        }
        async with trio.open_nursery() as nursery:
            for lane, limiter in limiters.items():
                for case in cases:
                    if case.lane is lane:
                        nursery.start_soon(self._limited, case, limiter)
        for lane in (Lane.ALONE, Lane.LAST):
            for case in cases:
                if case.lane is lane:
                    await self.case(case)
        return self.results

    async def _limited(self, case: Case, limiter: trio.CapacityLimiter) -> None:
        async with limiter:
            await self.case(case)

    async def case(self, case: Case) -> Result:
        """Run one case."""
        began = trio.current_time()
        reason = self._skip_reason(case)
        if reason is not None:
            result = Result(case, Outcome.SKIPPED, 0.0, case.clause, reason=reason)
        else:
            result = await self._judged(case, began)
        self.results.append(result)
        self._on_result(result)
        return result

    def _skip_reason(self, case: Case) -> str | None:
        if case.level is Level.SHOULD and not self.target.strict:
            return "a SHOULD: runs under --strict"
        if case.side is Side.LISTENER and self.hub is None:
            return "needs --listen HOST:PORT, an address that the target dials"
        if Needs.GENESIS in case.needs and self.target.genesis is None:
            return "needs --genesis FILE"
        if Needs.ACCOUNT in case.needs and self.target.account is None:
            return "needs --account FILE, a key whose account has a balance"
        return None

    async def _judged(self, case: Case, began: float) -> Result:
        try:
            await self._attempt_alone(case)
        except CaseSkipped as skipped:
            return Result(case, Outcome.SKIPPED, trio.current_time() - began, case.clause, reason=str(skipped))
        except ClauseFailed as failed:
            clause, sent, expected, got = failed.clause or case.clause, failed.sent, failed.expected, failed.got
        except Ended as ended:
            clause, sent, expected, got = case.clause, "its part", "the connection to last", ended.how
        except trio.TooSlowError:
            clause, sent, expected, got = case.clause, "its part", f"an end within {CASE_S:g} s", "none"
        else:
            return Result(case, Outcome.PASSED, trio.current_time() - began, case.clause)
        seconds = trio.current_time() - began
        return Result(case, Outcome.FAILED, seconds, clause, sent=sent, expected=expected, got=got)

    async def _attempt_alone(self, case: Case) -> None:
        """A case that fails within nurseries of its own fails like any other."""
        try:
            await self._attempt(case)
        except BaseExceptionGroup as group:
            first: BaseException = group
            while isinstance(first, BaseExceptionGroup) and len(first.exceptions) == 1:
                first = first.exceptions[0]
            if isinstance(first, ClauseFailed | CaseSkipped | Ended | trio.TooSlowError):
                raise first from None
            raise

    async def _attempt(self, case: Case) -> None:
        harness = Harness(self.target, self.hub, self.witness, self._purse)
        try:
            with trio.fail_after(CASE_S):
                await case.run(harness)
                if harness.must_still_serve:
                    await harness.close()
                    await harness.still_serves()
        finally:
            with trio.CancelScope(shield=True):
                await harness.close()
