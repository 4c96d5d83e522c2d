"""Relay of consensus votes: batched, and only to peers that don't seem to have them yet. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from deepshard.consensus.types import Vote

VOTES_KEPT_MAX = 4096
VOTES_PER_STEP_MAX = 3


@dataclass(slots=True)
class VoteRelay:
    """Votes of the current height, and which peers are known to have each.

    A vote goes at once from its author to all its peers; the others pass it on a moment later, to those of their peers
    that have neither sent it nor signed it. In a well-connected network most relays fall away.
    """

    _holders: dict[bytes, set[bytes]] = field(default_factory=dict)
    _cast: Counter[tuple[bytes, int, int]] = field(default_factory=Counter)
    _fresh: list[bytes] = field(default_factory=list)

    def is_known(self, vote: bytes) -> bool:
        """Whether this vote came before."""
        return vote in self._holders

    def admits(self, vote: Vote) -> bool:
        """Whether this validator may have another vote in this round and step: a few, since two prove equivocation."""
        key = (vote.validator, vote.round, int(vote.kind))
        return len(self._cast) < VOTES_KEPT_MAX and self._cast[key] < VOTES_PER_STEP_MAX

    def count(self, vote: Vote) -> None:
        """A vote with a good signature was taken."""
        self._cast[vote.validator, vote.round, int(vote.kind)] += 1

    def note(self, vote: bytes, *, holder: bytes | None, author: bytes | None) -> None:
        """A vote came from `holder` (None: from ourselves), signed by the peer `author` if that is known."""
        holders = self._holders.get(vote)
        if holders is None:
            if len(self._holders) >= VOTES_KEPT_MAX:
                return
            holders = self._holders[vote] = set()
            self._fresh.append(vote)
        holders.update(peer for peer in (holder, author) if peer is not None)

    def flush(self, peers: Iterable[bytes]) -> dict[bytes, tuple[bytes, ...]]:
        """What to send to whom now; from then on the receivers count as holders."""
        fresh, self._fresh = self._fresh, []
        batches: dict[bytes, tuple[bytes, ...]] = {}
        for peer in peers:
            missing = tuple(vote for vote in fresh if peer not in self._holders[vote])
            if missing:
                batches[peer] = missing
                for vote in missing:
                    self._holders[vote].add(peer)
        return batches

    def all_votes(self) -> tuple[bytes, ...]:
        """Every vote of the height, for a peer that may have missed some."""
        return tuple(self._holders)

    @property
    def pending(self) -> bool:
        """Whether `flush` has something to do."""
        return bool(self._fresh)

    def clear(self) -> None:
        """Forget everything: a new height."""
        self._holders.clear()
        self._fresh.clear()
        self._cast.clear()
