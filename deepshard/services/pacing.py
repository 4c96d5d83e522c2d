"""When blocks are proposed and how long a step may take: local timing, none of it part of consensus. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from deepshard.consensus.types import Step


@dataclass(frozen=True, slots=True)
class Pacing:
    """Local timing, none of it part of consensus: pauses between blocks and timeouts that grow by half a round."""

    block_interval_s: float = 0.3
    empty_block_interval_s: float = 1.0
    propose_timeout_s: float = 3.0
    vote_timeout_s: float = 1.0

    def at_least(self, interval_ms: int) -> Pacing:
        """The same, with pauses that keep the times of blocks from running ahead of the clock; see 10.3/1."""
        interval_s = interval_ms / 1000
        return replace(
            self,
            block_interval_s=max(self.block_interval_s, interval_s),
            empty_block_interval_s=max(self.empty_block_interval_s, interval_s),
        )

    def timeout_s(self, step: Step, round_: int) -> float:
        """How long to wait in a step of a round."""
        base = self.propose_timeout_s if step is Step.PROPOSE else self.vote_timeout_s
        return base * (1 + 0.5 * min(round_, 20))
