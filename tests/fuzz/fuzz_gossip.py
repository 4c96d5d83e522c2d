"""The gossip mesh of a node whose peers say anything: control messages and batches as decoded from the wire.

The input is a list of chunks; the first byte of each says what happens, the second to which peer. Every effect must be
for a connected peer and must fit a message, and no table may grow beyond its bound.
"""

from __future__ import annotations

from random import Random
from typing import Final

from harness import Harness, Reader, chunked
from samples import message_samples

from deepshard.encoding import decode, encode
from deepshard.gossip import Mesh, Topic, Unit, Verdict, events
from deepshard.limits import (
    BODY_BYTES_MAX,
    GOSSIP_DEGREE_HIGH,
    GOSSIP_DEGREE_OUTBOUND,
    GOSSIP_IDONTWANT_IDS_MAX,
    GOSSIP_PROMISES_MAX,
)
from deepshard.services.mesh_host import _control_of, _message_of, messages_of, units_of
from deepshard.wire.frames import prepare
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

SAYS, BEATS, JUDGES, JOINS, LEAVES, RELAYS, COMMITS, PUBLISHES = range(8)
KINDS: Final[tuple[type[Message], ...]] = (
    Graft,
    Prune,
    IHave,
    IWant,
    IDontWant,
    Votes,
    Transactions,
    BlockProposal,
    ProofOfLock,
)
PEERS: Final = 16


class Gossiping:
    """A mesh and its peers."""

    def __init__(self) -> None:
        self.mesh = Mesh()
        self.rng = Random(1)
        self.now = 0.0
        self.connected: set[bytes] = set()
        self.unjudged: list[Unit] = []
        for number in range(PEERS // 2):
            self.join(number, outbound=number % 3 == 0)

    def join(self, number: int, *, outbound: bool) -> None:
        peer = bytes([number])
        self.connected.add(peer)
        self.apply(events.PeerJoined(peer, number % 7 != 6, outbound, None if number % 2 else "10.0.0.0/24"))

    def apply(self, event: events.Event) -> None:
        for effect in self.mesh.apply(event, self.now, self.rng):
            match effect:
                case events.Tell(peer=peer, control=control):
                    assert peer in self.connected
                    prepare(_message_of(control))
                    decode(encode(_message_of(control)), type(_message_of(control)), bytes_max=BODY_BYTES_MAX)
                case events.Forward(peers=peers, units=units):
                    assert self.connected.issuperset(peers)
                    for message in messages_of(units):
                        prepare(message)
                case events.Examine(units=units):
                    self.unjudged += units
                case _:
                    pass

    def do(self, chunk: bytes) -> None:
        reader = Reader(chunk)
        action, number = reader.number() % 8, reader.number() % PEERS
        peer = bytes([number])
        match action:
            case 0 if peer in self.connected:
                kind = KINDS[reader.number() % len(KINDS)]
                message = decode(reader.rest(), kind, bytes_max=BODY_BYTES_MAX)
                if isinstance(message, Votes | ProofOfLock | Transactions | BlockProposal):
                    self.apply(events.UnitsReceived(peer, tuple(units_of(message))))
                elif isinstance(message, Graft | Prune | IHave | IWant | IDontWant):
                    self.apply(events.ControlReceived(peer, _control_of(message)))
            case 1:
                self.now += 1.0
                self.apply(events.Heartbeat())
            case 2 if self.unjudged:
                unit = self.unjudged.pop(reader.number() % len(self.unjudged))
                verdict = list(Verdict)[reader.number() % len(Verdict)]
                self.apply(events.UnitJudged(unit.id, verdict, peer if reader.number() & 1 else None))
            case 3:
                self.join(number, outbound=bool(reader.number() & 1))
            case 4:
                self.connected.discard(peer)
                self.apply(events.PeerLeft(peer))
            case 5:
                self.apply(events.RelayDue())
            case 6:
                self.apply(events.ProgressMade())
            case 7:
                self.apply(events.Published(tuple(units_of(Votes((reader.rest()[:512],))))))
            case _:
                pass

    def check_bounds(self) -> None:
        state = self.mesh._state
        for topic in Topic:
            members = self.mesh.members(topic)
            assert len(members) <= GOSSIP_DEGREE_HIGH + GOSSIP_DEGREE_OUTBOUND
            assert self.connected.issuperset(members)
        assert all(len(member.unwanted) <= GOSSIP_IDONTWANT_IDS_MAX for member in state.peers.values())
        assert set(state.peers) == self.connected
        assert len(state.asking) <= GOSSIP_PROMISES_MAX * len(self.connected)


def check(data: bytes) -> None:
    gossiping = Gossiping()
    for chunk in Reader(data).chunks():
        gossiping.do(chunk)
        gossiping.check_bounds()


def seeds() -> dict[str, bytes]:
    def op(action: int, peer: int, *rest: bytes) -> bytes:
        return bytes((action, peer)) + b"".join(rest)

    samples = {type(message): message for message in message_samples()}
    says = {kind: op(SAYS, 1, bytes((place,)), encode(samples[kind])) for place, kind in enumerate(KINDS)}
    beat, relay, judge = op(BEATS, 0), op(RELAYS, 0), op(JUDGES, 1, bytes(3))
    found = {kind.__name__: chunked(said, beat, said) for kind, said in says.items()}
    published = op(PUBLISHES, 0, b"a vote")
    unit_id = next(units_of(Votes((b"a vote",)))).id
    wanted = op(SAYS, 2, b"\x03", encode(IWant((unit_id,))))
    found["published-and-wanted"] = chunked(published, relay, beat, *[wanted] * 5)
    found["received-and-relayed"] = chunked(says[Votes], judge, judge, relay, beat, says[Votes])
    rejected = op(JUDGES, 1, b"\x00\x03\x01")
    found["rejected"] = chunked(says[Transactions], rejected, says[Transactions], beat)
    found["come-and-go"] = chunked(op(JOINS, 9, b"\x01"), op(LEAVES, 1), op(JOINS, 1, b"\x00"), beat, op(COMMITS, 0))
    grafts = [op(SAYS, peer, b"\x00", encode(Graft(0))) for peer in range(8)]
    found["grafts"] = chunked(*grafts, beat, op(SAYS, 1, b"\x01", encode(Prune(0, 3600))), grafts[1], beat)
    return found


HARNESS: Final = Harness(check, seeds, shape="chunks", input_bytes_max=8192)
