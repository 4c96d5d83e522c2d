"""The way from what is trusted to the light block of one height. Pure.

Up it goes by skipping verification, down by parent ids; and where a person names a block, it begins with that one.
One peer at a time shows the headers, so a false one has one author. Another may go on from what is verified.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepshard.consensus.light import InvalidLightBlock, LightBlock, LightState, trust_header
from deepshard.consensus.light_backwards import Descent
from deepshard.consensus.light_climb import Climb


class HeaderRoute:
    """One way to one height.

    Attributes:
        light: the light block of the height, when the way has ended.
        turn: another object whenever another peer goes on; answers of an earlier turn are of no use.
    """

    def __init__(self, trusted: LightState, height: int, *, named: tuple[int, bytes] | None = None) -> None:
        """Begin at `trusted`, or at the block that a person names, by height and id."""
        self.height = height
        self.light: LightBlock | None = None
        self.turn = object()
        self._chain_id = trusted.chain_id
        self._named = named
        self._climb: Climb | None = None
        self._descent: Descent | None = None
        self._shown: LightBlock | None = None
        if named is None:
            self._begin(trusted)

    @property
    def is_possible(self) -> bool:
        """Whether the height is near enough, as far as is known."""
        return self._climb is not None or self._named is not None or self._descent is not None

    def wanted(self) -> tuple[int, int]:
        """First height and number of the headers to ask for next."""
        if self._named is not None:
            return self._named[0], 1
        if self._descent is not None and not self._descent.done:
            return self._descent.wanted()
        return (self.height, 1) if self._climb is None else self._climb.wanted()

    def take(self, blocks: Sequence[LightBlock], *, now_ms: int, trusting_period_ms: int) -> bool:
        """Verify what was shown, as far as it leads. Whether it led anywhere.

        Raises:
            WrongTrustedHeader: it isn't the block that a person named; nobody is to blame.
            TrustExpired: what the way begins with, or ends at, is too old.
            InvalidLightBlock: a header is forged, or contradicts what is verified.
        """
        if self._named is not None:
            height, block_id = self._named
            block = next((block for block in blocks if block.header.height == height), None)
            if block is None:
                return False
            state = trust_header(self._chain_id, block, block_id, now_ms=now_ms, trusting_period_ms=trusting_period_ms)
            self._named = None
            if height == self.height:
                self.light = block
            else:
                self._begin(state)
            return True
        if self._climb is not None:
            led = self._climb.take(blocks, now_ms=now_ms, trusting_period_ms=trusting_period_ms)
            if self._climb.tip.height == self.height:
                self.light = self._climb.trace[-1]
            elif self._climb.done:
                self._climb = Climb(self._climb.tip, self.height)  # it goes a long way in stages
            return led
        return self._descent is not None and self._go_down(self._descent, blocks, now_ms, trusting_period_ms)

    def _go_down(self, descent: Descent, blocks: Sequence[LightBlock], now_ms: int, trusting_period_ms: int) -> bool:
        self._shown = next((block for block in blocks if block.header.height == self.height), self._shown)
        led = not descent.done and descent.take([block.header for block in blocks])
        header = descent.found().header if descent.done else None
        if header is None or self._shown is None:
            return led
        shown, self._shown = self._shown, None
        if shown.header != header:
            raise InvalidLightBlock(f"header {self.height} is not the one that the headers above it lead to")
        trust_header(self._chain_id, shown, header.block_id(), now_ms=now_ms, trusting_period_ms=trusting_period_ms)
        self.light = shown
        return True

    def pass_over(self) -> None:
        """Forget what isn't verified: another peer goes on."""
        self.turn = object()
        self._shown = None
        if self._climb is not None:
            self._climb = Climb(self._climb.tip, self.height)

    def _begin(self, trusted: LightState) -> None:
        if trusted.height < self.height:
            self._climb = Climb(trusted, self.height)
        elif trusted.header is not None and trusted.height > self.height:
            descent = Descent(trusted.header, self.height)
            self._descent = None if descent.too_far else descent
