from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
import structlog
import trio

from deepshard.errors import BadSignature, UsageError
from deepshard.identity.keys import SecretKey
from deepshard.net.endpoints import Endpoint
from deepshard.net.network import Network, _Peer
from deepshard.net.types import PeerDown, PeerInfo, PeerUp, Received
from deepshard.primitives import content_digest
from deepshard.wire.events import Established, Event, Failed, PeerLeft
from deepshard.wire.handshake import LocalNode, PeerIdentity, RefusalReason
from deepshard.wire.messages import BlobReply, BlobStatus, Message, Status, Votes
from deepshard.wire.packets import Ping, pack_control
from deepshard.wire.receiving import RawFrame
from deepshard.wire.session import Session

E = TypeVar("E")
GENESIS = b"\x07" * 32


def make_network(
    number: int, *, dial: tuple[str, ...] = (), listen: str | None = "127.0.0.1:0", **changes: bytes
) -> Network:
    key = SecretKey(bytes([number]) * 32)
    genesis = changes.get("genesis", GENESIS)
    return Network(key=key, chain_id="test", genesis_hash=genesis, roles=("validator",), listen=listen, dial=dial)


def public(number: int) -> bytes:
    return SecretKey(bytes([number]) * 32).public


@asynccontextmanager
async def running(network: Network) -> AsyncIterator[Network]:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            yield network
            nursery.cancel_scope.cancel()


