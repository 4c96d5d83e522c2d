"""Joining by a snapshot: whose state to take, how far to trust it, which chunks to ask of whom. Pure.

Peers offer heights. One is chosen; its header is verified as a light client would, from what this node trusts; then the
chunks of its state are asked of several peers at once, and each is verified against the header's state root when it
comes. So a liar costs one answer, a slow peer nothing but its share, and nobody has to be believed. What peers offer is
asked again now and then: the chain goes on, and peers hand over its newest states only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from deepshard.consensus.certificates import certificate_hash
from deepshard.consensus.light import LightBlock, LightState, TrustExpired, WrongTrustedHeader, decode_light_block
from deepshard.consensus.light_route import HeaderRoute
from deepshard.consensus.types import Block
from deepshard.encoding import decode
from deepshard.errors import InvalidBlock, MalformedMessage, RemoteError
from deepshard.ledger.trie_chunks import PATHS, Coverage, InvalidStateChunk, StateChunk, cursor_of, verify_chunk
from deepshard.limits import BLOCK_BYTES_MAX, BODY_BYTES_MAX
from deepshard.merkle import merkle_root
from deepshard.services.enquiries import Enquiries
from deepshard.wire.messages import (
    Blocks,
    BlocksRequest,
    Headers,
    HeadersRequest,
    Message,
    SnapshotChunk,
    SnapshotChunkRequest,
    Snapshots,
    SnapshotsRequest,
)

OFFERS_EVERY_S = 5.0
OFFERS_PATIENCE_S = 2.0
PATIENCE_S = 4.0
CHUNK_PATIENCE_S_MAX = 60.0
GIVE_UP_S = 30.0
"""Without anything verified for so long, joining has failed."""
CHUNKS_PER_PEER = 2
CHUNKS_UNDER_WAY_MAX = 8
MISSES_MAX = 3
"""Late answers in a row after which a peer isn't asked before it offers anew."""


@dataclass(frozen=True, slots=True)
class KeptChunk:
    """A verified chunk, to be kept on disk: encoded, with the first path that it is responsible for."""

    first: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Joined:
    """A whole verified state, with the block that it follows."""

    light: LightBlock
    block: bytes
    chunks: tuple[StateChunk, ...]


class _Target:
    """The height that is being fetched, and what has come of it."""

    def __init__(self, route: HeaderRoute) -> None:
        self.height = route.height
        self.route = route
        self.guide: bytes | None = None
        self.block: bytes | None = None
        self.coverage = Coverage()
        self.chunks: list[StateChunk] = []
        self.step = PATHS
        """How far apart chunks are asked for: the most that one has been responsible for."""
        self.useless: set[bytes] = set()
        """Peers that had no header, or no block, of this height."""

    @property
    def light(self) -> LightBlock | None:
        """The verified light block of the height."""
        return self.route.light


