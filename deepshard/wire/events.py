"""What a session tells its shell."""

from __future__ import annotations

from dataclasses import dataclass

from deepshard.errors import RemoteError
from deepshard.wire.handshake import PeerIdentity
from deepshard.wire.messages import Message
from deepshard.wire.receiving import RawFrame


class LinkTimeout(RemoteError):
    """The peer was silent for too long. Networks fail: no penalty."""

    penalty = 0


class RateExceeded(RemoteError):
    """More control packets than anybody needs."""


@dataclass(frozen=True, slots=True)
class Established:
    """The peer is authenticated and both sides agreed to go on."""

    peer: PeerIdentity
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A verified message for the layers above."""

    message: Message
    attachment: bytes
    attachment_digest: bytes
    """Content address of the attachment; zeros without one."""
    attachment_leaves: tuple[bytes, ...] = ()
    """Leaf hashes of the attachment's blocks of 16 KiB."""


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """The peer said goodbye. `reason` is a `GoodbyeReason` or a number that we don't know, `text` is for people."""

    reason: int
    text: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The session is over because of `error`."""

    error: RemoteError


Event = Established | RawFrame | PeerLeft | Failed
"""A `RawFrame` is turned into a message by `Session.open`, when its turn comes."""