class Logs:
    """Structured log entries, to be waited for."""

    def __init__(self) -> None:
        self.entries: list[MutableMapping[str, Any]] = []
        self._more = trio.Event()

    def __call__(self, _logger: Any, _method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        self.entries.append(entry)
        self._more.set()
        self._more = trio.Event()
        raise structlog.DropEvent

    async def named(self, event: str, count: int) -> list[MutableMapping[str, Any]]:
        while len(found := [entry for entry in self.entries if entry["event"] == event]) < count:
            await self._more.wait()
        return found


@pytest.fixture
def logs() -> Iterator[Logs]:
    recorder = Logs()
    structlog.configure(processors=[recorder])
    yield recorder
    structlog.reset_defaults()


async def next_event(network: Network, kind: type[E], accept: Callable[[E], bool] = lambda _: True) -> E:
    """The next event of a kind; others on the way are passed over."""
    async for event in network.events:
        if isinstance(event, kind) and accept(event):
            return event
    raise AssertionError("the channel of events never ends")


async def test_two_nodes_exchange_messages_and_attachments_both_ways() -> None:
    async with running(make_network(1)) as a, running(make_network(2, dial=(a.listening,))) as b:
        up_a, up_b = await next_event(a, PeerUp), await next_event(b, PeerUp)
        assert (up_a.peer.public_key, up_b.peer.public_key) == (public(2), public(1))
        assert (up_a.peer.outbound, up_b.peer.outbound) == (False, True)
        assert up_b.peer.remote == a.listening
        assert up_a.peer.roles == ("validator",)
        attachment = os.urandom(4 << 20)
        for sender, receiver, target in ((a, b, 2), (b, a, 1)):
            reply = BlobReply(5, content_digest(attachment), BlobStatus.FOUND)
            assert await sender.send(public(target), Status(9))
            assert await sender.send(public(target), reply, attachment)
            assert (await next_event(receiver, Received)).message == Status(9)
            blob = await next_event(receiver, Received)
            assert blob.message == reply
            assert blob.attachment == attachment
            assert blob.attachment_digest == content_digest(attachment)
        stats = a.stats()[public(2)]
        assert stats.frames_out >= 2
        assert stats.frames_in >= 2
        assert min(stats.bytes_in, stats.bytes_out) > 4 << 20


async def test_three_nodes_learn_of_each_other_and_a_broadcast_reaches_all() -> None:
    async with (
        running(make_network(1)) as a,
        running(make_network(2, dial=(a.listening,))) as b,
        running(make_network(3, dial=(a.listening,))) as c,
    ):
        for network in (b, c):
            ups = {(await next_event(network, PeerUp)).peer.public_key for _ in range(2)}
            assert public(1) in ups
        assert [peer.public_key for peer in b.peers()] == sorted([public(1), public(3)])
        assert b.broadcast(Status(4)) == 2
        assert b.broadcast(Status(5), exclude=[public(1)]) == 1
        assert (await next_event(a, Received)).message == Status(4)
        assert [(await next_event(c, Received)).message for _ in range(2)] == [Status(4), Status(5)]


async def free_address() -> str:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        return f"127.0.0.1:{listener.socket.getsockname()[1]}"


async def test_nodes_that_dial_each_other_at_once_keep_one_link() -> None:
    for _ in range(5):
        addresses = await free_address(), await free_address()
        first = make_network(1, listen=addresses[0], dial=(addresses[1],))
        second = make_network(2, listen=addresses[1], dial=(addresses[0],))
        async with running(first) as a, running(second) as b:
            await next_event(a, PeerUp)
            await next_event(b, PeerUp)
            while not await exchanged(a, b):
                pass
            [at_a], [at_b] = a.peers(), b.peers()
            assert (at_a.public_key, at_b.public_key) == (public(2), public(1))
            assert at_a.outbound != at_b.outbound


async def exchanged(a: Network, b: Network) -> bool:
    """Whether a message goes through each way; a link that is being replaced may lose it."""
    for sender, receiver, target in ((a, b, 2), (b, a, 1)):
        arrived = False
        with trio.move_on_after(0.2):
            arrived = await sender.send(public(target), Status(1))
            await next_event(receiver, Received)
        if not arrived:
            return False
    return True


async def test_wrong_genesis_is_refused_and_both_sides_say_so(logs: Logs) -> None:
    other = b"\x08" * 32
    async with running(make_network(1)) as a, running(make_network(2, dial=(a.listening,), genesis=other)):
        refused = (await logs.named("peer.refused", 2))[:2]
        assert a.peers() == []
    assert {entry["reason"] for entry in refused} == {"genesis-mismatch"}
    facts = {(entry["ours"], entry["theirs"]) for entry in refused}
    assert facts == {(GENESIS.hex(), other.hex()), (other.hex(), GENESIS.hex())}
    assert {entry["by_peer"] for entry in refused} == {True, False}


@pytest.mark.clause("13.1/3", "13.2/3")
async def test_garbage_harms_nobody_else() -> None:
    async with running(make_network(1)) as a, running(make_network(2, dial=(a.listening,))) as b:
        await next_event(a, PeerUp)
        await next_event(b, PeerUp)
        host, _, port = a.listening.rpartition(":")
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(5000), b"\xff" * 3, b"\x02\x00\x01\x01", b""):
            stream = await trio.open_tcp_stream(host, int(port))
            await stream.send_all(garbage)
            await stream.aclose()
        assert await b.send(public(1), Status(1))
        assert (await next_event(a, Received)).message == Status(1)
        assert [peer.public_key for peer in a.peers()] == [public(2)]


async def test_a_busy_port_is_a_usage_error() -> None:
    async with running(make_network(1)) as a:
        with pytest.raises(UsageError, match=f"^cannot listen on {a.listening}: already in use"):
            await make_network(2, listen=a.listening).run()


