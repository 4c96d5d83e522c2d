"""The network as one object: listens, dials, keeps one link per peer, and passes on what peers say.

It holds no rule of the protocol: sessions say what bytes mean, `PeerScores` who is banned, the address book whom to
dial.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import structlog
import trio

from deepshard.errors import MalformedMessage, RemoteError, UsageError
from deepshard.gossip import PeerScores, Rate, RateLimiter
from deepshard.identity.keys import SecretKey
from deepshard.limits import (
    NETWORK_EVENTS_MAX,
    PEER_RECORDS_MAX,
    PEERS_MAX,
    PEERS_PER_IP_MAX,
    PENDING_HANDSHAKES_MAX,
)
from deepshard.net.dialler import AddressBook, Dialled, keep_dialling
from deepshard.net.endpoints import DialTarget, Endpoint, parse_dial_target, parse_endpoint
from deepshard.net.link import Link, LinkLost, Traffic
from deepshard.net.listening import bound_endpoint, open_listeners
from deepshard.net.pending import PendingHandshakes
from deepshard.net.types import LinkStats, NetworkEvent, PeerDown, PeerInfo, PeerUp, Received
from deepshard.primitives import address_of
from deepshard.wire.events import MessageReceived
from deepshard.wire.frames import Payload, prepare
from deepshard.wire.handshake import HandshakeRefused, LocalNode, PeerIdentity, RefusalReason
from deepshard.wire.messages import (
    BlobRequest,
    BlocksRequest,
    HaveRequest,
    HeadersRequest,
    LightAttackReport,
    Message,
    Peers,
    Priority,
    ProofRequest,
    RangeRequest,
    SnapshotChunkRequest,
    SnapshotsRequest,
)
from deepshard.wire.packets import Goodbye, GoodbyeReason
from deepshard.wire.receiving import ReassemblyBudget
from deepshard.wire.session import GOODBYES, Session

_log = structlog.get_logger(__name__)

RATES: Final = {
    Peers.KIND: Rate(per_s=5, burst=2 * PEERS_MAX),
    BlocksRequest.KIND: Rate(per_s=200, burst=400),
    HeadersRequest.KIND: Rate(per_s=200, burst=400),
    ProofRequest.KIND: Rate(per_s=200, burst=400),
    HaveRequest.KIND: Rate(per_s=500, burst=1000),
    BlobRequest.KIND: Rate(per_s=2000, burst=4000),
    RangeRequest.KIND: Rate(per_s=2000, burst=4000),
    SnapshotsRequest.KIND: Rate(per_s=5, burst=32),
    SnapshotChunkRequest.KIND: Rate(per_s=50, burst=100),
    LightAttackReport.KIND: Rate(per_s=1, burst=16),
}
"""What one peer may ask for; the rest shares `gossip.rates.DEFAULT_RATE`."""


NEWS_PAUSE_S: Final = 2.0


class QueueFull(LinkLost):
    """A peer reads more slowly than it must be told."""


class Banned(LinkLost):
    """A peer's penalties reached the bound."""


@dataclass(slots=True)
class _Peer:
    info: PeerInfo
    link: Link
    endpoint: Endpoint | None
    """Where others may dial it, by its own claim."""
    introduced: bool = False
    """Whether it has sent its first `Peers`."""


