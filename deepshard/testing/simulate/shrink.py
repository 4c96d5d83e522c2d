"""Shrinks a failing run: leaves out faults, then work, as long as a promise is still broken."""

from __future__ import annotations

from collections.abc import Callable

from deepshard.testing.simulate.plan import Plan

RUNS_MAX = 200


def shrink(plan: Plan, fails: Callable[[Plan], bool]) -> tuple[int, ...]:
    """Numbers of the faults that a failing run needs: leaving out any one more makes it pass.

    Tries halves first, then single ones (delta debugging, Zeller and Hildebrandt 2002, without its complements), with
    at most `RUNS_MAX` runs.
    """
    kept = tuple(range(len(plan.faults)))
    runs = 0
    size = max(1, len(kept) // 2)
    while runs < RUNS_MAX:
        for start in range(0, len(kept), size):
            fewer = kept[:start] + kept[start + size :]
            runs += 1
            if fails(plan.only(fewer)):
                kept = fewer
                break
            if runs >= RUNS_MAX:
                break
        else:
            if size == 1:
                break
            size //= 2
    return kept
