"""One download: the swarm's decisions carried out over the network, every range verified before it is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog
import trio

from deepshard.disk.chunks import ChunkStore
from deepshard.disk.partials import PartialState
from deepshard.errors import DiskCorruption, LocalError, MalformedMessage
from deepshard.limits import RANGE_BLOCKS_MAX, WANT_DIGESTS_MAX
from deepshard.net.types import NetworkPort, PeerInfo
from deepshard.primitives import CONTENT_BLOCK_BYTES
from deepshard.ranges import CorruptRange
from deepshard.services.shards_disk import DiskThreads
from deepshard.services.shards_intake import find_missing, keep_blob, keep_range, parts_of
from deepshard.services.shards_requests import BlobAnswer, RangeAnswer, Requests
from deepshard.shards.errors import CorruptChunk
from deepshard.shards.rates import RateCap
from deepshard.shards.swarm import Outcome, Part, Swarm
from deepshard.wire.messages import BlobStatus

_log = structlog.get_logger(__name__)

PeerFilter = Callable[[PeerInfo], bool]
ProgressCallback = Callable[[int, int, bytes, int], None]
"""Blobs done, blobs in all, public key of the peer the last one came from, its size in bytes."""

_PEERS_NAMED_MAX = 8
_DISK_FAILURES_MAX = 3
"""How often one blob may turn out corrupt on disk when it is complete."""


@dataclass(frozen=True, slots=True)
class FetchReport:
    """What a download brought. Peers are named by public key.

    Attributes:
        bytes_by_peer: bytes that were verified and stored, by the peer they came from.
        verified: number of blobs that they completed; what was in the store before isn't counted.
        present: number of blobs that were in the store before.
        resumed_bytes: bytes of the other blobs that were there from earlier downloads.
        refetched: answers that came to nothing (corrupt, or brought by another first) and were fetched again.
        wasted_bytes: their bytes.
        corrupt_from: peers that sent a corrupt blob, in the order of their keys.
    """

    bytes_by_peer: Mapping[bytes, int] = field(default_factory=dict)
    verified: int = 0
    present: int = 0
    resumed_bytes: int = 0
    refetched: int = 0
    wasted_bytes: int = 0
    corrupt_from: tuple[bytes, ...] = ()


class FetchIncomplete(LocalError):
    """A download ran out of time; what it brought is stored, and the next one goes on from there.

    Attributes:
        missing: content addresses that nobody gave, in order.
        total: how many were asked for.
        unlicensed: whether a peer refused for want of a licence.
    """

    def __init__(
        self, missing: tuple[bytes, ...], total: int, timeout_s: float, answers: str, *, unlicensed: bool
    ) -> None:
        advice = "; buy a licence for these weights, or wait for its block" if unlicensed else ""
        super().__init__(f"{len(missing)} of {total} blobs are missing after {timeout_s:.0f} s ({answers}){advice}")
        self.missing, self.total, self.unlicensed = missing, total, unlicensed


class Download:
    """Fetches `wanted` (content address to size, or None) into the store from the peers that pass `from_peers`."""

    def __init__(
        self,
        network: NetworkPort,
        store: ChunkStore,
        requests: Requests,
        wanted: Mapping[bytes, int | None],
        *,
        from_peers: PeerFilter | None,
        progress: ProgressCallback | None,
        urgency: Mapping[bytes, int],
        salt: bytes,
        timeout_s: float,
        request_timeout_s: float,
        have_interval_s: float,
        in_flight_max: int,
        disk: DiskThreads,
        cap: RateCap,
        on_fetched: Callable[[bytes, int], None],
    ) -> None:
        self._network = network
        self._store = store
        self._requests = requests
        self._wanted = dict(wanted)
        self._from_peers = from_peers
        self._progress = progress
        self._urgency = urgency
        self._salt = salt
        self._timeout_s = timeout_s
        self._request_timeout_s = request_timeout_s
        self._have_interval_s = have_interval_s
        self._in_flight_max = in_flight_max
        self._disk = disk
        self._cap = cap
        self._on_fetched = on_fetched
        self._swarm = Swarm({})
        self._failure: LocalError | None = None
        self._refetched = 0
        self._keeping: dict[bytes, trio.Lock] = {}
        """Held while a range of a blob is kept, so that the swarm hears in the same order what is left of it."""
        self._disk_failures: Counter[bytes] = Counter()
        self._sizes: dict[bytes, int] = {}
        """Of blobs whose last range has come."""
        self._wake = trio.Event()
        self._peers_changed = trio.Event()
        self._asked_at: dict[bytes, float] = {}
        self._cursors: dict[bytes, int] = {}
        self._asking: set[bytes] = set()
        self._remotes: dict[bytes, str] = {}
        self._answers: dict[bytes, str] = {}
        """The last thing that each peer said about what is missing."""

    async def run(self) -> FetchReport:
        """Fetch until all is stored.

        Raises:
            FetchIncomplete: the time ran out.
            LocalError: the disk refused.
        """
        missing = await self._disk.run(find_missing, self._store, self._wanted)
        present = len(self._wanted) - len(missing.parts)
        if not missing.parts:
            return FetchReport(present=present)
        self._swarm = Swarm(
            missing.parts,
            begun=missing.begun,
            urgency=self._urgency,
            salt=self._salt,
            in_flight_max=self._in_flight_max,
            timeout_s=self._request_timeout_s,
        )
        started = trio.current_time()
        _log.info("fetch.started", blobs=len(missing.parts), present=present, resumed_bytes=missing.resumed_bytes)
        with trio.move_on_after(self._timeout_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._survey)
                await self._schedule(nursery)
                nursery.cancel_scope.cancel()
        await self._sync()
        report = self._report(present, missing.resumed_bytes)
        _log.info(
            "fetch.finished",
            blobs=report.verified,
            missing=len(self._swarm.missing),
            bytes=sum(report.bytes_by_peer.values()),
            peers=len(report.bytes_by_peer),
            seconds=round(trio.current_time() - started, 3),
        )
        if self._failure is not None:
            raise self._failure
        if not self._swarm.done:
            raise self._incomplete()
        return report

    async def _sync(self) -> None:
        try:
            await self._disk.run(self._store.sync)
        except LocalError as error:
            self._failure = self._failure or error  # what failed first says more

    def peer_came(self) -> None:
        """A peer connected: ask it."""
        self._peers_changed.set()

    def peer_gone(self, peer: bytes) -> None:
        """A peer is disconnected: others take over."""
        self._swarm.peer_gone(peer)
        self._asked_at.pop(peer, None)
        self._cursors.pop(peer, None)
        if peer in self._remotes:
            self._answers[peer] = "disconnected"
        self._wake.set()

    async def _schedule(self, nursery: trio.Nursery) -> None:
        while not self._swarm.done and self._failure is None:
            self._wake = trio.Event()
            now = trio.current_time()
            while not (capped_s := self._cap.wait_s(now)):
                requests = self._swarm.next_requests(now, at_most=1 if self._cap.is_set else None)
                for peer, part in requests:
                    self._cap.spend(self._expected(part), now)
                    nursery.start_soon(self._request, peer, part)
                if not requests or not self._cap.is_set:
                    break
            deadline = self._swarm.next_deadline(now)
            if capped_s:
                deadline = min(now + capped_s, float("inf") if deadline is None else deadline)
            with trio.move_on_at(float("inf") if deadline is None else deadline):
                await self._wake.wait()

    def _expected(self, part: Part) -> int:
        """Bytes that a request is expected to bring, and are counted against the cap when it is sent."""
        if part.blocks:
            return part.blocks * CONTENT_BLOCK_BYTES
        size = self._wanted.get(part.digest)
        return RANGE_BLOCKS_MAX * CONTENT_BLOCK_BYTES if size is None else size

    async def _request(self, peer: bytes, part: Part) -> None:
        if not part.blocks:
            blob = await self._requests.blob(peer, part.digest)
            self._arrived(peer, part)
            outcome = Outcome.ABSENT if blob is None else await self._judge_blob(peer, part, blob)
            self._settle(peer, part, outcome, 0 if blob is None else len(blob.data), ())
            return
        answer = await self._requests.blocks(peer, part)
        self._arrived(peer, part)
        if answer is None:
            self._settle(peer, part, Outcome.ABSENT, 0, ())
            return
        async with self._keeping.setdefault(part.digest, trio.Lock()):
            outcome, left = await self._judge_range(peer, part, answer)
            self._settle(peer, part, outcome, len(answer.data), left)
        if part.digest not in self._swarm.missing:
            self._keeping.pop(part.digest, None)

    def _arrived(self, peer: bytes, part: Part) -> None:
        self._swarm.arrived(peer, part, trio.current_time())
        self._wake.set()

    def _settle(self, peer: bytes, part: Part, outcome: Outcome, size: int, left: Sequence[Part]) -> None:
        self._cap.spend(size - self._expected(part), trio.current_time())
        is_new = self._swarm.received(peer, part, outcome, trio.current_time(), size=size, left=left)
        if is_new:
            self._on_fetched(peer, size)
            if self._progress is not None and part.digest not in self._swarm.missing:
                done = len(self._wanted) - len(self._swarm.missing)
                self._progress(done, len(self._wanted), peer, self._sizes.pop(part.digest, size))
        elif size:
            self._refetched += 1
        self._wake.set()

    async def _judge_blob(self, peer: bytes, part: Part, answer: BlobAnswer) -> Outcome:
        if answer.status is not BlobStatus.FOUND:
            return self._refused(peer, answer.status)
        if not self._swarm.is_open(part):
            return Outcome.VERIFIED  # another was faster; no need to look at it
        try:
            await self._disk.run(keep_blob, self._store, part.digest, answer)
        except CorruptChunk as error:
            return self._corrupt(peer, part, error)
        except LocalError as error:
            self._failure = error
            return Outcome.ABSENT
        return Outcome.VERIFIED

    async def _judge_range(self, peer: bytes, part: Part, answer: RangeAnswer) -> tuple[Outcome, Sequence[Part]]:
        if answer.status is not BlobStatus.FOUND:
            return self._refused(peer, answer.status), ()
        if not self._swarm.is_open(part):
            return Outcome.VERIFIED, ()
        try:
            state = await self._disk.run(keep_range, self._store, part, answer)
        except MalformedMessage as error:
            self._network.penalise(peer, error)
            return Outcome.ABSENT, ()
        except CorruptRange as error:
            return self._corrupt(peer, part, CorruptChunk(part.digest.hex()[:16], str(error))), ()
        except DiskCorruption as error:
            state = self._begin_again(part, answer, error)
        except LocalError as error:
            self._failure = error
            return Outcome.ABSENT, ()
        if state.is_complete:
            self._sizes[part.digest] = state.size
        return Outcome.VERIFIED, parts_of(part.digest, state)

    def _refused(self, peer: bytes, status: BlobStatus) -> Outcome:
        self._answers[peer] = status.name.lower().replace("_", " ")
        return Outcome.BUSY if status is BlobStatus.BUSY else Outcome.ABSENT

    def _corrupt(self, peer: bytes, part: Part, error: CorruptChunk) -> Outcome:
        self._answers[peer] = "sent a corrupt blob"
        _log.warning(
            "peer.corrupt",
            peer=self._remotes.get(peer, ""),
            key=peer.hex(),
            digest=part.digest.hex(),
            first_block=part.first,
        )
        self._network.penalise(peer, error)
        return Outcome.CORRUPT

    def _begin_again(self, part: Part, answer: RangeAnswer, error: DiskCorruption) -> PartialState:
        """The peer was right and the disk wasn't; a disk that does it again and again ends the download."""
        _log.warning("partial.corrupt", digest=part.digest.hex(), error=str(error))
        self._disk_failures[part.digest] += 1
        if self._disk_failures[part.digest] >= _DISK_FAILURES_MAX:
            self._failure = error
        return PartialState(answer.size)

    async def _survey(self) -> None:
        """Ask peers what they have: a new one about everything, the others from time to time about what they lacked."""
        async with trio.open_nursery() as nursery:
            while True:
                self._peers_changed = trio.Event()
                now = trio.current_time()
                for peer in self._network.peers():
                    key = peer.public_key
                    if self._from_peers is not None and not self._from_peers(peer):
                        continue
                    is_due = now >= self._asked_at.get(key, -float("inf")) + self._have_interval_s
                    if is_due and key not in self._asking and not self._swarm.is_bad(key):
                        self._remotes[key] = peer.remote
                        self._asking.add(key)
                        nursery.start_soon(self._ask, key)
                with trio.move_on_after(self._have_interval_s):
                    await self._peers_changed.wait()

    async def _ask(self, peer: bytes) -> None:
        try:
            batches = self._batches(peer)
            self._asked_at[peer] = trio.current_time()
            offered_any = False
            for batch in batches:
                offered = await self._requests.have(peer, batch, timeout_s=self._request_timeout_s)
                if offered is None:
                    self._answers[peer] = "no answer"
                    return
                if offered:
                    self._swarm.offer(peer, offered)
                    self._wake.set()
                    offered_any = True
            if batches and not offered_any and batches[0][0] in self._swarm.missing:
                # A bitmap doesn't say why. Asking for one of them does: not found, or not licensed.
                part = self._swarm.first_part(batches[0][0])
                self._cap.spend(self._expected(part), trio.current_time())
                with trio.move_on_after(self._request_timeout_s):
                    await self._request(peer, part)
        finally:
            self._asking.discard(peer)

    def _batches(self, peer: bytes) -> list[list[bytes]]:
        unknown = self._swarm.not_offered_by(peer)
        if peer not in self._asked_at:
            return [unknown[start : start + WANT_DIGESTS_MAX] for start in range(0, len(unknown), WANT_DIGESTS_MAX)]
        if len(unknown) <= WANT_DIGESTS_MAX:
            return [unknown] if unknown else []
        start = self._cursors.get(peer, 0) % len(unknown)
        self._cursors[peer] = start + WANT_DIGESTS_MAX
        return [unknown[start : start + WANT_DIGESTS_MAX]]

    def _report(self, present: int, resumed_bytes: int) -> FetchReport:
        return FetchReport(
            bytes_by_peer=dict(self._swarm.bytes_by_peer),
            verified=sum(self._swarm.chunks_by_peer.values()),
            present=present,
            resumed_bytes=resumed_bytes,
            refetched=self._refetched,
            wasted_bytes=self._swarm.wasted_bytes,
            corrupt_from=self._swarm.bad_peers,
        )

    def _incomplete(self) -> FetchIncomplete:
        said = Counter(self._answers.values())
        named = [
            f"{self._remotes.get(peer, peer.hex()[:16])}: {answer}" for peer, answer in sorted(self._answers.items())
        ]
        if len(named) > _PEERS_NAMED_MAX:
            named = [f"{number} peers: {answer}" for answer, number in sorted(said.items())]
        return FetchIncomplete(
            tuple(sorted(self._swarm.missing)),
            len(self._wanted),
            self._timeout_s,
            ", ".join(named) or ("no suitable peer is connected" if not self._remotes else "peers were too slow"),
            unlicensed="not licensed" in said,
        )
