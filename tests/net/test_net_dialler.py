from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from deepshard.limits import LEARNED_DIAL_FAILURES_MAX, LEARNED_ENDPOINTS_MAX
from deepshard.net.dialler import AddressBook, Backoff, Dialled, keep_dialling
from deepshard.net.endpoints import DialTarget, Endpoint, parse_endpoint
from deepshard.wire.handshake import HandshakeRefused, RefusalReason


def test_pauses_double_to_a_bound_and_are_spread_over_their_upper_half() -> None:
    backoff = Backoff(first_s=1, longest_s=8)
    assert [backoff.pause_s(0.0) for _ in range(5)] == [0.5, 1, 2, 4, 4]
    assert backoff.failures == 5
    backoff.reset()
    assert backoff.pause_s(0.5) == 0.75
    backoff.to_longest()
    assert backoff.pause_s(0.0) == 4


@pytest.mark.parametrize(
    ("address", "from_loopback", "taken"),
    [
        ("10.0.0.1:9", False, True),
        ("[2001:db8::1]:9", False, True),
        ("127.0.0.1:9", False, False),
        ("127.0.0.1:9", True, True),
        ("name.example:9", True, False),
        ("0.0.0.0:9", True, False),
        ("10.0.0.1:0", False, False),
        ("10.0.0.7:7", False, False),
        ("10.0.0.8:8", False, False),
    ],
)
def test_which_learned_addresses_are_dialled(address: str, from_loopback: bool, taken: bool) -> None:  # noqa: FBT001
    book = AddressBook([parse_endpoint("10.0.0.7:7")])
    book.add_configured(parse_endpoint("10.0.0.8:8"))
    assert book.learn(parse_endpoint(address), from_loopback=from_loopback) is taken
    assert not book.learn(parse_endpoint(address), from_loopback=from_loopback)


@pytest.mark.clause("6.4/3")
def test_learned_addresses_are_bounded_and_a_forgotten_one_makes_room() -> None:
    book = AddressBook()
    learned = [Endpoint(f"10.0.{number // 256}.{number % 256}", 1) for number in range(LEARNED_ENDPOINTS_MAX + 5)]
    assert sum(book.learn(endpoint, from_loopback=False) for endpoint in learned) == LEARNED_ENDPOINTS_MAX
    book.forget(learned[0])
    assert book.learn(learned[-1], from_loopback=False)


@pytest.fixture
async def target() -> DialTarget:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = Endpoint("127.0.0.1", listener.socket.getsockname()[1])
    await listener.aclose()
    return DialTarget(address)


async def never_linked(_: bytes) -> bool:
    await trio.lowlevel.checkpoint()
    return False


async def test_a_learned_address_is_given_up(target: DialTarget, autojump_clock: MockClock) -> None:
    async def connect(_stream: trio.SocketStream, _key: bytes | None) -> Dialled:
        raise AssertionError("nobody listens there")

    await keep_dialling(target, connect, never_linked, learned=True)
    assert 0.25 * (2 ** (LEARNED_DIAL_FAILURES_MAX - 1) - 1) / 2 <= trio.current_time() < 60


async def test_ones_own_address_is_dialled_once() -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    calls = 0

    async def connect(stream: trio.SocketStream, _key: bytes | None) -> Dialled:
        nonlocal calls
        calls += 1
        await stream.aclose()
        return Dialled(None, was_up=False, error=HandshakeRefused(RefusalReason.SELF_CONNECTION))

    async with listener:
        own = DialTarget(Endpoint("127.0.0.1", listener.socket.getsockname()[1]))
        await keep_dialling(own, connect, never_linked, learned=False)
    assert calls == 1


async def test_nobody_is_dialled_while_linked(target: DialTarget) -> None:
    asked: list[bytes] = []

    async def linked(peer: bytes) -> bool:
        asked.append(peer)
        await trio.Event().wait()
        return True

    async def connect(_stream: trio.SocketStream, _key: bytes | None) -> Dialled:
        raise AssertionError("it is linked already")

    async with trio.open_nursery() as nursery:
        expecting = DialTarget(target.endpoint, b"k" * 32)
        nursery.start_soon(lambda: keep_dialling(expecting, connect, linked, learned=False))
        await trio.testing.wait_all_tasks_blocked()
        assert asked == [b"k" * 32]
        nursery.cancel_scope.cancel()
