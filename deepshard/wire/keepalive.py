"""How many PINGs a peer may send (protocol-spec, 5.7/3)."""

from __future__ import annotations

from deepshard.limits import PING_BURST_MAX, PING_RATE_MAX
from deepshard.wire.events import RateExceeded


class PingAllowance:
    """Token bucket for the peer's PINGs."""

    def __init__(self, now: float) -> None:
        self._level = 0.0
        self._at = now

    def spend(self, now: float) -> None:
        """Take one PING into account.

        Raises:
            RateExceeded: beyond burst and rate.
        """
        self._level = max(0.0, self._level - max(0.0, now - self._at) * PING_RATE_MAX) + 1.0
        self._at = now
        if self._level > PING_BURST_MAX:
            raise RateExceeded(f"more than {PING_BURST_MAX} PINGs at once and {PING_RATE_MAX:g} a second")
