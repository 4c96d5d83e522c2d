"""Which addresses to dial, and when again: configured ones for ever, learned ones until they fail too often."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from deepshard.errors import RemoteError
from deepshard.limits import (
    DIAL_BACKOFF_MAX_S,
    DIAL_BACKOFF_MIN_S,
    DIAL_TIMEOUT_S,
    LEARNED_DIAL_FAILURES_MAX,
    LEARNED_ENDPOINTS_MAX,
)
from deepshard.net.endpoints import DialTarget, Endpoint
from deepshard.wire.handshake import HandshakeRefused, RefusalReason

_log = structlog.get_logger(__name__)
_random: Final = random.SystemRandom()

NEVER_AGAIN: Final = frozenset({RefusalReason.SELF_CONNECTION})
RARELY: Final = frozenset(
    {
        RefusalReason.UNSUPPORTED_VERSION,
        RefusalReason.CHAIN_MISMATCH,
        RefusalReason.GENESIS_MISMATCH,
        RefusalReason.UNEXPECTED_KEY,
        RefusalReason.BANNED,
    }
)
"""Refusals that trying again soon doesn't change."""


@dataclass(frozen=True, slots=True)
class Dialled:
    """How a connection to a target ended. `peer`: the key proven there; `was_up`: it got as far as a link."""

    peer: bytes | None
    was_up: bool
    error: RemoteError | None


class Backoff:
    """Pause before the next attempt: doubles with every failure up to a bound, and a random half of it is left out."""

    def __init__(self, *, first_s: float = DIAL_BACKOFF_MIN_S, longest_s: float = DIAL_BACKOFF_MAX_S) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self._next_s = first_s
        self.failures = 0

    def reset(self) -> None:
        """A link was up: begin anew."""
        self._next_s = self._first_s
        self.failures = 0

    def to_longest(self) -> None:
        """Trying soon is of no use."""
        self._next_s = self._longest_s

    def pause_s(self, share: float) -> float:
        """Seconds to wait after one more failure; `share` in [0, 1) places it between a half and the whole."""
        self.failures += 1
        pause = self._next_s * (0.5 + share / 2)
        self._next_s = min(2 * self._next_s, self._longest_s)
        return pause


class AddressBook:
    """Endpoints that are being dialled, configured or learned, and this node's own, which never are."""

    def __init__(self, own: Iterable[Endpoint] = ()) -> None:
        self._own = set(own)
        self._dialled: set[Endpoint] = set()
        self._learned: set[Endpoint] = set()

    def add_own(self, endpoint: Endpoint) -> None:
        """An address that leads back to this node."""
        self._own.add(endpoint)

    def add_configured(self, endpoint: Endpoint) -> None:
        """An address given by the person who runs the node."""
        self._dialled.add(endpoint)

    def learn(self, endpoint: Endpoint, *, from_loopback: bool) -> bool:
        """Take an address a peer told; True if it is to be dialled.

        Only IP addresses: a name would make us ask name servers of a peer's choosing. Loopback ones only from a peer on
        this machine: another's loopback isn't ours.
        """
        if (
            endpoint.ip is None
            or endpoint.port == 0
            or endpoint.is_wildcard
            or (endpoint.is_loopback and not from_loopback)
            or endpoint in self._own
            or endpoint in self._dialled
            or len(self._learned) >= LEARNED_ENDPOINTS_MAX
        ):
            return False
        self._learned.add(endpoint)
        self._dialled.add(endpoint)
        return True

    def forget(self, endpoint: Endpoint) -> None:
        """Make room: a learned address that doesn't answer."""
        self._learned.discard(endpoint)
        self._dialled.discard(endpoint)


Connect = Callable[[trio.SocketStream, bytes | None], Awaitable[Dialled]]
"""Serve an outgoing stream until its link ends; the second argument is the key to expect."""


async def keep_dialling(
    target: DialTarget, connect: Connect, wait_while_linked: Callable[[bytes], Awaitable[bool]], *, learned: bool
) -> None:
    """Dial, serve the link, dial again. Returns when a learned address failed too often, or the address is our own.

    While the key that was proven at the address has a link, whichever side dialled it, there is no need to dial. What
    peers merely claim about addresses never keeps us from dialling one. `wait_while_linked` says whether it waited.
    """
    backoff = Backoff()
    peer = target.expected_key
    while True:
        if peer is not None and await wait_while_linked(peer):
            backoff.reset()
        error: Exception | None
        was_up = False
        try:
            with trio.fail_after(DIAL_TIMEOUT_S):
                stream = await trio.open_tcp_stream(target.endpoint.host, target.endpoint.port)
        except (OSError, trio.TooSlowError, UnicodeError) as failed:
            error = failed
        else:
            connected_at = trio.current_time()
            dialled = await connect(stream, target.expected_key)
            error, was_up, peer = dialled.error, dialled.was_up, dialled.peer or peer
            if was_up:
                # A link that ends as soon as it is up is dialled ever more seldom, like one that never is.
                if trio.current_time() - connected_at >= DIAL_BACKOFF_MAX_S:
                    backoff.reset()
            elif isinstance(error, HandshakeRefused):
                if error.reason in NEVER_AGAIN:
                    return
                if error.reason in RARELY:
                    backoff.to_longest()
        pause_s = backoff.pause_s(_random.random())
        if not was_up:
            _log.debug(
                "dial.failed",
                address=str(target.endpoint),
                error=str(error) or type(error).__name__,
                failures=backoff.failures,
                again_in_s=round(pause_s, 3),
            )
        if learned and backoff.failures >= LEARNED_DIAL_FAILURES_MAX:
            return
        await trio.sleep(pause_s)
