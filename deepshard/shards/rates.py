"""A cap on bytes per second: a token bucket that may be overdrawn, so that one large piece needs no room of its own.

Pure: time is an argument, in seconds of any monotonic clock.
"""

from __future__ import annotations

from typing import Final

BURST_S: Final = 0.5
"""What may go at once after a silence, in seconds of the rate."""
_AT_ONCE_S: Final = 0.001
"""Less than this is no wait: clocks are not finer, and rounding must not end in a wait of nothing."""


class RateCap:
    """At most `bytes_per_s` in the long run; 0 for no cap."""

    def __init__(self, bytes_per_s: float) -> None:
        assert bytes_per_s >= 0
        self._rate = bytes_per_s
        self._debt = 0.0
        self._at = 0.0

    @property
    def is_set(self) -> bool:
        """Whether there is a cap."""
        return self._rate > 0

    def wait_s(self, now: float, size: int = 0) -> float:
        """Seconds until `size` bytes may go, or, with 0, until anything may: then it may be of any size."""
        if not self.is_set:
            return 0.0
        allowed = max(0.0, BURST_S * self._rate - size)
        wait_s = (self._left(now) - allowed) / self._rate
        return wait_s if wait_s > _AT_ONCE_S else 0.0

    def spend(self, size: int, now: float) -> None:
        """Count bytes that go, or are bound to go; a negative size gives back what didn't."""
        self._debt = max(0.0, self._left(now) + size)
        self._at = now

    def _left(self, now: float) -> float:
        return max(0.0, self._debt - max(0.0, now - self._at) * self._rate)
