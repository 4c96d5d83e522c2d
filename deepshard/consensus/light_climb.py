"""Skipping verification with bisection: from a trusted state up to a header that one peer shows.

A header that too few of the trusted validators signed is kept as a pivot, and the one half way to it is asked for. At
the height right after the trusted one verification is sequential and needs no signer in common, so a climb of n
heights ends after at most log2(n) pivots that lead nowhere, or with an error of whoever showed the headers
(Braithwaite et al., arXiv 2010.07031, section 3.3).
"""

from __future__ import annotations

from collections.abc import Iterable

from deepshard.consensus.light import InsufficientTrust, LightBlock, LightState, verify_skipping
from deepshard.consensus.types import Header
from deepshard.limits import LIGHT_BLOCKS_MAX, SYNC_BLOCKS_MAX


class Climb:
    """One peer's headers between a trusted state and a goal.

    Attributes:
        tip: what has been verified last.
        trace: the light blocks that were verified on the way, the goal's last.
    """

    def __init__(self, start: LightState, goal: int, *, fork: LightBlock | None = None) -> None:
        """Climb to `goal`, or to the header `fork` that is here already."""
        self.tip = start
        self.trace: list[LightBlock] = []
        self.goal = goal
        self._is_goal_fixed = fork is not None
        self._pivots: list[LightBlock] = []
        self._shown: dict[int, LightBlock] = {} if fork is None else {goal: fork}

    @property
    def done(self) -> bool:
        """Whether the goal is verified."""
        return self.tip.height == self.goal

    def wanted(self) -> tuple[int, int]:
        """First height and number of the headers to ask for next: all up to the goal if one answer holds them."""
        target = self._target()
        if not self._pivots and target - self.tip.height <= SYNC_BLOCKS_MAX:
            return self.tip.height + 1, target - self.tip.height
        return target, 1

    def take(self, blocks: Iterable[LightBlock], *, now_ms: int, trusting_period_ms: int) -> bool:
        """Verify what was shown, as far as it leads. Whether it led anywhere.

        Raises:
            TrustExpired: what the climb began with is too old.
            InvalidLightBlock: a header that was shown is forged, or contradicts what is verified.
        """
        below = self.goal if self._is_goal_fixed else self.goal + 1
        fresh = {block.header.height: block for block in blocks if self.tip.height < block.header.height < below}
        if not self._is_goal_fixed and not self._pivots and fresh and self._target() not in fresh:
            self.goal = max(fresh)  # an answer holds as many headers as fit
        self._shown |= fresh
        moved = False
        while not self.done and (block := self._shown.get(self._target())) is not None:
            self._pivots.append(block)
            moved = True
            self._rise(now_ms, trusting_period_ms)
        return moved

    def linked(self) -> list[Header]:
        """Headers that were shown below the tip and that it proves by their parent ids, from the tip downwards."""
        child, found = self.tip.header, []
        while child is not None and (below := self._shown.get(child.height - 1)) is not None:
            if below.header.block_id() != child.parent_id:
                break
            child = below.header
            found.append(child)
        return found

    def _target(self) -> int:
        return (self.tip.height + self._pivots[-1].header.height) // 2 if self._pivots else self.goal

    def _rise(self, now_ms: int, trusting_period_ms: int) -> None:
        while self._pivots:
            block = self._pivots[-1]
            try:
                self.tip = verify_skipping(self.tip, block, now_ms=now_ms, trusting_period_ms=trusting_period_ms)
            except InsufficientTrust:
                return
            self._pivots.pop()
            self.trace.append(block)
            self._forget()

    def _forget(self) -> None:
        """Stay bounded on a long way: a goal that isn't fixed is reached in stages, and one that is has no trace."""
        oldest = self.tip.height - SYNC_BLOCKS_MAX
        self._shown = {height: block for height, block in self._shown.items() if height >= oldest}
        if self._is_goal_fixed:
            del self.trace[:-1]
        elif len(self.trace) >= LIGHT_BLOCKS_MAX:
            self.goal = self.tip.height
            self._pivots.clear()