class SnapshotJoin:
    """One attempt. Messages in, requests out; a peer's error is raised where its message is taken."""

    def __init__(
        self,
        trusted: LightState,
        *,
        above: int,
        numbers: Iterator[int],
        trusting_period_ms: int,
        named: tuple[int, bytes] | None = None,
        resumable: Collection[int] = (),
    ) -> None:
        """Nobody is asked yet.

        Args:
            trusted: what headers are verified from.
            above: only states of greater heights are worth it.
            numbers: fresh request numbers.
            trusting_period_ms: how old what is trusted may be.
            named: height and id of a block that a person vouches for; headers are verified from it instead.
            resumable: heights of which verified chunks lie on disk; preferred.
        """
        self.failure: str | None = None
        self._mismatch: WrongTrustedHeader | None = None
        self._trusted, self._named = trusted, named
        self._above = above
        self._trusting_period_ms = trusting_period_ms
        self._resumable = resumable
        self._offers: dict[bytes, tuple[int, ...]] = {}
        self._asked_at: dict[bytes, float] = {}
        self._liars: set[bytes] = set()
        self._misses: dict[bytes, int] = {}
        self._bad_heights: set[int] = set()
        self._moved_at: float | None = None
        self._began_at: float | None = None
        self._target: _Target | None = None
        self._parked: _Target | None = None
        """What was being fetched when nobody offered it any more, or nobody answered in time."""
        self._offers_asked: Enquiries[None] = Enquiries(numbers, patience_s=OFFERS_PATIENCE_S, per_peer=1)
        self._headers_asked: Enquiries[tuple[object, tuple[int, int]]] = Enquiries(
            numbers, patience_s=PATIENCE_S, per_peer=1
        )
        self._blocks_asked: Enquiries[int] = Enquiries(numbers, patience_s=PATIENCE_S, per_peer=1)
        self._chunks_asked: Enquiries[tuple[int, range]] = Enquiries(
            numbers, patience_s=PATIENCE_S, per_peer=CHUNKS_PER_PEER, patience_max_s=CHUNK_PATIENCE_S_MAX
        )

    # -- what this comes to ------------------------------------------------------------------------------------------

    @property
    def height(self) -> int | None:
        """Height of the state that is being fetched."""
        return None if self._target is None else self._target.height

    @property
    def root(self) -> bytes | None:
        """Root of the state that is being fetched, once its header is verified."""
        target = self._target
        return None if target is None or target.light is None else target.light.header.state_root

    @property
    def joined(self) -> Joined | None:
        """The state and its block, when both are whole."""
        target = self._target
        if target is None or target.light is None or target.block is None or not target.coverage.is_complete:
            return None
        return Joined(target.light, target.block, tuple(target.chunks))

    # -- messages ----------------------------------------------------------------------------------------------------

    def take_offers(self, peer: bytes, answer: Snapshots) -> None:
        """A peer says of which heights it hands over the state; that is a reason to ask, and no more."""
        asked = peer in self._asked_at and self._offers_asked.rank(peer)[1] > 0
        self._offers_asked.end(peer, answer.request)
        if asked and peer not in self._liars:
            self._offers[peer] = answer.heights
            self._misses.pop(peer, None)

    def take_headers(self, peer: bytes, answer: Headers, *, now: float, now_ms: int) -> None:
        """Verify a header on the way to the chosen height.

        Raises:
            RemoteError: it is false.
        """
        asked, target = self._headers_asked.end(peer, answer.request), self._target
        if asked is None or target is None or target.light is not None:
            return
        if asked != (target.route.turn, target.route.wanted()):
            return
        self._misses.pop(peer, None)
        try:
            blocks = [decode_light_block(*parts) for parts in answer.headers]
            if not blocks:
                self._pass_over(peer, target)
                return
            first, count = asked[1]
            if len(blocks) > count or blocks[0].header.height != first:
                raise MalformedMessage(f"{len(blocks)} headers came, {count} from height {first} on were asked for")
            if not target.route.take(blocks, now_ms=now_ms, trusting_period_ms=self._trusting_period_ms):
                self._pass_over(peer, target)
                return
        except TrustExpired as error:
            self.failure = str(error)
            return
        except WrongTrustedHeader as error:
            self._mismatch = error  # the peer lies, or the person was told wrong
            self._pass_over(peer, target)
            return
        except RemoteError:
            self._expel(peer)
            raise
        self._moved_at = now

    def take_block(self, peer: bytes, answer: Blocks, *, now: float) -> bool:
        """Take the block of the chosen height; whether this was asked for here.

        Raises:
            RemoteError: it is another.
        """
        height, target = self._blocks_asked.end(peer, answer.request), self._target
        if height is None:
            return False
        if target is None or target.height != height or target.light is None or target.block is not None:
            return True
        self._misses.pop(peer, None)
        if not answer.blocks:
            target.useless.add(peer)
            return True
        try:
            _check_body(answer.blocks[0][0], target.light)
        except RemoteError:
            self._expel(peer)
            raise
        target.block = answer.blocks[0][0]
        self._moved_at = now
        return True

    def take_chunk(self, peer: bytes, answer: SnapshotChunk, *, now: float) -> KeptChunk | None:
        """Verify a chunk; to be kept if it is new.

        Raises:
            RemoteError: it isn't of this state, or not what was asked for.
        """
        asked, target = self._chunks_asked.end(peer, answer.request, now), self._target
        if asked is None or target is None or asked[0] != target.height or target.light is None:
            return None
        self._misses.pop(peer, None)
        if answer.chunk is None:
            self._offers.pop(peer, None)
            return None
        try:
            return self._add(target, answer.chunk, asked[1].start, now)
        except RemoteError:
            self._expel(peer)
            raise

    def resume(self, chunks: Iterable[bytes], *, now: float) -> int:
        """Take chunks that were kept of the state with this root, as far as they are what they were; how many."""
        assert self._target is not None
        taken = 0
        for data in chunks:
            try:
                taken += self._add(self._target, data, None, now) is not None
            except RemoteError:
                continue  # what the disk gives is verified like what a peer gives, and asked for again
        return taken

    def forget(self, peer: bytes) -> None:
        """A peer is gone."""
        for known in (self._offers, self._asked_at, self._misses):
            known.pop(peer, None)
        for enquiries in (self._offers_asked, self._headers_asked, self._blocks_asked, self._chunks_asked):
            enquiries.forget(peer)
        if self._target is not None and self._target.guide == peer:
            self._pass_over(peer, self._target)

    # -- requests ----------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[bytes]:
        """Time passes; the peers that are slow."""
        slow = [*self._headers_asked.expire(now), *self._blocks_asked.expire(now), *self._chunks_asked.expire(now)]
        self._offers_asked.expire(now)
        for peer in slow:
            self._misses[peer] = self._misses.get(peer, 0) + 1
            if self._misses[peer] >= MISSES_MAX:
                self._offers.pop(peer, None)
            if self._target is not None and self._target.guide == peer:
                self._pass_over(peer, self._target)
        if self._moved_at is not None and now - self._moved_at > GIVE_UP_S:
            self.failure = f"nothing of a snapshot has come for {GIVE_UP_S:.0f} s"
        return slow

    def wanted(self, now: float, peers: Collection[bytes]) -> list[tuple[bytes, Message]]:
        """The requests to send now, to some of `peers`, which are those that could answer."""
        self._began_at = now if self._began_at is None else self._began_at
        self._moved_at = now if self._moved_at is None else self._moved_at
        requests: list[tuple[bytes, Message]] = []
        for peer in peers:
            if peer not in self._liars and now - self._asked_at.get(peer, now - OFFERS_EVERY_S) >= OFFERS_EVERY_S:
                self._asked_at[peer] = now
                requests.append((peer, SnapshotsRequest(self._offers_asked.begin(peer, None, now))))
        self._choose(now, peers)
        target = self._target
        if target is None or self.failure is not None:
            return requests
        if target.light is None:
            return [*requests, *self._want_header(target, now)]
        return [*requests, *self._want_block(target, now), *self._want_chunks(target, now)]

    def _choose(self, now: float, peers: Collection[bytes]) -> None:
        target = self._target
        if target is not None:
            if self._offering(target.height) or self._chunks_asked.open():
                return
            self._parked, self._target = target, None  # nobody hands it over any more, unless somebody says so again
        assert self._began_at is not None
        offered = [height for heights in self._offers.values() for height in heights]
        able = {height for height in offered if height > self._above and height not in self._bad_heights}
        has_waited = now - self._began_at >= OFFERS_PATIENCE_S
        if not has_waited and any(peer not in self._offers for peer in peers):
            return
        if able:
            best = max(able, key=lambda height: (self._is_begun(height), len(self._offering(height)), height))
            if self._parked is not None and self._parked.height == best:
                self._target, self._parked = self._parked, None
            else:
                self._target = _Target(HeaderRoute(self._trusted, best, named=self._named))
        elif has_waited and target is None:
            lacking = "no peer hands over a state that is far enough ahead"
            self.failure = lacking if self._mismatch is None else str(self._mismatch)

    def _is_begun(self, height: int) -> bool:
        return height in self._resumable or (self._parked is not None and self._parked.height == height)

    def _offering(self, height: int) -> list[bytes]:
        return [peer for peer, heights in self._offers.items() if height in heights]

    def _want_header(self, target: _Target, now: float) -> Iterator[tuple[bytes, Message]]:
        if self._headers_asked.open():
            return
        if target.guide is None:
            able = [peer for peer in self._offering(target.height) if peer not in target.useless]
            if not able or not target.route.is_possible:
                self._bad_heights.add(target.height)
                self._target = None
                return
            target.guide = min(able, key=lambda peer: (self._headers_asked.rank(peer), peer))
        wanted = target.route.wanted()
        number = self._headers_asked.begin(target.guide, (target.route.turn, wanted), now)
        yield target.guide, HeadersRequest(number, *wanted)

    def _want_block(self, target: _Target, now: float) -> Iterator[tuple[bytes, Message]]:
        if target.block is not None or self._blocks_asked.open():
            return
        able = [peer for peer in self._offering(target.height) if peer not in target.useless]
        peer = min(able, key=lambda peer: (self._blocks_asked.rank(peer), peer), default=None)
        if peer is not None and self._blocks_asked.has_room(peer):
            yield peer, BlocksRequest(self._blocks_asked.begin(peer, target.height, now), target.height, 1)

    def _want_chunks(self, target: _Target, now: float) -> Iterator[tuple[bytes, Message]]:
        """Ask at points as far apart as chunks reach: where one reaches less far, the rest is asked for next time."""
        reserved = [paths for height, paths in self._chunks_asked.open() if height == target.height]
        for gap in target.coverage.gaps():
            at = gap.start
            while at < gap.stop and len(reserved) < CHUNKS_UNDER_WAY_MAX:
                inside = next((paths for paths in reserved if paths.start <= at < paths.stop), None)
                if inside is not None:
                    at = inside.stop
                    continue
                able = [peer for peer in self._offering(target.height) if self._chunks_asked.has_room(peer)]
                peer = min(able, key=lambda peer: (self._chunks_asked.rank(peer), peer), default=None)
                if peer is None:
                    return
                paths = range(at, min(at + target.step, gap.stop, *(one.start for one in reserved if one.start > at)))
                reserved.append(paths)
                number = self._chunks_asked.begin(peer, (target.height, paths), now)
                yield peer, SnapshotChunkRequest(number, target.height, cursor_of(at))
                at = paths.stop

    # -- verdicts ----------------------------------------------------------------------------------------------------

    def _add(self, target: _Target, data: bytes, asked_for: int | None, now: float) -> KeptChunk | None:
        chunk = decode(data, StateChunk, bytes_max=BODY_BYTES_MAX)
        assert target.light is not None
        paths = verify_chunk(target.light.header.state_root, chunk)
        if asked_for is not None and not paths.start <= asked_for < paths.stop:
            raise InvalidStateChunk(f"a chunk came that is not responsible for the path {asked_for:064x}")
        self._moved_at = now  # also where another was faster: a slow link is no dead one
        if not target.coverage.add(paths):
            return None
        target.step = paths.stop - paths.start if not target.chunks else max(target.step, paths.stop - paths.start)
        target.chunks.append(chunk)
        return KeptChunk(cursor_of(paths.start), data)

    def _pass_over(self, peer: bytes, target: _Target) -> None:
        """Let another peer show the headers, from what is verified."""
        target.useless.add(peer)
        target.guide = None
        target.route.pass_over()

    def _expel(self, peer: bytes) -> None:
        """A peer has lied: nothing more is asked of it, and what it offers counts for nothing."""
        self._liars.add(peer)
        self._offers.pop(peer, None)
        if self._target is not None and self._target.guide == peer and self._target.light is None:
            self._pass_over(peer, self._target)


def _check_body(encoded: bytes, light: LightBlock) -> None:
    block = decode(encoded, Block, bytes_max=BLOCK_BYTES_MAX)
    header = light.header
    if block.header != header:
        raise InvalidBlock(f"block {block.header.block_id().hex()[:16]} came, {header.block_id().hex()[:16]} was asked")
    if merkle_root(block.transactions) != header.transactions_root:
        raise InvalidBlock(f"block {header.height} came with other transactions than its header names")
    if certificate_hash(block.last_commit) != header.last_commit_hash:
        raise InvalidBlock(f"block {header.height} came with another certificate of its parent than its header names")
