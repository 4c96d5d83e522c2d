"""Which chunk, or part of one, to ask of which peer next: rarest first, many peers at once, none trusted to answer.

A pure scheduler: it is told what peers offer and how requests ended, and says what to request. Time is an argument, in
seconds of any monotonic clock.

Peers offer contents; what is asked of them are parts: a whole content, or a range of its blocks. How a content falls
into parts is known when the first of them has come, and `received` is told it. Contents that were begun come before
others, so that few are unfinished at a time.

Among equals each node takes an order of its own, drawn by its `salt`: if all took the same, all would ask the first
seller for the same, and nobody would have anything for the others.

Each peer has a window of requests in flight, which starts small, grows with every part that comes at once, shrinks
while answers take seconds, since what waits in a queue there is no longer the rarest when it comes, and halves when a
request times out; a peer that times out is left alone for a while, longer each time. What has arrived and is being
verified and stored is in flight no more, so that a slow disk doesn't idle the link; but of that, too, there is at most
one window, which bounds memory. A part that timed out is free for
others at once, and a late answer is still taken if nobody was faster. When nothing else is left to ask of a peer, it is
asked for the parts that others have been slow with, so that one stalled sender can't hold up the end: slow is what
takes several times as long as answers do on average, and in any case half the timeout.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Final, NamedTuple

from deepshard.primitives import tagged_hash

_WINDOW_START: Final = 2
_COPIES_MAX: Final = 2
_ANSWER_GOOD_S: Final = 1.0
_ANSWER_LATE_S: Final = 2.0
"""An answer within the first lets the window grow, one after the second shrinks it."""
_PATIENCE_ANSWERS: Final = 8
_PATIENCE_S_MIN: Final = 1.0
_AVERAGE_SHARE: Final = 1 / 16
"""Of the newest answer in the average of how long answers take."""
_PAUSE_DOUBLINGS_MAX: Final = 6
_REDRAW_INTERVAL_S: Final = 1.0


class Part(NamedTuple):
    """What one request asks for: some blocks of a content from block `first` on, or all of it where `blocks` is 0."""

    digest: bytes
    first: int = 0
    blocks: int = 0


class Outcome(Enum):
    """How a request ended."""

    VERIFIED = "verified"
    CORRUPT = "corrupt"
    """Bytes of another content: nothing more is asked of this peer."""
    ABSENT = "absent"
    """The peer hasn't got it, or may not give it: not asked of it again unless offered again."""
    BUSY = "busy"
    """The peer is at its limit; asked again after a pause."""


@dataclass(slots=True)
class _Peer:
    offers: set[bytes] = field(default_factory=set)
    in_flight: dict[Part, float] = field(default_factory=dict)
    """When each request was sent."""
    arrived: dict[Part, float] = field(default_factory=dict)
    """How long each answer took that is being verified and stored."""
    window: int = _WINDOW_START
    strikes: int = 0
    paused_until: float = 0.0
    is_bad: bool = False
    queue: list[Part] | None = None
    """What to ask next, the best last; None when it has to be drawn up anew."""


