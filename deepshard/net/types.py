"""What services see of the network: peers, events, and the port they send through."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from deepshard.errors import RemoteError
from deepshard.wire.messages import Message


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """An authenticated peer. `public_key` identifies it; `remote` is the other end's HOST:PORT as seen from here."""

    public_key: bytes
    address: bytes
    roles: tuple[str, ...]
    remote: str
    outbound: bool


@dataclass(frozen=True, slots=True)
class PeerUp:
    """A handshake succeeded."""

    peer: PeerInfo


@dataclass(frozen=True, slots=True)
class PeerDown:
    """A link ended; `reason` is for people."""

    peer: PeerInfo
    reason: str


@dataclass(frozen=True, slots=True)
class Received:
    """A verified message; `Peers` never gets here."""

    peer: PeerInfo
    message: Message
    attachment: bytes
    attachment_digest: bytes = field(default=b"", compare=False)
    """Content address of the attachment where the link has verified it already; empty elsewhere."""
    attachment_leaves: tuple[bytes, ...] = field(default=(), compare=False)
    """Leaf hashes of its blocks, in the same case."""


NetworkEvent = PeerUp | PeerDown | Received


@dataclass(frozen=True, slots=True)
class LinkStats:
    """Bytes and frames of one peer since the node started, all links with it together."""

    bytes_in: int
    bytes_out: int
    frames_in: int
    frames_out: int


class NetworkPort(Protocol):
    """Sending side of the network. Peers are named by public key."""

    def peers(self) -> Sequence[PeerInfo]:
        """Peers connected now, in the order of their keys."""
        ...

    async def send(
        self, peer: bytes, message: Message, attachment: bytes = b"", attachment_digest: bytes | None = None
    ) -> bool:
        """Queue a message by its priority; waits for room only when it is bulk. False if the peer is gone.

        Args:
            peer: public key.
            message: of any kind.
            attachment: only with kinds that carry one.
            attachment_digest: its content address where that is known, which spares computing it.
        """
        ...

    def broadcast(self, message: Message, *, exclude: Collection[bytes] = ()) -> int:
        """Queue a message to every peer not excluded, never waiting; a peer whose queue is full is disconnected."""
        ...

    def penalise(self, peer: bytes, error: RemoteError) -> None:
        """Take the error's penalty from the peer's score; at the bound it is disconnected and banned."""
        ...