async def test_one_peer_too_many_is_told_so(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepshard.net.network.PEERS_MAX", 1)
    async with running(make_network(1)) as a, running(make_network(2, dial=(a.listening,), listen=None)):
        await next_event(a, PeerUp)
        async with running(make_network(3, dial=(a.listening,), listen=None)) as c:
            refused = await logs.named("peer.refused", 2)
            assert c.peers() == []
        assert [peer.public_key for peer in a.peers()] == [public(2)]
    assert {(entry["reason"], entry["by_peer"]) for entry in refused[:2]} == {
        ("too-many-peers", True),
        ("too-many-peers", False),
    }


async def test_another_key_than_the_expected_is_not_linked(logs: Logs) -> None:
    stranger = public(3).hex()
    async with running(make_network(1)) as a, running(make_network(2, dial=(f"{stranger}@{a.listening}",))) as b:
        refused = await logs.named("peer.refused", 2)
        assert [*a.peers(), *b.peers()] == []
    assert {entry["reason"] for entry in refused} == {"unexpected-key"}


async def test_a_node_that_restarts_is_dialled_again() -> None:
    async with trio.open_nursery() as nursery:
        async with running(make_network(1)) as a:
            address = a.listening
            b = make_network(2, dial=(address,), listen=None)
            await nursery.start(b.run)
            assert (await next_event(b, PeerUp)).peer.public_key == public(1)
        down = await next_event(b, PeerDown)
        assert down.reason == "the peer left: shutting down"
        assert b.peers() == []
        assert not await b.send(public(1), Status(1))
        async with running(make_network(1, listen=address)) as a:
            await next_event(b, PeerUp)
            assert await b.send(public(1), Status(2))
            assert (await next_event(a, Received)).message == Status(2)
        nursery.cancel_scope.cancel()


async def test_penalties_ban_a_peer_and_it_is_refused_from_then_on(logs: Logs) -> None:
    async with running(make_network(1)) as a, running(make_network(2, dial=(a.listening,))) as b:
        await next_event(a, PeerUp)
        a.penalise(public(2), BadSignature("a vote"))
        assert (await next_event(a, PeerDown)).reason == "banned: a vote"
        assert (await next_event(b, PeerDown)).reason == "the peer left: banned: a vote"
        refused = await logs.named("peer.refused", 2)
        assert a.peers() == []
    [penalised] = await logs.named("peer.penalised", 1)
    assert (penalised["peer"], penalised["banned"], penalised["penalty"]) == (public(2).hex(), True, 100)
    assert {entry["reason"] for entry in refused} == {"banned"}
    assert {entry["by_peer"] for entry in refused} == {True, False}


class RawPeer:
    """A peer whose bytes the test decides."""

    def __init__(self, stream: trio.SocketStream, number: int) -> None:
        self.stream = stream
        local = LocalNode(SecretKey(bytes([number]) * 32), "test", GENESIS)
        self.session = Session(local, dialling=True, ephemeral_secret=os.urandom(32), nonce=os.urandom(32), now=0.0)

    async def establish(self) -> None:
        while not any(isinstance(event, Established) for event in await self.exchange()):
            pass

    async def exchange(self) -> list[Event]:
        """Say what the session has to say, and hear what comes."""
        await self.stream.send_all(b"".join(self.session.packets()))
        return self.session.receive(await self.stream.receive_some(1 << 20), 0.0)

    async def messages(self) -> list[Message]:
        """Messages of the next bytes, dealt with."""
        opened = []
        for event in await self.exchange():
            assert isinstance(event, RawFrame), event
            opened.append(self.session.open(event))
            self.session.consumed(event)
        return [one.message for one in opened if one is not None]


@asynccontextmanager
async def raw_peer(network: Network, number: int) -> AsyncIterator[RawPeer]:
    host, _, port = network.listening.rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        peer = RawPeer(stream, number)
        await peer.establish()
        yield peer


async def test_a_peer_that_breaks_the_protocol_is_penalised_told_and_cut(logs: Logs) -> None:
    async with running(make_network(1)) as a, raw_peer(a, 2) as peer:
        await peer.stream.send_all(b"\xff" * 64)
        down = await next_event(a, PeerDown)
        assert "packet is 4294967295 bytes" in down.reason
        received = b""
        while more := await peer.stream.receive_some(4096):
            received += more
        assert peer.session.receive(received, 0.0)[-1] == PeerLeft(5, f"OversizedMessage: {down.reason}")
    assert [entry["points"] for entry in await logs.named("peer.penalised", 1)] == [20]


async def test_a_vote_overtakes_queued_bulk() -> None:
    async with running(make_network(1)) as a, raw_peer(a, 2) as peer:
        await next_event(a, PeerUp)
        attachment = bytes(4 << 20)
        for request in range(6):
            await a.send(public(2), BlobReply(request, bytes(32), BlobStatus.FOUND), attachment)
        await a.send(public(2), Votes((b"vote",)))
        order: list[Message] = []
        while len(order) < 7:
            order += [message for message in await peer.messages() if isinstance(message, BlobReply | Votes)]
        assert order[0] == Votes((b"vote",))
        assert len(order) == 7


async def test_bulk_waits_for_room_and_a_full_queue_of_the_rest_disconnects() -> None:
    async with running(make_network(1)) as a, raw_peer(a, 2):
        await next_event(a, PeerUp)
        attachment = bytes(8 << 20)
        sent = 0
        with trio.move_on_after(0.3):
            while await a.send(public(2), BlobReply(sent, bytes(32), BlobStatus.FOUND), attachment):
                sent += 1
        assert sent == 4  # 32 MiB queued, of which the first credit has been used
        for height in range(2000):
            if not a.broadcast(Status(height)):
                break
        assert height <= 1100
        assert (await next_event(a, PeerDown)).reason == "outbound queue full: the peer reads too slowly"


async def test_a_ping_is_answered_with_its_nonce() -> None:
    async with running(make_network(1)) as a, raw_peer(a, 2) as peer:
        await next_event(a, PeerUp)
        peer.session._control.append(pack_control(Ping(77)))
        # The raw peer's own session never sent this ping and refuses the answer, naming what it got.
        errors: list[str] = []
        while not errors:
            errors = [str(event.error) for event in await peer.exchange() if isinstance(event, Failed)]
        assert errors == ["PONG with nonce 77, pings unanswered 0"]


async def test_events_hold_back_a_fast_sender() -> None:
    async with running(make_network(1)) as a, running(make_network(2, dial=(a.listening,), listen=None)) as b:
        await next_event(b, PeerUp)
        for height in range(300):
            await b.send(public(1), Status(height))
        heights: list[int] = []
        async for event in a.events:
            if isinstance(event, Received) and isinstance(event.message, Status):
                heights.append(event.message.height)
                if len(heights) == 300:
                    break
        assert heights == list(range(300))
        assert a.events.statistics().max_buffer_size == 64


@pytest.mark.parametrize("bad", ["nowhere", "127.0.0.1:99999", "abcd@127.0.0.1:1", "127.0.0.1:0"])
def test_a_bad_peer_address_is_a_usage_error(bad: str) -> None:
    with pytest.raises(UsageError, match="is not a"):
        make_network(1, dial=(bad,))


def test_what_does_not_fit_the_handshake_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="introduce itself"):
        Network(key=SecretKey(bytes(32)), chain_id="x" * 65, genesis_hash=GENESIS, roles=(), listen=None, dial=())


