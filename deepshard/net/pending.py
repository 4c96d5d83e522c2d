"""Connections whose handshake isn't finished, and which of them makes room for a new one."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from deepshard.errors import RemoteError


class Unfinished(Protocol):
    """What is pending: a link that can be ended."""

    def end(self, error: RemoteError | None = None) -> None:
        """End it."""
        ...


class TooManyHandshakes(RemoteError):
    """Given up for newer connections. Whoever floods us isn't known to be the peer: no penalty."""

    penalty = 0


class PendingHandshakes:
    """At most `links_max` handshakes under way. A new one is always taken in.

    When there is no room, the oldest one of the host that has most is given up: who opens a thousand connections and
    says nothing loses them to whoever comes next, and a handshake of an honest peer takes three messages.
    """

    def __init__(self, links_max: int) -> None:
        self._links_max = links_max
        self._hosts: dict[Unfinished, str] = {}
        """In order of arrival."""
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._hosts)

    def add(self, link: Unfinished, host: str) -> None:
        """Take a connection in."""
        if len(self._hosts) >= self._links_max:
            crowded = max(self._counts, key=lambda name: (self._counts[name], name == host))
            oldest = next(known for known, name in self._hosts.items() if name == crowded)
            self.remove(oldest)
            oldest.end(TooManyHandshakes(f"{self._links_max} handshakes are under way, most of them from {crowded}"))
        self._hosts[link] = host
        self._counts[host] += 1

    def remove(self, link: Unfinished) -> None:
        """Its handshake is over, or it was given up before."""
        host = self._hosts.pop(link, None)
        if host is None:
            return
        self._counts[host] -= 1
        if not self._counts[host]:
            del self._counts[host]
