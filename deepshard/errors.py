"""The error tree. Blame is in the type: who erred decides who handles it.

`UsageError` is a person's mistake (exit code 2, nothing changed), `RemoteError` a peer's (penalise and go on),
`LocalError` ours or our machine's (supervise, restart). The three never share a handler.
"""

from __future__ import annotations


class DeepshardError(Exception):
    """Root of every error this project raises on purpose."""


class UsageError(DeepshardError):
    """A person asked for something that can't be done; the message says what is wrong and what to do."""


class LocalError(DeepshardError):
    """This process, its disk or its worker failed."""


class DiskCorruption(LocalError):
    """Bytes read back from disk don't match their checksum; repair from peers or refuse, never ignore."""


class RemoteError(DeepshardError):
    """A peer sent something it must not send.

    Attributes:
        penalty: score points to take from the peer; the bound where a peer is banned is `limits.PEER_SCORE_BAN`.
    """

    penalty: int = 20


class MalformedMessage(RemoteError):
    """Bytes that aren't the canonical encoding of the expected type."""


class OversizedMessage(RemoteError):
    """A declared or actual length beyond its bound."""

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(f"{what} is {size} bytes, the limit is {limit}")
        self.what, self.size, self.limit = what, size, limit


class BadSignature(RemoteError):
    """A signature that libsodium's strict rule refuses."""

    penalty = 100


class InvalidTransaction(RemoteError):
    """A transaction the ledger's rules refuse in the given state; subclasses carry the facts."""

    penalty = 5


class InvalidBlock(RemoteError):
    """A block that isn't the valid successor of its parent."""

    penalty = 50
