"""Token buckets per kind of message: how long to wait before the next message of a peer is taken in.

A peer that sends faster than its allowance isn't punished, it is read more slowly; TCP carries that back to it. An
honest burst costs it a pause, a flood costs only the link it comes by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Rate:
    """Messages a second in the long run, and how many at once."""

    per_s: float
    burst: float


DEFAULT_RATE: Final = Rate(per_s=20_000, burst=40_000)


class RateLimiter:
    """Allowances of one peer. Kinds without a rate of their own share one bucket, so the buckets are bounded."""

    def __init__(self, rates: Mapping[int, Rate], *, other: Rate = DEFAULT_RATE, now: float) -> None:
        self._rates = dict(rates)
        self._other = other
        self._levels = dict.fromkeys(self._rates, 0.0)
        self._levels[-1] = 0.0
        self._at = dict.fromkeys(self._levels, now)

    def spend(self, kind: int, now: float) -> float:
        """Take one message of `kind` into account; seconds to wait before going on, 0 within the allowance."""
        bucket = kind if kind in self._rates else -1
        rate = self._rates.get(kind, self._other)
        drained = max(0.0, now - self._at[bucket]) * rate.per_s
        level = max(0.0, self._levels[bucket] - drained) + 1.0
        self._levels[bucket], self._at[bucket] = level, now
        return max(0.0, level - rate.burst) / rate.per_s
