"""Requests under way to several peers: who was asked what, who is late, who disappointed. Pure: time is an argument.

A request whose answer is late is nobody's fault: what it asked for is free for others at once, and the answer is still
taken when it comes. So a network in which every peer is slow moves on, too.

Where patience may grow, it doubles whenever a peer is late, and is twice the time of its latest answer from then on:
asking again what is only slow would fill a slow link with the same answers (as RFC 6298, sections 2 and 5.5, for TCP).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from deepshard.limits import PEERS_REMEMBERED_MAX

T = TypeVar("T")
LATE_PER_PEER_MAX = 4
"""Late answers of one peer that are waited for; with more, it isn't asked again before one of them comes."""


@dataclass(slots=True)
class _Enquiry(Generic[T]):
    subject: T
    began: float
    due: float
    is_late: bool = False


class Enquiries(Generic[T]):
    """Requests for subjects of one kind; `numbers` gives their request numbers."""

    def __init__(
        self, numbers: Iterator[int], *, patience_s: float, per_peer: int, patience_max_s: float | None = None
    ) -> None:
        """Nobody is asked yet.

        Args:
            numbers: fresh request numbers, not used elsewhere for the same peers.
            patience_s: after which an answer is late, at first.
            patience_max_s: how far that may grow for a peer; not at all if None.
            per_peer: requests under way to one peer that aren't late.
        """
        self.disappointments: Counter[bytes] = Counter()
        """Answers of each peer that were late, empty or wrong: those with fewest are asked first."""
        self._numbers = numbers
        self._patience_s = patience_s
        self._patience_max_s = patience_s if patience_max_s is None else patience_max_s
        self._patience: dict[bytes, float] = {}
        self._per_peer = per_peer
        self._peers: dict[bytes, dict[int, _Enquiry[T]]] = {}

    def begin(self, peer: bytes, subject: T, now: float) -> int:
        """Note a request; its number."""
        number = next(self._numbers)
        self._peers.setdefault(peer, {})[number] = _Enquiry(
            subject, now, now + self._patience.get(peer, self._patience_s)
        )
        return number

    def end(self, peer: bytes, number: int, now: float | None = None) -> T | None:
        """An answer came, at `now`: its subject, also if it is late; None if nothing was asked under this number."""
        enquiry = self._peers.get(peer, {}).pop(number, None)
        if enquiry is None:
            return None
        if now is not None:
            self._patience[peer] = min(self._patience_max_s, max(self._patience_s, 2 * (now - enquiry.began)))
        return enquiry.subject

    def expire(self, now: float) -> list[bytes]:
        """The peers whose answers have become late by now; once for each of these."""
        slow: list[bytes] = []
        for peer, known in self._peers.items():
            for enquiry in known.values():
                if enquiry.due <= now and not enquiry.is_late:
                    enquiry.is_late = True
                    slow.append(peer)
        for peer in slow:
            self.disappoint(peer)
        for peer in set(slow):
            self._patience[peer] = min(self._patience_max_s, 2 * self._patience.get(peer, self._patience_s))
        return slow

    def release(self, peer: bytes, subjects: Iterable[T]) -> None:
        """Count these as late at once: the peer has said that it can't answer."""
        released = list(subjects)
        for enquiry in self._of(peer):
            enquiry.is_late = enquiry.is_late or enquiry.subject in released

    def forget(self, peer: bytes) -> None:
        """The peer is gone, and its answers with it."""
        self._peers.pop(peer, None)
        self._patience.pop(peer, None)

    def open(self, peer: bytes | None = None) -> list[T]:
        """What is under way and not late: of one peer, or of all."""
        peers = self._peers if peer is None else (peer,)
        return [enquiry.subject for one in peers for enquiry in self._of(one) if not enquiry.is_late]

    def has_room(self, peer: bytes) -> bool:
        """Whether the peer may be asked for more."""
        asked = self._of(peer)
        late = sum(enquiry.is_late for enquiry in asked)
        return late < LATE_PER_PEER_MAX and len(asked) - late < self._per_peer

    def disappoint(self, peer: bytes) -> None:
        """Ask the others first from now on."""
        if len(self.disappointments) > PEERS_REMEMBERED_MAX:
            self.disappointments.clear()
        self.disappointments[peer] += 1

    def rank(self, peer: bytes) -> tuple[int, int]:
        """Order of peers that could be asked: fewest disappointments first, then those with least under way."""
        return self.disappointments[peer], len(self._of(peer))

    def _of(self, peer: bytes) -> list[_Enquiry[T]]:
        return list(self._peers.get(peer, {}).values())
