from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import trio
from test_net_network import make_network, next_event, public, running

from deepshard.errors import RemoteError
from deepshard.limits import HANDSHAKE_TIMEOUT_S, PENDING_HANDSHAKES_MAX
from deepshard.net.pending import PendingHandshakes, TooManyHandshakes
from deepshard.net.types import PeerUp


class Ended:
    def __init__(self) -> None:
        self.error: RemoteError | None = None

    def end(self, error: RemoteError | None = None) -> None:
        self.error = error


def test_the_oldest_of_the_most_crowded_host_makes_room() -> None:
    pending = PendingHandshakes(4)
    links = [Ended() for _ in range(8)]
    for link, host in zip(links, ["a", "b", "b", "b", "c", "b", "c", "c"], strict=True):
        pending.add(link, host)
    assert len(pending) == 4
    ended = [index for index, link in enumerate(links) if link.error is not None]
    assert ended == [1, 2, 3, 4]
    assert isinstance(links[1].error, TooManyHandshakes)
    assert links[1].error.penalty == 0


def test_what_is_over_makes_room_without_ending_anybody() -> None:
    pending = PendingHandshakes(2)
    one, two, three = Ended(), Ended(), Ended()
    pending.add(one, "a")
    pending.add(two, "a")
    pending.remove(one)
    pending.remove(one)
    pending.add(three, "a")
    assert len(pending) == 2
    assert (one.error, two.error, three.error) == (None, None, None)


@pytest.fixture
def many_files() -> Iterator[None]:
    """Room for both ends of a thousand connections; a usual limit is 1,024 files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.clause("4.5/3")
async def test_a_thousand_silent_connections_do_not_keep_a_good_peer_out(many_files: None) -> None:
    async with running(make_network(1)) as a:
        host, _, port = a.listening.rpartition(":")
        with ExitStack() as sockets:
            for _ in range(1000):
                silent = sockets.enter_context(socket.socket())
                silent.settimeout(0)
                silent.connect_ex((host, int(port)))
                await trio.lowlevel.checkpoint()
            with trio.fail_after(HANDSHAKE_TIMEOUT_S / 2):  # before any silent one is given up
                async with running(make_network(2, dial=(a.listening,))):
                    assert (await next_event(a, PeerUp)).peer.public_key == public(2)
                    assert len(a._pending) <= PENDING_HANDSHAKES_MAX
