"""Which missing blocks to ask of which peer, and in what order to take what comes. Pure: events in, requests out.

The heights above ours are cut into ranges, which several peers are asked for at a time. Answers may come in any order
and hold less than was asked; blocks wait, within a bound, until those before them are verified. What a peer claims only
decides whom to ask. A peer that is slow is nobody's enemy: its range goes to another. One that claims a height and has
nothing there isn't asked again before it claims anew, and after the others. One whose block turns out false loses all
that it has sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deepshard.errors import MalformedMessage
from deepshard.limits import BODY_BYTES_MAX, SYNC_BUFFER_BYTES_MAX
from deepshard.services.enquiries import Enquiries
from deepshard.wire.messages import Blocks

RANGE_BLOCKS = 32
"""Blocks asked for at a time."""
WINDOW_BLOCKS = 1024
"""How far above our height is asked for."""
RANGE_BYTES = BODY_BYTES_MAX // 2
"""Room that is kept for the answer to each request under way; 6.4/15 bounds it."""
PATIENCE_S = 4.0
RANGES_PER_PEER = 2


@dataclass(frozen=True, slots=True)
class BlocksWanted:
    """A request to send."""

    peer: bytes
    request: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """A block that has come and waits for its turn: encoded, with its certificate, and who sent it."""

    peer: bytes
    block: bytes
    certificate: bytes

    @property
    def size(self) -> int:
        """Bytes it takes up."""
        return len(self.block) + len(self.certificate)


class BlockSchedule:
    """Claims of peers, requests under way, and blocks that came out of order. `height` is always that of our chain."""

    def __init__(self, numbers: Iterator[int], *, buffer_bytes_max: int = SYNC_BUFFER_BYTES_MAX) -> None:
        """Nobody claims anything yet; `numbers` gives fresh request numbers."""
        self._claims: dict[bytes, int] = {}
        self._lowest: dict[bytes, int] = {}
        """Peers that had nothing at a height that they claimed to be above: the next height is worth a try."""
        self._resting: set[bytes] = set()
        """Peers that disappointed since the last tick: a liar's next claim waits, or it could keep us asking."""
        self._enquiries: Enquiries[range] = Enquiries(numbers, patience_s=PATIENCE_S, per_peer=RANGES_PER_PEER)
        self._waiting: dict[int, Arrived] = {}
        self._waiting_bytes = 0
        self._buffer_bytes_max = buffer_bytes_max

    # -- what peers say ----------------------------------------------------------------------------------------------

    def note(self, peer: bytes, height: int) -> None:
        """A peer says how far it is. If that is lower than before, what it was asked above is free for others."""
        self._claims[peer] = height
        beyond = [heights for heights in self._enquiries.open(peer) if heights.start > height]
        self._enquiries.release(peer, beyond)

    def forget(self, peer: bytes) -> None:
        """A peer is gone; blocks that it has sent are as good as before."""
        self._claims.pop(peer, None)
        self._lowest.pop(peer, None)
        self._enquiries.forget(peer)

    def is_behind(self, height: int) -> bool:
        """Whether some peer claims to be above `height`."""
        return any(claimed > height for claimed in self._claims.values())

    def is_level_with(self, peer: bytes, height: int) -> bool:
        """Whether a peer whose blocks were just verified claims no more than we have now."""
        return self._claims.get(peer, height) <= height

    def highest(self) -> int:
        """The greatest height that anybody claims."""
        return max(self._claims.values(), default=0)

    # -- asking and taking -------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[bytes]:
        """Time passes: the peers that are slow, whose ranges are free for others."""
        self._resting.clear()
        return self._enquiries.expire(now)

    def wanted(self, height: int, now: float) -> list[BlocksWanted]:
        """The requests to send now. The range right above our height is asked for even if there is no room to spare."""
        self._drop(known for known in list(self._waiting) if known <= height)
        requests: list[BlocksWanted] = []
        top = min(self.highest(), height + WINDOW_BLOCKS)
        for gap in self._gaps(height + 1, top):
            # The gap right above is not in the buffer, so its blocks can be verified and leave at once.
            if gap.start > height + 1 and not self._has_room():
                break
            peer = self._best(gap.start)
            if peer is None:
                continue
            heights = range(gap.start, min(gap.stop, self._claims[peer] + 1))
            number = self._enquiries.begin(peer, heights, now)
            requests.append(BlocksWanted(peer, number, heights.start, len(heights)))
        return requests

    def accept(self, peer: bytes, answer: Blocks, height: int) -> None:
        """Keep the blocks of an answer, unless nothing was asked under its number or there is no room.

        Raises:
            MalformedMessage: more blocks than were asked for.
        """
        heights = self._enquiries.end(peer, answer.request)
        if heights is None:
            return
        if len(answer.blocks) > len(heights):
            self._disappoint(peer)
            raise MalformedMessage(f"{len(answer.blocks)} blocks came, {len(heights)} were asked for")
        if not answer.blocks:
            self._lowest[peer] = heights.start + 1
            self._disappoint(peer)
            return
        for at, (block, certificate) in zip(heights, answer.blocks, strict=False):
            arrived = Arrived(peer, block, certificate)
            fits = self._waiting_bytes + arrived.size <= self._buffer_bytes_max or at == height + 1
            if at > height and at not in self._waiting and fits:
                self._waiting[at] = arrived
                self._waiting_bytes += arrived.size

    def take(self, height: int) -> Arrived | None:
        """The block right above our height, if it has come; it is no longer kept."""
        arrived = self._waiting.get(height + 1)
        if arrived is not None:
            self._drop([height + 1])
        return arrived

    def blame(self, peer: bytes) -> None:
        """A block of this peer was false: nothing that it has sent is worth keeping."""
        self._drop([at for at, arrived in self._waiting.items() if arrived.peer == peer])
        self._disappoint(peer)

    def clear(self) -> None:
        """Drop what waits: our height has moved by other means."""
        self._drop(list(self._waiting))

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the blocks that wait for those before them."""
        return self._waiting_bytes

    def _gaps(self, first: int, last: int) -> Iterator[range]:
        """Ranges from `first` to `last` that have neither come nor are under way, each of `RANGE_BLOCKS` at most."""
        under_way = sorted(self._enquiries.open(), key=lambda heights: heights.start)
        at = first
        while at <= last:
            covering = next((heights for heights in under_way if at in heights), None)
            if covering is not None:
                at = covering.stop
            elif at in self._waiting:
                at += 1
            else:
                end = min(at + RANGE_BLOCKS, last + 1, *(one.start for one in under_way if one.start > at))
                end = next((known for known in range(at, end) if known in self._waiting), end)
                yield range(at, end)
                at = end

    def _best(self, first: int) -> bytes | None:
        able = [
            peer
            for peer, claimed in self._claims.items()
            if claimed >= first >= self._lowest.get(peer, 0)
            and peer not in self._resting
            and self._enquiries.has_room(peer)
        ]
        return min(able, key=lambda peer: (self._enquiries.rank(peer), -self._claims[peer], peer), default=None)

    def _has_room(self) -> bool:
        reserved = RANGE_BYTES * (1 + len(self._enquiries.open()))
        return self._waiting_bytes + reserved <= self._buffer_bytes_max

    def _disappoint(self, peer: bytes) -> None:
        self._enquiries.disappoint(peer)
        self._resting.add(peer)
        self._claims.pop(peer, None)

    def _drop(self, heights: Iterator[int] | list[int]) -> None:
        for at in list(heights):
            self._waiting_bytes -= self._waiting.pop(at).size
