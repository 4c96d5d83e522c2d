"""When blocks are proposed and how long a step may take: local timing, none of it part of consensus. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from deepshard.consensus.types import Step


@dataclass(frozen=True, slots=True)
class Pacing:
    """Local timing, none of it part of consensus: pauses between blocks and timeouts that grow by half a round."""

    block_interval_s: float = 0.3
    empty_block_interval_s: float = 1.0
    propose_timeout_s: float = 3.0
    vote_timeout_s: float = 1.0

    def timeout_s(self, step: Step, round_: int) -> float:
        """How long to wait in a step of a round."""
        base = self.propose_timeout_s if step is Step.PROPOSE else self.vote_timeout_s
        return base * (1 + 0.5 * min(round_, 20))