class Swarm:
    """Download of the contents `wanted`: content address to what is to be asked for, at least one part of it.

    `begun` names those of which something has come before; of others, those of lower `urgency` come first, then the
    rarest, then by an order that `salt` draws; without a salt by address.
    """

    def __init__(
        self,
        wanted: Mapping[bytes, Collection[Part]],
        *,
        begun: Collection[bytes] = (),
        urgency: Mapping[bytes, int] = MappingProxyType({}),
        salt: bytes = b"",
        in_flight_max: int = 8,
        timeout_s: float = 30.0,
        busy_pause_s: float = 0.5,
    ) -> None:
        self.missing = set(wanted)
        self._open = {digest: set(parts) for digest, parts in wanted.items()}
        """Parts that haven't come, of each content that is missing."""
        self._begun = set(begun)
        self._urgency = urgency
        self._places = {digest: tagged_hash("download order", salt, digest) if salt else digest for digest in wanted}
        """What decides between equally rare contents."""
        self.bytes_by_peer: dict[bytes, int] = {}
        """Bytes of verified parts that each peer sent and that were needed."""
        self.chunks_by_peer: dict[bytes, int] = {}
        """Contents of which each peer sent the last part."""
        self.wasted_bytes = 0
        """Bytes received that were corrupt or that another peer had brought before."""
        self._peers: dict[bytes, _Peer] = {}
        self._rarity: dict[bytes, int] = {}
        """How many peers offer each digest."""
        self._is_stale = False
        self._drawn_at = -_REDRAW_INTERVAL_S
        self._in_flight_max = in_flight_max
        self._timeout_s = timeout_s
        self._answer_s: float | None = None
        """How long verified parts take on average, the newest counting most."""
        self._busy_pause_s = busy_pause_s

    @property
    def done(self) -> bool:
        """Whether everything wanted is verified."""
        return not self.missing

    @property
    def bad_peers(self) -> tuple[bytes, ...]:
        """Peers that sent something corrupt, in the order of their keys."""
        return tuple(sorted(peer for peer, state in self._peers.items() if state.is_bad))

    def is_bad(self, peer: bytes) -> bool:
        """Whether the peer sent something corrupt."""
        return peer in self._peers and self._peers[peer].is_bad

    def offer(self, peer: bytes, digests: Collection[bytes]) -> None:
        """The peer says that it would serve these, beside what it offered before."""
        state = self._peers.setdefault(peer, _Peer())
        new = self.missing.intersection(digests) - state.offers
        if state.is_bad or not new:
            return
        state.offers |= new
        for digest in new:
            self._rarity[digest] = self._rarity.get(digest, 0) + 1
        state.queue = None
        self._is_stale = True

    def is_open(self, part: Part) -> bool:
        """Whether the part hasn't come yet."""
        return part in self._open.get(part.digest, ())

    def open_parts(self, digest: bytes) -> list[Part]:
        """The parts of a missing content that haven't come, as far as they are known."""
        return sorted(self._open[digest])

    def first_part(self, digest: bytes) -> Part:
        """The first part of a missing content that hasn't come."""
        return min(self._open[digest])

    def not_offered_by(self, peer: bytes) -> list[bytes]:
        """What is missing and the peer hasn't offered: those that nobody offers first, then by address."""
        offers = self._peers[peer].offers if peer in self._peers else set()
        return sorted(self.missing - offers, key=lambda digest: (self._rarity.get(digest, 0) > 0, digest))

    def peer_gone(self, peer: bytes) -> None:
        """The peer is disconnected: forget its offers and requests, but not that it was bad."""
        state = self._peers.get(peer)
        if state is None:
            return
        self._withdraw(state)
        if not state.is_bad:
            del self._peers[peer]

    def next_requests(self, now: float, *, at_most: int | None = None) -> list[tuple[bytes, Part]]:
        """Requests to send now, as (peer, part); they count as in flight from here on."""
        self._expire(now)
        if self._is_stale and now >= self._drawn_at + _REDRAW_INTERVAL_S:
            # New offers change what is rare for everyone. Drawing up every queue again for each of them would be
            # quadratic, and a queue a second old is nearly as good.
            self._is_stale, self._drawn_at = False, now
            for state in self._peers.values():
                state.queue = None
        requests: list[tuple[bytes, Part]] = []
        in_flight = self._in_flight_counts()
        slow = self._slow(now)
        # One for each peer in turn, so that two peers with the same offers share the work evenly.
        willing = {name: self._peers[name] for name in self._order(at_most) if self._has_room(self._peers[name], now)}
        while willing:
            for name, state in list(willing.items()):
                if len(requests) == at_most:
                    return requests
                part = self._pick(state, in_flight, slow)
                if part is None:
                    del willing[name]
                    continue
                state.in_flight[part] = now
                in_flight[part] = in_flight.get(part, 0) + 1
                requests.append((name, part))
                if not self._has_room(state, now):
                    del willing[name]
        return requests

    def arrived(self, peer: bytes, part: Part, now: float) -> None:
        """An answer is here, to be verified and stored; it makes room for a request before `received` says more."""
        state = self._peers.get(peer)
        if state is not None and part in state.in_flight:
            state.arrived[part] = now - state.in_flight.pop(part)

    def received(
        self, peer: bytes, part: Part, outcome: Outcome, now: float, *, size: int = 0, left: Collection[Part] = ()
    ) -> bool:
        """A request ended.

        Args:
            peer: who was asked.
            part: for what.
            outcome: how it ended.
            now: the time.
            size: number of bytes that came.
            left: after a verified part, all that is still to be asked for of its content.

        Returns:
            True if this brought a part that was still missing.
        """
        state = self._peers.get(peer) or _Peer()  # one that is gone may have left an answer behind
        if outcome is Outcome.CORRUPT:
            self._peers[peer] = state
        sent = state.in_flight.pop(part, None)
        took_s = state.arrived.pop(part, None if sent is None else now - sent)
        if outcome is Outcome.VERIFIED and self.is_open(part):
            self.bytes_by_peer[peer] = self.bytes_by_peer.get(peer, 0) + size
            state.strikes = 0
            self._adapt(state, took_s)
            self._note_answer(took_s)
            self._open[part.digest].discard(part)
            self._set_left(part.digest, left)
            if not left:
                self.chunks_by_peer[peer] = self.chunks_by_peer.get(peer, 0) + 1
            return True
        self.wasted_bytes += size
        if outcome is Outcome.CORRUPT:
            state.is_bad = True
            self._withdraw(state)
        elif outcome is Outcome.ABSENT:
            self._drop_offer(state, part.digest)
        elif outcome is Outcome.BUSY:
            state.paused_until = max(state.paused_until, now + self._busy_pause_s)
        self._give_back(part)
        return False

    def next_deadline(self, now: float) -> float | None:
        """When `next_requests` may have something new without any news: a timeout, the end of a pause, impatience."""
        times: list[float] = []
        for state in self._peers.values():
            if state.is_bad:
                continue
            times.extend(sent + self._timeout_s for sent in state.in_flight.values())
            times.extend(sent + self._patience_s for sent in state.in_flight.values())
            if state.paused_until > now and not state.offers.isdisjoint(self.missing):
                times.append(state.paused_until)
        return min((time for time in times if time > now), default=None)

    def _adapt(self, state: _Peer, took_s: float | None) -> None:
        """More requests to a peer that answers at once, fewer to one at which they queue up."""
        if took_s is None or took_s <= _ANSWER_GOOD_S:
            state.window = min(state.window + 1, self._in_flight_max)
        elif took_s > _ANSWER_LATE_S:
            state.window = max(1, state.window - 1)

    def _note_answer(self, took_s: float | None) -> None:
        if took_s is not None:
            known = took_s if self._answer_s is None else self._answer_s
            self._answer_s = known + (took_s - known) * _AVERAGE_SHARE

    @property
    def _patience_s(self) -> float:
        """How long a part may be in flight before others are asked for it that have nothing else to do."""
        usual_s = (
            self._timeout_s if self._answer_s is None else max(_PATIENCE_S_MIN, self._answer_s * _PATIENCE_ANSWERS)
        )
        return min(usual_s, self._timeout_s / 2)

    def _order(self, at_most: int | None) -> list[bytes]:
        """Peers in the order they are asked in: few requests at a time would all go to the first of a fixed one."""
        names = sorted(self._peers)
        if at_most is not None:  # first who has least to do, then who has brought least
            names.sort(key=lambda name: (len(self._peers[name].in_flight), self.bytes_by_peer.get(name, 0)))
        return names

    def _has_room(self, state: _Peer, now: float) -> bool:
        is_full = max(len(state.in_flight), len(state.arrived)) >= state.window
        return not state.is_bad and now >= state.paused_until and not is_full

    def _expire(self, now: float) -> None:
        for state in self._peers.values():
            late = [part for part, sent in state.in_flight.items() if now >= sent + self._timeout_s]
            if not late:
                continue
            for part in late:
                del state.in_flight[part]
                self._give_back(part)
            state.window = max(1, state.window // 2)
            state.strikes += 1
            state.paused_until = now + self._timeout_s * 2 ** min(state.strikes - 1, _PAUSE_DOUBLINGS_MAX)

    def _pick(
        self, state: _Peer, in_flight: Mapping[Part, int], slow: Sequence[tuple[float, Part, _Peer]]
    ) -> Part | None:
        if state.queue is None:
            state.queue = self._draw(state)
        while state.queue:
            part = state.queue.pop()
            if self.is_open(part) and part.digest in state.offers and not in_flight.get(part):
                return part
        # Endgame: what others are slow with.
        for _, part, other in slow:
            is_new = other is not state and part not in state.in_flight and in_flight[part] < _COPIES_MAX
            if is_new and part.digest in state.offers:
                return part
        return None

    def _slow(self, now: float) -> list[tuple[float, Part, _Peer]]:
        """What has been in flight for longer than patience lasts and hasn't come, the oldest first, and with whom."""
        slow = [
            (sent, part, state)
            for state in self._peers.values()
            for part, sent in state.in_flight.items()
            if now >= sent + self._patience_s and self.is_open(part)
        ]
        return sorted(slow, key=lambda each: each[:2])

    def _in_flight_counts(self) -> dict[Part, int]:
        counts: dict[Part, int] = {}
        for state in self._peers.values():
            for part in (*state.in_flight, *state.arrived):
                counts[part] = counts.get(part, 0) + 1
        return counts

    def _draw(self, state: _Peer) -> list[Part]:
        """The peer's useful offers, the rarest last, ties by address so that equal swarms behave equally."""
        useful = state.offers & self.missing
        return sorted(
            (part for digest in useful for part in self._open[digest]),
            key=lambda part: (
                part.digest not in self._begun,
                self._urgency.get(part.digest, 0),
                self._rarity[part.digest],
                self._places[part.digest],
                part,
            ),
            reverse=True,
        )

    def _set_left(self, digest: bytes, left: Collection[Part]) -> None:
        new = set(left) - self._open[digest]
        self._open[digest] = set(left)
        for part in sorted(new, reverse=True):
            self._give_back(part)
        if left:
            self._begun.add(digest)
        else:
            del self._open[digest]
            self._begun.discard(digest)
            self.missing.discard(digest)

    def _drop_offer(self, state: _Peer, digest: bytes) -> None:
        if digest in state.offers:
            state.offers.discard(digest)
            self._rarity[digest] -= 1

    def _withdraw(self, state: _Peer) -> None:
        """Nothing more is expected of this peer: others take over what it had in flight."""
        for digest in tuple(state.offers):
            self._drop_offer(state, digest)
        for part in tuple(state.in_flight):
            del state.in_flight[part]
            self._give_back(part)

    def _give_back(self, part: Part) -> None:
        """Queues drop what somebody has in flight, so what ends without success is queued again, as the next."""
        if self.is_open(part):
            for state in self._peers.values():
                if state.queue is not None and part.digest in state.offers:
                    state.queue.append(part)
