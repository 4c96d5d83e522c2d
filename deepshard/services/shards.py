"""The shard exchange: serves blobs and chunks to peers, fetches them from many at once, and mends what rots on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog
import trio

from deepshard.actors import Mailbox
from deepshard.disk.chunks import ChunkStore
from deepshard.errors import LocalError
from deepshard.limits import PEERS_REMEMBERED_MAX
from deepshard.net.types import NetworkEvent, NetworkPort, PeerDown, PeerUp
from deepshard.services.shards_disk import DiskThreads
from deepshard.services.shards_download import (
    Download,
    FetchIncomplete,
    FetchReport,
    PeerFilter,
    ProgressCallback,
)
from deepshard.services.shards_requests import ExchangeReply, Requests
from deepshard.services.shards_upload import ExchangeRequest, MayFetch, Uploads
from deepshard.shards.rates import RateCap

__all__ = ["ExchangeStats", "FetchIncomplete", "FetchReport", "ShardExchange"]

_log = structlog.get_logger(__name__)
_MAILBOX_MESSAGES = 64  # small: each may carry a blob


@dataclass(slots=True)
class ExchangeStats:
    """Totals since the start, by public key; of the latest `PEERS_REMEMBERED_MAX` peers."""

    served_bytes: dict[bytes, int] = field(default_factory=dict)
    fetched_bytes: dict[bytes, int] = field(default_factory=dict)
    repaired: int = 0


class ShardExchange:
    """The actor that serves and fetches blobs.

    The node's router puts have, blob and range requests and replies, and peers' coming and going, into `mailbox`;
    `run` must be running for anything to be served or fetched.
    """

    def __init__(
        self,
        network: NetworkPort,
        store: ChunkStore,
        may_fetch: MayFetch,
        *,
        salt: bytes = b"",
        uploads_per_peer: int = 4,
        waiting_per_peer: int = 32,
        in_flight_per_peer: int = 8,
        request_timeout_s: float = 30.0,
        have_interval_s: float = 1.0,
        repair_timeout_s: float = 120.0,
        repair_pause_s: float = 30.0,
        repair_attempts: int = 5,
        disk_threads: int = 4,
        upload_bytes_per_s: float = 0.0,
        download_bytes_per_s: float = 0.0,
    ) -> None:
        """Set up.

        Args:
            salt: this node's own, to take equally rare blobs in another order than others do; none takes the same.
            may_fetch: whether a peer may have a blob; asked on the event loop for each request, so it must be quick.
            request_timeout_s: after this long without an answer a blob is asked of another peer; after half as long,
                if nothing else is left to ask for.
            have_interval_s: how often a peer is asked again about what it lacked.
            repair_attempts: how often a blob that was corrupt on disk is looked for before it is given up.
            disk_threads: threads that hash and access files; 0 under a simulated clock.
            upload_bytes_per_s: cap on blobs and ranges served, to all peers together; 0 for none.
            download_bytes_per_s: cap on blobs and ranges asked for, by all downloads together; 0 for none.
        """
        self.mailbox: Mailbox[NetworkEvent] = Mailbox(_MAILBOX_MESSAGES)
        self.stats = ExchangeStats()
        self._network = network
        self._store = store
        self._disk = DiskThreads(disk_threads)
        self._requests = Requests(network)
        self._uploads = Uploads(
            network,
            store,
            may_fetch,
            slots=uploads_per_peer,
            waiting_max=waiting_per_peer,
            disk=self._disk,
            cap=RateCap(upload_bytes_per_s),
            on_served=lambda peer, size: _add(self.stats.served_bytes, peer, size),
            on_corrupt=self.repair,
        )
        self._salt = salt
        self._downloads: set[Download] = set()
        self._download_cap = RateCap(download_bytes_per_s)
        self._in_flight_per_peer = in_flight_per_peer
        self._request_timeout_s = request_timeout_s
        self._have_interval_s = have_interval_s
        self._repair_timeout_s = repair_timeout_s
        self._repair_pause_s = repair_pause_s
        self._repair_attempts = repair_attempts
        self._damaged: dict[bytes, int] = {}
        """Attempts made for each blob that is to be repaired."""
        self._damage_found = trio.Event()

    async def run(self) -> None:
        """Serve, match answers, and repair, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._repair_forever)
            while True:
                self._handle(await self.mailbox.get(), nursery)

    async def fetch(
        self,
        digests: Mapping[bytes, int | None],
        *,
        from_peers: PeerFilter | None = None,
        progress: ProgressCallback | None = None,
        urgency: Mapping[bytes, int] | None = None,
        timeout_s: float = 600.0,
    ) -> FetchReport:
        """Bring blobs into the store: verified, from all peers that have them, resuming what is there already.

        Args:
            digests: content addresses and sizes in bytes, None where unknown; what is known to be larger than one
                range comes in ranges.
            from_peers: asks only peers for which this is true.
            progress: called after every blob.
            urgency: rank of some of the blobs, 0 where none is given; lower ranks are asked for first.

        Raises:
            FetchIncomplete: not all came within `timeout_s`; says how many are missing and what each peer answered.
            LocalError: the disk refused.
        """
        download = Download(
            self._network,
            self._store,
            self._requests,
            digests,
            from_peers=from_peers,
            progress=progress,
            urgency=urgency or {},
            salt=self._salt,
            timeout_s=timeout_s,
            request_timeout_s=self._request_timeout_s,
            have_interval_s=self._have_interval_s,
            in_flight_max=self._in_flight_per_peer,
            disk=self._disk,
            cap=self._download_cap,
            on_fetched=lambda peer, size: _add(self.stats.fetched_bytes, peer, size),
        )
        self._downloads.add(download)
        try:
            return await download.run()
        finally:
            self._downloads.discard(download)

    async def fetch_blob(
        self, digest: bytes, *, from_peers: PeerFilter | None = None, timeout_s: float = 60.0
    ) -> bytes:
        """Bytes of one blob, verified; fetched unless the store has it, also where the stored one turns out corrupt.

        Raises:
            FetchIncomplete: nobody gave it within `timeout_s`.
            LocalError: the disk refused.
        """
        await self.fetch({digest: None}, from_peers=from_peers, timeout_s=timeout_s)
        try:
            return await self._disk.run(self._store.get, digest)
        except LocalError as error:  # corrupt and moved aside, or deleted meanwhile
            _log.warning("chunk.corrupt", digest=digest.hex(), error=str(error))
        await self.fetch({digest: None}, from_peers=from_peers, timeout_s=timeout_s)
        return await self._disk.run(self._store.get, digest)

    def repair(self, digest: bytes) -> None:
        """Schedule fetching a blob that was found corrupt (and moved aside) by whoever read it."""
        self._damaged.setdefault(digest, 0)
        self._damage_found.set()

    def _handle(self, event: NetworkEvent, nursery: trio.Nursery) -> None:
        if isinstance(event, PeerUp):
            for download in self._downloads:
                download.peer_came()
            return
        key = event.peer.public_key
        if isinstance(event, PeerDown):
            # A second link to the same peer may live on.
            if all(peer.public_key != key for peer in self._network.peers()):
                self._requests.peer_gone(key)
                for download in self._downloads:
                    download.peer_gone(key)
        elif isinstance(event.message, ExchangeReply):
            self._requests.receive(event)
        elif isinstance(event.message, ExchangeRequest) and not self._uploads.is_flooded(key):
            nursery.start_soon(self._uploads.serve, event.peer, event.message)

    async def _repair_forever(self) -> None:
        while True:
            await self._damage_found.wait()
            self._damage_found = trio.Event()
            while self._damaged:
                if not await self._repair_once():
                    await trio.sleep(self._repair_pause_s)

    async def _repair_once(self) -> bool:
        wanted = tuple(self._damaged)
        try:
            await self.fetch(dict.fromkeys(wanted), timeout_s=self._repair_timeout_s)
        except LocalError as error:
            _log.warning("chunk.repair_failed", blobs=len(wanted), error=str(error))
        for digest in wanted:
            self._damaged[digest] += 1
            if await self._disk.run(self._store.has, digest):
                del self._damaged[digest]
                self.stats.repaired += 1
                _log.info("chunk.repaired", digest=digest.hex())
            elif self._damaged[digest] >= self._repair_attempts:
                del self._damaged[digest]
                _log.error("chunk.lost", digest=digest.hex(), attempts=self._repair_attempts)
        return self._damaged.keys().isdisjoint(wanted)  # what was found meanwhile needn't wait


def _add(totals: dict[bytes, int], peer: bytes, size: int) -> None:
    if peer not in totals and len(totals) >= PEERS_REMEMBERED_MAX:
        totals.pop(next(iter(totals)))
    totals[peer] = totals.get(peer, 0) + size
