"""One download: the swarm's decisions carried out over the network, every blob verified before it is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog
import trio

from deepshard.disk.chunks import ChunkStore
from deepshard.errors import LocalError
from deepshard.limits import WANT_DIGESTS_MAX
from deepshard.net.types import NetworkPort, PeerInfo
from deepshard.primitives import content_digest
from deepshard.services.shards_disk import DiskThreads
from deepshard.services.shards_requests import BlobAnswer, Requests
from deepshard.shards.errors import CorruptChunk
from deepshard.shards.swarm import Outcome, Swarm
from deepshard.wire.messages import BlobStatus

_log = structlog.get_logger(__name__)

PeerFilter = Callable[[PeerInfo], bool]
ProgressCallback = Callable[[int, int, bytes, int], None]
"""Blobs done, blobs in all, public key of the peer the last one came from, its size in bytes."""

_PEERS_NAMED_MAX = 8


@dataclass(frozen=True, slots=True)
class FetchReport:
    """What a download brought. Peers are named by public key.

    Attributes:
        bytes_by_peer: bytes of blobs that were verified and stored, by the peer they came from.
        verified: number of those blobs; what was in the store before isn't counted.
        present: number of blobs that were in the store before.
        refetched: answers that came to nothing (corrupt, or brought by another first) and were fetched again.
        wasted_bytes: their bytes.
        corrupt_from: peers that sent a corrupt blob, in the order of their keys.
    """

    bytes_by_peer: Mapping[bytes, int] = field(default_factory=dict)
    verified: int = 0
    present: int = 0
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
        timeout_s: float,
        request_timeout_s: float,
        have_interval_s: float,
        in_flight_max: int,
        disk: DiskThreads,
        on_fetched: Callable[[bytes, int], None],
    ) -> None:
        self._network = network
        self._store = store
        self._requests = requests
        self._wanted = dict(wanted)
        self._from_peers = from_peers
        self._progress = progress
        self._timeout_s = timeout_s
        self._request_timeout_s = request_timeout_s
        self._have_interval_s = have_interval_s
        self._in_flight_max = in_flight_max
        self._disk = disk
        self._on_fetched = on_fetched
        self._swarm = Swarm({})
        self._failure: LocalError | None = None
        self._refetched = 0
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
        missing = await self._disk.run(self._find_missing)
        if not missing:
            return FetchReport(present=len(self._wanted))
        self._swarm = Swarm(missing, in_flight_max=self._in_flight_max, timeout_s=self._request_timeout_s)
        started = trio.current_time()
        _log.info("fetch.started", blobs=len(missing), present=len(self._wanted) - len(missing))
        with trio.move_on_after(self._timeout_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._survey)
                await self._schedule(nursery)
                nursery.cancel_scope.cancel()
        report = self._report(len(self._wanted) - len(missing))
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

    def _find_missing(self) -> dict[bytes, int | None]:
        return {digest: size for digest, size in self._wanted.items() if not self._store.has(digest)}

    async def _schedule(self, nursery: trio.Nursery) -> None:
        while not self._swarm.done and self._failure is None:
            self._wake = trio.Event()
            now = trio.current_time()
            for peer, digest in self._swarm.next_requests(now):
                nursery.start_soon(self._request, peer, digest)
            deadline = self._swarm.next_deadline(now)
            with trio.move_on_at(float("inf") if deadline is None else deadline):
                await self._wake.wait()

    async def _request(self, peer: bytes, digest: bytes) -> None:
        answer = await self._requests.blob(peer, digest)
        outcome = Outcome.ABSENT if answer is None else await self._judge(peer, digest, answer)
        size = 0 if answer is None else len(answer.data)
        is_new = self._swarm.received(peer, digest, outcome, trio.current_time(), size=size)
        if is_new:
            self._on_fetched(peer, size)
            if self._progress is not None:
                done = len(self._wanted) - len(self._swarm.missing)
                self._progress(done, len(self._wanted), peer, size)
        elif size:
            self._refetched += 1
        self._wake.set()

    async def _judge(self, peer: bytes, digest: bytes, answer: BlobAnswer) -> Outcome:
        if answer.status is not BlobStatus.FOUND:
            self._answers[peer] = answer.status.name.lower().replace("_", " ")
            return Outcome.BUSY if answer.status is BlobStatus.BUSY else Outcome.ABSENT
        if digest not in self._swarm.missing:
            return Outcome.VERIFIED  # another was faster; no need to look at it
        try:
            is_genuine = await self._disk.run(self._keep, digest, answer.data)
        except LocalError as error:
            self._failure = error
            return Outcome.ABSENT
        if is_genuine:
            return Outcome.VERIFIED
        reason = f"{len(answer.data)} bytes are not the blob {digest.hex()}"
        self._answers[peer] = "sent a corrupt blob"
        _log.warning("peer.corrupt", peer=self._remotes.get(peer, ""), key=peer.hex(), digest=digest.hex())
        self._network.penalise(peer, CorruptChunk(digest.hex()[:16], reason))
        return Outcome.CORRUPT

    def _keep(self, digest: bytes, data: bytes) -> bool:
        if content_digest(data) != digest:
            return False
        self._store.put(data, digest=digest)
        return True

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
            if batches and not offered_any:
                # A bitmap doesn't say why. Asking for one of them does: not found, or not licensed.
                with trio.move_on_after(self._request_timeout_s):
                    await self._request(peer, batches[0][0])
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

    def _report(self, present: int) -> FetchReport:
        return FetchReport(
            bytes_by_peer=dict(self._swarm.bytes_by_peer),
            verified=sum(self._swarm.chunks_by_peer.values()),
            present=present,
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
