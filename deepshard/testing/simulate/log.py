"""The event log of a run: JSON lines that are the same for the same seed, and counts of what was exercised."""

from __future__ import annotations

import json
from collections import Counter
from contextvars import ContextVar

import trio

NODE: ContextVar[str] = ContextVar("simulated node", default="-")
"""The node whose task is running."""
Fact = str | int | float | bool | None


class EventLog:
    """Events in order. Those of every message are kept only where `traced` is asked for."""

    def __init__(self, *, traced: bool) -> None:
        self.traced = traced
        self.seen: Counter[str] = Counter()
        """How often each fault, branch and event of services occurred."""
        self.peak_round = 0
        """The highest round that a core has reached since this was reset."""
        self._events: list[tuple[int, str, str, dict[str, Fact]]] = []

    def add(self, what: str, node: str | None = None, **facts: Fact) -> None:
        """Note an event, at the virtual microsecond it happens."""
        self._events.append((round(trio.current_time() * 1e6), NODE.get() if node is None else node, what, facts))

    def lines(self) -> str:
        """All events, one JSON object a line."""
        return "".join(
            json.dumps({"us": us, "node": node, "event": what, **facts}, separators=(",", ":")) + "\n"
            for us, node, what, facts in self._events
        )