class Network:
    """Links with all peers; implements `net.types.NetworkPort`.

    Raises:
        UsageError: an address isn't one, or what the node says of itself is too long.
    """

    def __init__(
        self,
        *,
        key: SecretKey,
        chain_id: str,
        genesis_hash: bytes,
        roles: tuple[str, ...],
        listen: str | None,
        dial: Sequence[str],
        advertise: str | None = None,
    ) -> None:
        self.listening = ""
        """HOST:PORT really listened on, from when `run` reports to be started; empty without a listener."""
        self._listen = None if listen is None else parse_endpoint(listen)
        self._advertise = None if advertise is None else parse_endpoint(advertise)
        self._targets = [parse_dial_target(text) for text in dial]
        self._local = LocalNode(key, chain_id, genesis_hash, roles, advertise or "")
        self._book = AddressBook([] if self._advertise is None else [self._advertise])
        self._scores = PeerScores()
        self._peers: dict[bytes, _Peer] = {}
        self._traffic: dict[bytes, Traffic] = {}
        self._pending = PendingHandshakes(PENDING_HANDSHAKES_MAX)
        self._budget = ReassemblyBudget()
        self._send_events, self.events = trio.open_memory_channel[NetworkEvent](NETWORK_EVENTS_MAX)
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and dial until cancelled; then say Goodbye to everyone. Started with the value of `listening`.

        Raises:
            UsageError: the address to listen on is taken or isn't ours.
        """
        listeners = [] if self._listen is None else await open_listeners(self._listen)
        if listeners:
            bound = bound_endpoint(listeners[0])
            self.listening = str(bound)
            self._book.add_own(bound)
            if self._advertise is None:
                self._local = replace(self._local, listen=str(bound))
            _log.info("net.listening", address=self.listening)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for target in self._targets:
                self._book.add_configured(target.endpoint)
            for target in self._targets:
                nursery.start_soon(partial(self._dial, target, learned=False))
            if listeners:
                nursery.start_soon(partial(trio.serve_listeners, self._accept, listeners))
            task_status.started(self.listening)
            await trio.sleep_forever()

    def peers(self) -> Sequence[PeerInfo]:
        """Peers connected now, in the order of their keys."""
        return [self._peers[key].info for key in sorted(self._peers)]

    def stats(self) -> Mapping[bytes, LinkStats]:
        """Traffic by public key since the start; the oldest of very many departed peers are forgotten."""
        totals: dict[bytes, LinkStats] = {}
        for key in self._traffic.keys() | self._peers.keys():
            sum_ = Traffic()
            if key in self._traffic:
                sum_.add(self._traffic[key])
            if key in self._peers:
                sum_.add(self._peers[key].link.traffic)
            totals[key] = LinkStats(sum_.bytes_in, sum_.bytes_out, sum_.frames_in, sum_.frames_out)
        return totals

    async def send(
        self, peer: bytes, message: Message, attachment: bytes = b"", attachment_digest: bytes | None = None
    ) -> bool:
        """Queue a message by its priority; waits for room only when it is bulk. False if the peer is gone.

        Raises:
            LocalError: the message is larger than a frame carries.
        """
        payload = prepare(message, attachment, attachment_digest)
        known = self._peers.get(peer)
        if known is None:
            return False
        if payload.priority is Priority.BULK:
            return await known.link.outbox.put(payload)
        await trio.lowlevel.checkpoint()
        return self._offer(known, payload)

    def broadcast(self, message: Message, *, exclude: Collection[bytes] = ()) -> int:
        """Queue a message to every peer not excluded, never waiting; a peer whose queue is full is disconnected.

        Raises:
            LocalError: the message is larger than a frame carries.
        """
        payload = prepare(message)
        receivers = [known for key, known in self._peers.items() if key not in exclude]
        return sum(self._offer(known, payload) for known in receivers)

    def penalise(self, peer: bytes, error: RemoteError) -> None:
        """Take the error's penalty from the peer's score; at the bound it is disconnected and banned."""
        now = trio.current_time()
        banned = self._scores.penalise(peer, error, now)
        if error.penalty > 0:
            _log.warning(
                "peer.penalised",
                peer=peer.hex(),
                penalty=error.penalty,
                points=round(self._scores.points(peer, now), 1),
                banned=banned,
                error=f"{type(error).__name__}: {error}",
            )
        known = self._peers.get(peer)
        if banned and known is not None:
            known.link.end(Banned(f"banned: {error}"))

    def _memory_freed(self) -> None:
        """A link has dealt with a frame: those that lacked memory may ask for it again."""
        if self._budget.refused:
            self._budget.refused = False
            for known in self._peers.values():
                known.link.retry_credit()

    def _offer(self, known: _Peer, payload: Payload) -> bool:
        if known.link.outbox.offer(payload):
            return True
        if not known.link.outbox.closed:
            known.link.end(QueueFull("outbound queue full: the peer reads too slowly"))
        return False

    async def _dial(self, target: DialTarget, *, learned: bool, pause_s: float = 0.0) -> None:
        try:
            await trio.sleep(pause_s)
            await keep_dialling(target, self._connect, self._wait_while_linked, learned=learned)
        finally:
            if learned:
                self._book.forget(target.endpoint)

    async def _wait_while_linked(self, peer: bytes) -> bool:
        waited = False
        while known := self._peers.get(peer):
            waited = True
            await known.link.gone.wait()
        return waited

    async def _connect(self, stream: trio.SocketStream, expected_key: bytes | None) -> Dialled:
        return await self._serve(stream, outbound=True, expected_key=expected_key)

    async def _accept(self, stream: trio.SocketStream) -> None:
        await self._serve(stream, outbound=False)

    async def _serve(self, stream: trio.SocketStream, *, outbound: bool, expected_key: bytes | None = None) -> Dialled:
        """Handshake, link, goodbye: the life of one connection."""
        remote = _remote_of(stream)
        session = Session(
            self._local,
            dialling=outbound,
            ephemeral_secret=os.urandom(32),
            nonce=os.urandom(32),
            now=trio.current_time(),
            expected_key=expected_key,
            admit=partial(self._admit, remote=remote, outbound=outbound),
            budget=self._budget,
        )
        link = Link(stream, session, freed=self._memory_freed)
        goodbye: Goodbye | None = None
        was_up = False
        error: RemoteError | None = None
        try:
            if not outbound:
                self._pending.add(link, remote.host)
            try:
                await link.handshake()
            finally:
                self._pending.remove(link)
            assert session.peer is not None  # an established session knows its peer
            goodbye = Goodbye(GoodbyeReason.SHUTTING_DOWN, "shutting down")
            await self._make_way(session.peer.public_key, outbound=outbound)
            was_up = True
            error = await self._keep(link, session.peer, remote, outbound=outbound)
            goodbye = _goodbye_for(error)
        except RemoteError as failed:
            error = failed
            # A handshake that failed after the keys were agreed on can still say so, sealed.
            goodbye = None if isinstance(failed, LinkLost) else _goodbye_for(failed)
            self._log_refused(failed, remote, session.peer)
        finally:
            if goodbye is None:
                await link.close()
            else:
                await link.close(GoodbyeReason(goodbye.reason), goodbye.text)
        return Dialled(session.peer.public_key if session.peer else None, was_up, error)

    def _admit(self, peer: PeerIdentity, *, remote: Endpoint, outbound: bool) -> RefusalReason | None:
        """Our own reasons to refuse an authenticated peer."""
        if self._scores.is_banned(peer.public_key, trio.current_time()):
            return RefusalReason.BANNED
        current = self._peers.get(peer.public_key)
        if current is not None:
            replaces = not outbound and self._gives_way(current, peer.public_key, outbound=outbound)
            return None if replaces else RefusalReason.DUPLICATE_LINK
        same_ip = sum(parse_endpoint(known.info.remote).host == remote.host for known in self._peers.values())
        if len(self._peers) >= PEERS_MAX or same_ip >= PEERS_PER_IP_MAX:
            return RefusalReason.TOO_MANY_PEERS
        return None

    def _gives_way(self, current: _Peer, peer: bytes, *, outbound: bool) -> bool:
        """Whether an existing link yields to a new one with the same peer; both ends decide alike.

        A dialler that has a link goes no further than the other's identity, so one that does has none, or both dialled
        at once. Dialled by the same side: the newer one wins. Dialled by both: the one dialled by the smaller key wins.
        """
        if current.info.outbound == outbound:
            return not outbound
        return outbound == (self._local.key.public < peer)

    async def _make_way(self, peer: bytes, *, outbound: bool) -> None:
        while current := self._peers.get(peer):
            if not self._gives_way(current, peer, outbound=outbound):
                raise HandshakeRefused(RefusalReason.DUPLICATE_LINK)
            current.link.end()
            await current.link.gone.wait()

    async def _keep(self, link: Link, peer: PeerIdentity, remote: Endpoint, *, outbound: bool) -> RemoteError | None:
        """From PeerUp to PeerDown. Registering comes first: whoever reads PeerUp may send at once."""
        key = peer.public_key
        info = PeerInfo(key, address_of(key), peer.roles, str(remote), outbound)
        known = self._peers[key] = _Peer(info, link, _claimed_endpoint(peer, remote))
        _log.info("peer.up", peer=key.hex(), roles=peer.roles, remote=str(remote), outbound=outbound)
        error: RemoteError | None = None
        try:
            await self._send_events.send(PeerUp(info))
            self._introduce(known)
            error = await link.run(partial(self._deliver, known, RateLimiter(RATES, now=trio.current_time())))
            if error is not None and not isinstance(error, Banned):
                self.penalise(key, error)
            reason = str(error) if error else "replaced by another link"
            _log.info("peer.down", peer=key.hex(), remote=str(remote), reason=reason)
            await self._send_events.send(PeerDown(info, reason))
        finally:
            del self._peers[key]
            link.outbox.close()
            self._remember_traffic(key, link.traffic)
            link.gone.set()
        return error

    async def _deliver(self, known: _Peer, limiter: RateLimiter, event: MessageReceived) -> None:
        pause_s = limiter.spend(event.message.KIND, trio.current_time())
        if pause_s > 0:
            await trio.sleep(pause_s)
        if isinstance(event.message, Peers):
            self._learn(known, event.message)
            return
        received = Received(
            known.info, event.message, event.attachment, event.attachment_digest, event.attachment_leaves
        )
        try:
            self._send_events.send_nowait(received)  # links take care that others get their turn
        except trio.WouldBlock:
            await self._send_events.send(received)

    def _introduce(self, newcomer: _Peer) -> None:
        """Tell the newcomer of all peers, and all peers of the newcomer.

        The newcomer is told even when there is nobody: it dials who is in the first `Peers` at once, and who is in
        later ones after a pause, so that two that hear of each other don't dial at the same time.
        """
        others = [known for known in self._peers.values() if known is not newcomer]
        addresses = sorted({str(known.endpoint) for known in others if known.endpoint is not None})
        self._offer(newcomer, prepare(Peers(tuple(addresses[:PEERS_MAX]))))
        if newcomer.endpoint is not None:
            news = prepare(Peers((str(newcomer.endpoint),)))
            for known in others:
                self._offer(known, news)

    def _learn(self, known: _Peer, message: Peers) -> None:
        assert self._nursery is not None  # links live inside `run`
        from_loopback = parse_endpoint(known.info.remote).is_loopback
        pause_s = NEWS_PAUSE_S if known.introduced else 0.0
        known.introduced = True
        for address in message.addresses:
            try:
                endpoint = parse_endpoint(address)
            except UsageError as error:
                raise MalformedMessage(f"Peers holds no address: {error}") from None
            if self._book.learn(endpoint, from_loopback=from_loopback):
                self._nursery.start_soon(partial(self._dial, DialTarget(endpoint), learned=True, pause_s=pause_s))

    def _remember_traffic(self, key: bytes, traffic: Traffic) -> None:
        total = self._traffic.pop(key, None) or Traffic()
        total.add(traffic)
        self._traffic[key] = total
        while len(self._traffic) > PEER_RECORDS_MAX:
            del self._traffic[next(iter(self._traffic))]

    def _log_refused(self, error: RemoteError, remote: Endpoint, peer: PeerIdentity | None) -> None:
        key = peer.public_key.hex() if peer else ""
        if not isinstance(error, HandshakeRefused):
            _log.info("peer.refused", reason="handshake-failed", error=str(error), remote=str(remote), peer=key)
            return
        quiet = error.reason in {RefusalReason.DUPLICATE_LINK, RefusalReason.SELF_CONNECTION}
        log = _log.debug if quiet else _log.warning
        log(
            "peer.refused",
            reason=error.reason.value,
            ours=error.ours,
            theirs=error.theirs,
            by_peer=error.by_peer,
            remote=str(remote),
            peer=key,
        )


def _remote_of(stream: trio.SocketStream) -> Endpoint:
    """The other end; 0.0.0.0:0 if it is gone already."""
    try:
        host, port = stream.socket.getpeername()[:2]
    except OSError:
        return Endpoint("0.0.0.0", 0)  # noqa: S104 - a placeholder in a log, nothing listens there
    return Endpoint(str(host).partition("%")[0], port)


def _claimed_endpoint(peer: PeerIdentity, remote: Endpoint) -> Endpoint | None:
    """Where the peer says it listens; a wildcard stands for the address it came from."""
    try:
        claimed = parse_endpoint(peer.listen)
    except UsageError:
        return None
    if claimed.port == 0:
        return None
    return replace(claimed, host=remote.host) if claimed.is_wildcard else claimed


def _goodbye_for(error: RemoteError | None) -> Goodbye:
    """What a peer is told when its link ends because of `error`."""
    match error:
        case None:
            return Goodbye(GoodbyeReason.REPLACED, "replaced by another link")
        case HandshakeRefused():
            return Goodbye(GOODBYES.get(error.reason, GoodbyeReason.PROTOCOL_ERROR), error.reason.value)
        case Banned():
            return Goodbye(GoodbyeReason.BANNED, str(error))
        case LinkLost():
            return Goodbye(GoodbyeReason.OVERLOADED, str(error))
        case _:
            return Goodbye(GoodbyeReason.PROTOCOL_ERROR, f"{type(error).__name__}: {error}")
