"""What a case works with: connections to and from the target, and expectations with the run's settings."""

from __future__ import annotations

import trio

from deepshard.conformance import expect
from deepshard.conformance.account import Purse
from deepshard.conformance.listening import Hub
from deepshard.conformance.opening import Self
from deepshard.conformance.peer import RawPeer
from deepshard.conformance.target import Target, connect
from deepshard.conformance.verdicts import CaseSkipped, ClauseFailed, Witness
from deepshard.errors import UsageError
from deepshard.wire.messages import Peers


class Harness:
    """One case's connections, all of which it closes."""

    def __init__(self, target: Target, hub: Hub | None, witness: Witness, purse: Purse | None) -> None:
        self.target, self.hub, self.witness, self.purse = target, hub, witness, purse
        self.must_still_serve = False
        self._peers: list[RawPeer] = []

    # -- connections -------------------------------------------------------------------------------------------------

    async def dial(self, me: Self | None = None) -> RawPeer:
        """A TCP connection to the target; nothing is sent."""
        try:
            stream = await connect(self.target.endpoint, self.target.timeout_s)
        except UsageError as error:
            raise ClauseFailed(sent="a TCP connection", expected="the target to accept it", got=str(error)) from None
        return self._peer(stream, me, dialling=True)

    async def link(self, me: Self | None = None) -> RawPeer:
        """A link that the suite dialled: handshake done, and the target's first PING here."""
        peer = await self.dial(me)
        await peer.shake_hands()
        await expect.taken_in(peer)
        peer.notes.clear()
        return peer

    async def accept(self, me: Self | None = None) -> RawPeer:
        """A TCP connection that the target dials; nothing is read of it.

        Raises:
            CaseSkipped: there is no address for it to dial, or it doesn't.
        """
        if self.hub is None:
            raise CaseSkipped("needs --listen HOST:PORT, an address that the target dials")
        stream = None
        if self.hub.follows_invitations is not False:
            stream = await self._invite(self.hub)
            if stream is not None:
                self.hub.follows_invitations = True
            elif self.hub.follows_invitations is None:
                self.hub.follows_invitations = False
        if stream is None:
            stream = await self.hub.redialled()
        if stream is None:
            raise CaseSkipped(f"the target didn't dial {self.hub.endpoint}: is it among its peers?")
        return self._peer(stream, me, dialling=False)

    async def _invite(self, hub: Hub) -> trio.SocketStream | None:
        endpoint, listener = await hub.own_port()
        try:
            host = await self.link()
            await host.say(Peers((str(endpoint),)))
            with trio.move_on_after(hub.invitation_s):
                return await listener.accept()
        finally:
            await listener.aclose()
        return None

    def _peer(self, stream: trio.SocketStream, me: Self | None, *, dialling: bool) -> RawPeer:
        peer = RawPeer(
            stream, self.target.network, me or Self.fresh(), self.witness, self.target.timeout_s, dialling=dialling
        )
        self._peers.append(peer)
        return peer

    async def close(self) -> None:
        """Close every connection of the case."""
        while self._peers:
            await self._peers.pop().close()

    # -- expectations ------------------------------------------------------------------------------------------------

    async def refused(self, peer: RawPeer, *errors: str) -> None:
        """The target closes the link, under `--strict` by GOODBYE 5 with one of these names; and serves others."""
        self.must_still_serve = True
        await expect.refused(peer, *errors, strict=self.target.strict)

    async def handshake_refused(
        self, peer: RawPeer, *, reason: str | None = None, within_s: float | None = None
    ) -> None:
        """The target closes the connection during the handshake; and serves others still."""
        self.must_still_serve = True
        await expect.handshake_refused(peer, reason=reason, within_s=within_s)

    async def still_serves(self) -> None:
        """A fresh peer is taken in and answered.

        Raises:
            ClauseFailed: it isn't.
        """
        fresh = await self.link()
        await expect.alive(fresh, "a fresh connection served as before")
        await fresh.close()
