"""The detector: where a witness's header parts from what this client verified, and whether it follows from there, too.

Trusted light blocks and the trace of the newest climb are points of one chain. A witness that shows another header for
the last point is asked for its headers at points in between, by bisection, until two neighbours are found where it
agrees at the lower one and differs at the upper one. Then its own header is verified from the lower one. If it holds,
some of those who signed one of the two headers are faulty: that is an attack (CometBFT's detector; Braithwaite et al.,
arXiv 2010.07031, section 5), and who of the two peers lies can't be told from here.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepshard.consensus.light import InvalidLightBlock, LightBlock
from deepshard.consensus.light_climb import Climb
from deepshard.consensus.light_events import LightAttack
from deepshard.consensus.light_trail import Point


class Detector:
    """The examination of one witness.

    Attributes:
        attack: what it came to, if it came to that.
    """

    def __init__(self, points: Sequence[Point], fork: LightBlock) -> None:
        """`fork` is what the witness shows in place of the last point."""
        self._points = points
        self._agrees = 0 if points[0].block is None else -1  # every peer has our genesis: the handshake says so
        self._differs = len(points) - 1
        self._fork = fork
        self._climb: Climb | None = None
        self.attack: LightAttack | None = None

    def wanted(self) -> tuple[int, int]:
        """First height and number of the headers to ask the witness for next."""
        return self._climb.wanted() if self._climb is not None else (self._points[self._middle()].height, 1)

    def take(self, blocks: Sequence[LightBlock], *, now_ms: int, trusting_period_ms: int) -> bool:
        """Look at the witness's answer. Whether it led anywhere; when it led to the end, `attack` is set.

        Raises:
            TrustExpired: what both agree on is too old to tell.
            InvalidLightBlock: the witness's header doesn't follow from what both agree on.
        """
        if self._climb is None:
            point = self._points[self._middle()]
            shown = next((block for block in blocks if block.header.height == point.height), None)
            if shown is None:
                return False
            if shown.header.block_id() == point.state.block_id:
                self._agrees = self._middle()
            else:
                self._differs, self._fork = self._middle(), shown
        return self.settle(blocks, now_ms=now_ms, trusting_period_ms=trusting_period_ms)

    def settle(self, blocks: Sequence[LightBlock] = (), *, now_ms: int, trusting_period_ms: int) -> bool:
        """Verify the witness's header as soon as the place where it parts from ours is known; see `take`."""
        if self._differs - self._agrees > 1:
            return True
        if self._agrees < 0:
            raise InvalidLightBlock(f"header {self._fork.header.height} is of a chain that nothing trusted leads to")
        common, ours = self._points[self._agrees], self._points[self._differs]
        moved = self._climb is None
        if self._climb is None:
            self._climb = Climb(common.state, ours.height, fork=self._fork)
        moved |= self._climb.take(blocks, now_ms=now_ms, trusting_period_ms=trusting_period_ms)
        if self._climb.done:
            assert ours.block is not None  # only genesis has none, and it is the first point
            self.attack = LightAttack(
                common.state.chain_id, common.height, common.state.block_id, ours.block, self._fork
            )
        return moved

    def _middle(self) -> int:
        return (self._agrees + self._differs) // 2