def linked_to(network: Network, number: int, *, outbound: bool) -> _Peer:
    """Let a network believe in a link, to ask what it would do about another one."""
    info = PeerInfo(public(number), bytes(20), (), "127.0.0.1:9", outbound)
    known = _Peer(info, link=None, endpoint=None)  # type: ignore[arg-type]  # the decision never looks at the link
    network._peers[info.public_key] = known
    return known


def test_both_ends_choose_the_same_of_two_links() -> None:
    one, two = make_network(1), make_network(2)
    dialled_by_one = linked_to(one, 2, outbound=True), linked_to(two, 1, outbound=False)
    gives_way = (
        one._gives_way(dialled_by_one[0], public(2), outbound=False),
        two._gives_way(dialled_by_one[1], public(1), outbound=True),
    )
    dialled_by_two = linked_to(one, 2, outbound=False), linked_to(two, 1, outbound=True)
    the_other_way = (
        one._gives_way(dialled_by_two[0], public(2), outbound=True),
        two._gives_way(dialled_by_two[1], public(1), outbound=False),
    )
    smaller_is_two = public(2) < public(1)
    assert gives_way == (smaller_is_two, smaller_is_two)
    assert the_other_way == (not smaller_is_two, not smaller_is_two)


@pytest.mark.parametrize("outbound", [True, False])
async def test_a_dialler_that_has_a_link_goes_no_further(outbound: bool) -> None:  # noqa: FBT001
    remote = Endpoint("127.0.0.1", 9)
    for number, other in ((1, 2), (2, 1)):
        network = make_network(number)
        linked_to(network, other, outbound=outbound)
        identity = PeerIdentity(public(other), (), "")
        assert network._admit(identity, remote=remote, outbound=True) is RefusalReason.DUPLICATE_LINK
