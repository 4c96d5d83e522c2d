"""Hosts the gossip mesh: messages in, units out, effects performed. It decides nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Final

import trio

from deepshard.gossip import Mesh, Topic, Unit, Verdict, events
from deepshard.gossip.subnets import subnet_of
from deepshard.gossip.units import entry_unit, whole_unit
from deepshard.limits import GOSSIP_SUBNET_MESH_MAX
from deepshard.net.types import NetworkPort, PeerInfo
from deepshard.primitives import tagged_hash
from deepshard.services.block_sync import follows_chain
from deepshard.wire.messages import (
    BlockProposal,
    Graft,
    IDontWant,
    IHave,
    IWant,
    Message,
    ProofOfLock,
    Prune,
    Transactions,
    Votes,
)

ControlMessage = Graft | Prune | IHave | IWant | IDontWant
GossipMessage = BlockProposal | ProofOfLock | Votes | Transactions
RELAY_PAUSE_S: Final = (0.015, 0.045)
"""Votes wait for each other so long at least and at most: by chance, so that not all pass on the same at once."""
BATCH_ENTRIES_MAX, BATCH_BYTES_MAX = 256, 256 * 1024


class MeshHost:
    """One node's mesh, wired to its network. `later` calls `relay` after so many seconds.

    At most `subnet_max` peers of one /24 (IPv4) or /64 (IPv6) are in a mesh; loopback, private and link-local addresses
    count only if `count_private` says so. Chance comes from the node's secret: nobody else can foresee whom it grafts,
    and tests repeat.
    """

    def __init__(
        self,
        network: NetworkPort,
        *,
        secret: bytes,
        later: Callable[[float], None],
        subnet_max: int = GOSSIP_SUBNET_MESH_MAX,
        count_private: bool = False,
    ) -> None:
        self._network = network
        self._later = later
        self._mesh = Mesh(subnet_max=subnet_max)
        self._count_private = count_private
        self._rng = Random(tagged_hash("gossip chance", secret))  # noqa: S311  # picks peers, keeps no secret

    def peer_up(self, peer: PeerInfo) -> None:
        """A link is up."""
        subnet = subnet_of(_host_of(peer.remote), count_private=self._count_private)
        joined = events.PeerJoined(peer.public_key, follows_chain(peer), peer.outbound, subnet)
        self._apply(joined)

    def peer_down(self, peer: PeerInfo) -> None:
        """A link is down."""
        self._apply(events.PeerLeft(peer.public_key))

    def control(self, peer: PeerInfo, message: ControlMessage) -> None:
        """Take a control message."""
        self._apply(events.ControlReceived(peer.public_key, _control_of(message)))

    def receive(self, peer: PeerInfo, message: GossipMessage) -> tuple[Unit, ...]:
        """Take a message; its units that are new, each of which must be judged."""
        return self._apply(events.UnitsReceived(peer.public_key, tuple(units_of(message))))

    def judge(self, unit: Unit, verdict: Verdict, author: bytes | None = None) -> None:
        """Say what became of a unit; `author` is the peer that signed it, if that is known."""
        self._apply(events.UnitJudged(unit.id, verdict, author))

    def publish(self, message: GossipMessage) -> None:
        """Send something of our own."""
        self._apply(events.Published(tuple(units_of(message))))

    def relay(self) -> None:
        """The pause is over that gathers units."""
        self._apply(events.RelayDue())

    def heartbeat(self) -> None:
        """A second has passed."""
        self._apply(events.Heartbeat())

    def progress(self, *, decided: bool) -> None:
        """A block was committed (`decided`) or a round began: what was for later may be valid now."""
        self._apply(events.ProgressMade(decided))

    def _apply(self, event: events.Event) -> tuple[Unit, ...]:
        fresh: tuple[Unit, ...] = ()
        for effect in self._mesh.apply(event, trio.current_time(), self._rng):
            match effect:
                case events.Tell(peer=peer, control=control):
                    self._send((peer,), _message_of(control))
                case events.Forward(peers=peers, units=units):
                    for message in messages_of(units):
                        self._send(peers, message)
                case events.Examine(units=fresh):
                    pass
                case events.ScheduleRelay():
                    earliest, latest = RELAY_PAUSE_S
                    self._later(earliest + (latest - earliest) * self._rng.random())
                case events.Penalise(peer=peer, error=error):
                    self._network.penalise(peer, error)
        return fresh

    def _send(self, peers: Iterable[bytes], message: Message) -> None:
        """Send to these only: packed once for all of them, and without waiting."""
        chosen = set(peers)
        self._network.broadcast(
            message, exclude={info.public_key for info in self._network.peers() if info.public_key not in chosen}
        )


def units_of(message: GossipMessage) -> Iterator[Unit]:
    """The units that a message holds."""
    match message:
        case BlockProposal() | ProofOfLock():
            yield whole_unit(Topic.CONSENSUS, message.KIND, message)
        case Votes(votes=entries):
            yield from (entry_unit(Topic.CONSENSUS, Votes.KIND, entry) for entry in entries)
        case Transactions(transactions=entries):
            yield from (entry_unit(Topic.TRANSACTIONS, Transactions.KIND, entry) for entry in entries)


def messages_of(units: Iterable[Unit]) -> Iterator[GossipMessage]:
    """As few messages as hold the units."""
    votes: list[bytes] = []
    transactions: list[bytes] = []
    for unit in units:
        match unit.content:
            case BlockProposal() | ProofOfLock() as message:
                yield message
            case bytes() as entry:
                (votes if unit.kind == Votes.KIND else transactions).append(entry)
            case content:
                raise AssertionError(f"no unit of ours holds a {type(content).__name__}")
    yield from (Votes(batch) for batch in _batches(votes))
    yield from (Transactions(batch) for batch in _batches(transactions))


def _batches(entries: list[bytes]) -> Iterator[tuple[bytes, ...]]:
    batch: list[bytes] = []
    size = 0
    for entry in entries:
        if batch and (len(batch) >= BATCH_ENTRIES_MAX or size + len(entry) > BATCH_BYTES_MAX):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(entry)
        size += len(entry)
    if batch:
        yield tuple(batch)


def _control_of(message: ControlMessage) -> events.Control:
    match message:
        case Graft(topic=topic):
            return events.Graft(topic)
        case Prune(topic=topic, backoff_s=backoff_s):
            return events.Prune(topic, backoff_s)
        case IHave(topic=topic, ids=ids):
            return events.IHave(topic, ids)
        case IWant(ids=ids):
            return events.IWant(ids)
        case IDontWant(ids=ids):
            return events.IDontWant(ids)


def _message_of(control: events.Control) -> Message:
    match control:
        case events.Graft(topic=topic):
            return Graft(topic)
        case events.Prune(topic=topic, backoff_s=backoff_s):
            return Prune(topic, backoff_s)
        case events.IHave(topic=topic, ids=ids):
            return IHave(topic, ids)
        case events.IWant(ids=ids):
            return IWant(ids)
        case events.IDontWant(ids=ids):
            return IDontWant(ids)


def _host_of(remote: str) -> str:
    """The host of HOST:PORT or [HOST]:PORT."""
    return remote.rpartition(":")[0].removeprefix("[").removesuffix("]")
