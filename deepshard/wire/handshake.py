"""The handshake: three messages that end with two keys, a session id and each other's identity.

    dialler                                                  listener
      HELLO   version, chain, genesis, e_d, nonce, features  ->
              <-  REPLY   the same of the listener, box(identity, signature)
      FINISH  box(identity, signature)                       ->

`e_d` and `e_l` are ephemeral X25519 keys. It is SIGMA-I (Krawczyk, "SIGMA: the SIGn-and-MAc approach", CRYPTO 2003,
section 5.2): each side signs everything said so far and seals the signature together with its identity under a key
made from the shared secret. So who only listens learns no identity, who dials learns the listener's, and no signature
can be moved to another connection, direction, chain or version. All that was said is hashed into the keys.

Every message is a 2-byte little-endian length, then one byte of kind, one of version, then a canonical record. A side
that won't go on says so by a REFUSAL with the two values that differ. It is not authenticated, and nothing is decided
by it except what to tell a person. A listener that has read the FINISH refuses by a sealed GOODBYE packet instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Annotated, Final, TypeVar

import msgspec
from nacl.bindings import (
    crypto_aead_aegis256_ABYTES,
    crypto_aead_aegis256_decrypt,
    crypto_aead_aegis256_encrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
)
from nacl.exceptions import CryptoError
from nacl.exceptions import RuntimeError as SodiumError

from deepshard.encoding import Record, decode, encode
from deepshard.errors import LocalError, MalformedMessage, OversizedMessage, RemoteError, UsageError
from deepshard.identity.keys import SecretKey, verify_signature
from deepshard.limits import HANDSHAKE_MESSAGE_BYTES_MAX
from deepshard.primitives import Digest, PublicKey, Signature, expand, tagged_hash
from deepshard.wire.messages import HostPort

PROTOCOL_VERSION: Final = 2
LENGTH_BYTES: Final = 2
LISTENER_TAG: Final = "handshake listener"
DIALLER_TAG: Final = "handshake dialler"
_NONCE: Final = bytes(32)
"""Each sealing key of the handshake seals one box, so its nonce never repeats."""

Ephemeral = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Nonce = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
ChainId = Annotated[str, msgspec.Meta(max_length=64)]
Names = Annotated[tuple[Annotated[str, msgspec.Meta(max_length=16)], ...], msgspec.Meta(max_length=8)]
Fact = Annotated[str, msgspec.Meta(max_length=80)]

R = TypeVar("R", bound=Record)


class HandshakeKind(IntEnum):
    """First byte of a handshake message."""

    HELLO = 1
    REPLY = 2
    FINISH = 3
    REFUSAL = 255


class RefusalReason(StrEnum):
    """Why a side won't go on."""

    UNSUPPORTED_VERSION = "unsupported-version"
    CHAIN_MISMATCH = "chain-mismatch"
    GENESIS_MISMATCH = "genesis-mismatch"
    SELF_CONNECTION = "self-connection"
    UNEXPECTED_KEY = "unexpected-key"
    BANNED = "banned"
    TOO_MANY_PEERS = "too-many-peers"
    DUPLICATE_LINK = "duplicate-link"


class HandshakeFailed(RemoteError):
    """The other side broke the handshake's rules, or bytes were changed on their way."""


class HandshakeRefused(RemoteError):
    """One side won't go on, and both know why.

    Attributes:
        reason: a `RefusalReason`.
        ours: our value of what differs, as text; empty where nothing differs.
        theirs: the other side's value.
        by_peer: whether the other side refused us.
    """

    penalty = 0

    def __init__(self, reason: RefusalReason, *, ours: str = "", theirs: str = "", by_peer: bool = False) -> None:
        facts = f": ours {ours}, theirs {theirs}" if ours or theirs else ""
        super().__init__(f"handshake refused {'by the peer' if by_peer else 'by us'}, {reason.value}{facts}")
        self.reason, self.ours, self.theirs, self.by_peer = reason, ours, theirs, by_peer


class Hello(Record, frozen=True):
    """What both sides say in the clear."""

    chain_id: ChainId
    genesis_hash: Digest
    ephemeral: Ephemeral
    nonce: Nonce
    features: Names


class Claims(Record, frozen=True):
    """Who a side is, under its signature; `listen` is HOST:PORT or empty."""

    public_key: PublicKey
    roles: Names
    listen: HostPort


class SignedClaims(Record, frozen=True):
    """Plain text of a box."""

    claims: Claims
    signature: Signature


class Reply(Record, frozen=True):
    """The listener's hello and its sealed `SignedClaims`."""

    hello: Hello
    box: bytes


class Finish(Record, frozen=True):
    """The dialler's sealed `SignedClaims`."""

    box: bytes


class Refusal(Record, frozen=True):
    """A side won't go on; `ours` and `theirs` as its sender sees them."""

    reason: RefusalReason
    ours: Fact
    theirs: Fact


@dataclass(frozen=True, slots=True)
class LocalNode:
    """What this node says of itself.

    Raises:
        UsageError: a name, role or address is longer than the handshake carries.
    """

    key: SecretKey
    chain_id: str
    genesis_hash: bytes
    roles: tuple[str, ...] = ()
    listen: str = ""
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            decode(encode(Claims(self.key.public, self.roles, self.listen)), Claims, bytes_max=4096)
            hello = Hello(self.chain_id, self.genesis_hash, bytes(32), bytes(32), self.features)
            decode(encode(hello), Hello, bytes_max=4096)
        except RemoteError as error:
            raise UsageError(f"this node can't introduce itself to others: {error}") from None


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Who the other side proved to be. `roles` and `listen` are its own claims."""

    public_key: bytes
    roles: tuple[str, ...]
    listen: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a finished handshake leaves: per-direction AEGIS-256 keys, 32 bytes each, and the 32-byte session id."""

    peer: PeerIdentity
    send_key: bytes
    receive_key: bytes
    session_id: bytes
    features: tuple[str, ...]


Admit = Callable[[PeerIdentity], RefusalReason | None]
"""The caller's own rules (bans, room for another peer): a reason to refuse an authenticated peer, or None."""


def admit_all(_: PeerIdentity) -> RefusalReason | None:
    """Refuse nobody."""
    return None


def frame_handshake_message(kind: HandshakeKind, record: Record) -> bytes:
    """Length, kind, version and canonical record."""
    payload = bytes((kind, PROTOCOL_VERSION)) + encode(record)
    if len(payload) > HANDSHAKE_MESSAGE_BYTES_MAX:
        raise LocalError(f"handshake message of {len(payload)} bytes, the limit is {HANDSHAKE_MESSAGE_BYTES_MAX}")
    return len(payload).to_bytes(LENGTH_BYTES, "little") + payload


def handshake_payload_bytes(prefix: bytes | bytearray | memoryview) -> int:
    """Length a message declares in its first two bytes.

    Raises:
        OversizedMessage: beyond the bound.
        MalformedMessage: too short for a kind and a version.
    """
    size = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if size > HANDSHAKE_MESSAGE_BYTES_MAX:
        raise OversizedMessage("handshake message", size, HANDSHAKE_MESSAGE_BYTES_MAX)
    if size < 2:
        raise MalformedMessage(f"handshake message of {size} bytes")
    return size


def refusal_message(refused: HandshakeRefused) -> bytes:
    """The message that tells the other side of a refusal; it carries what was said in the clear before, never keys."""
    public = refused.reason is not RefusalReason.UNEXPECTED_KEY
    ours, theirs = (refused.ours[:80], refused.theirs[:80]) if public else ("", "")
    return frame_handshake_message(HandshakeKind.REFUSAL, Refusal(refused.reason, ours, theirs))


def read_refusal(payload: bytes) -> HandshakeRefused:
    """The error that a received refusal stands for, seen from this side."""
    refusal = _decode(payload, Refusal)
    ours, theirs = printable(refusal.theirs), printable(refusal.ours)
    return HandshakeRefused(refusal.reason, ours=ours, theirs=theirs, by_peer=True)


def printable(text: str) -> str:
    """A peer's text with everything replaced that could forge a line in a log or steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


class DiallerHandshake:
    """The side that opened the connection."""

    def __init__(self, local: LocalNode, *, ephemeral_secret: bytes, nonce: bytes, expected_key: bytes | None) -> None:
        self._local = local
        self._secret = ephemeral_secret
        self._expected_key = expected_key
        self._hello = _hello_of(local, ephemeral_secret, nonce)
        self._first = frame_handshake_message(HandshakeKind.HELLO, self._hello)

    def hello(self) -> bytes:
        """The first message."""
        return self._first

    def receive_reply(self, payload: bytes, admit: Admit) -> tuple[bytes, Agreement]:
        """Check the listener's REPLY; gives the FINISH to send and what was agreed.

        Raises:
            HandshakeRefused: we won't go on; tell the other side by `refusal_message`.
            RemoteError: the reply breaks the rules.
        """
        _check_version(payload)
        reply = _decode(payload, Reply)
        _check_network(self._local, reply.hello)
        transcript = tagged_hash("handshake hellos", self._first, encode(reply.hello))
        shared = _shared_secret(self._secret, reply.hello.ephemeral)
        listener_key, dialler_key = _box_keys(shared, transcript)
        identity = _open_identity(reply.box, listener_key, transcript, LISTENER_TAG)
        _check_identity(self._local, identity, self._expected_key, admit)
        transcript = tagged_hash("handshake reply", transcript, reply.box)
        box = _seal_identity(self._local, dialler_key, transcript, DIALLER_TAG)
        to_listener, to_dialler, session_id = _traffic_keys(shared, tagged_hash("handshake end", transcript, box))
        features = _common(self._local.features, reply.hello.features)
        agreement = Agreement(identity, to_listener, to_dialler, session_id, features)
        return frame_handshake_message(HandshakeKind.FINISH, Finish(box)), agreement


class ListenerHandshake:
    """The side that accepted the connection."""

    def __init__(self, local: LocalNode, *, ephemeral_secret: bytes, nonce: bytes) -> None:
        self._local = local
        self._secret = ephemeral_secret
        self._hello = _hello_of(local, ephemeral_secret, nonce)
        self._shared = b""
        self._dialler_key = b""
        self._transcript = b""
        self._features: tuple[str, ...] = ()

    def receive_hello(self, payload: bytes) -> bytes:
        """Check the dialler's HELLO; gives the REPLY to send.

        Raises:
            HandshakeRefused: we won't go on; tell the other side by `refusal_message`.
            RemoteError: the hello breaks the rules.
        """
        _check_version(payload)
        hello = _decode(payload, Hello)
        _check_network(self._local, hello)
        first = len(payload).to_bytes(LENGTH_BYTES, "little") + payload
        transcript = tagged_hash("handshake hellos", first, encode(self._hello))
        self._shared = _shared_secret(self._secret, hello.ephemeral)
        listener_key, self._dialler_key = _box_keys(self._shared, transcript)
        box = _seal_identity(self._local, listener_key, transcript, LISTENER_TAG)
        self._transcript = tagged_hash("handshake reply", transcript, box)
        self._features = _common(self._local.features, hello.features)
        return frame_handshake_message(HandshakeKind.REPLY, Reply(self._hello, box))

    def receive_finish(self, payload: bytes) -> Agreement:
        """Check the dialler's FINISH. The caller still has to ask `refusal_of` whether it wants this peer.

        Raises:
            RemoteError: the message breaks the rules.
        """
        _check_version(payload)
        finish = _decode(payload, Finish)
        identity = _open_identity(finish.box, self._dialler_key, self._transcript, DIALLER_TAG)
        end = tagged_hash("handshake end", self._transcript, finish.box)
        to_listener, to_dialler, session_id = _traffic_keys(self._shared, end)
        return Agreement(identity, to_dialler, to_listener, session_id, self._features)

    def refusal_of(self, identity: PeerIdentity, admit: Admit) -> HandshakeRefused | None:
        """Why we won't have this peer, or None. It already holds the keys, so it is told by a sealed packet."""
        try:
            _check_identity(self._local, identity, None, admit)
        except HandshakeRefused as refused:
            return refused
        return None


def _hello_of(local: LocalNode, ephemeral_secret: bytes, nonce: bytes) -> Hello:
    ephemeral = crypto_scalarmult_base(ephemeral_secret)
    return Hello(local.chain_id, local.genesis_hash, ephemeral, nonce, local.features)


def _decode(payload: bytes, expected: type[R]) -> R:
    return decode(payload[2:], expected, bytes_max=HANDSHAKE_MESSAGE_BYTES_MAX)


def _check_version(payload: bytes) -> None:
    """Before the record is read: another version may have other records."""
    if payload[1] != PROTOCOL_VERSION:
        raise HandshakeRefused(
            RefusalReason.UNSUPPORTED_VERSION, ours=f"version {PROTOCOL_VERSION}", theirs=f"version {payload[1]}"
        )


def _check_network(local: LocalNode, hello: Hello) -> None:
    if hello.chain_id != local.chain_id:
        theirs = printable(hello.chain_id)
        raise HandshakeRefused(RefusalReason.CHAIN_MISMATCH, ours=local.chain_id, theirs=theirs)
    if hello.genesis_hash != local.genesis_hash:
        ours, theirs = local.genesis_hash.hex(), hello.genesis_hash.hex()
        raise HandshakeRefused(RefusalReason.GENESIS_MISMATCH, ours=ours, theirs=theirs)


def _check_identity(local: LocalNode, peer: PeerIdentity, expected_key: bytes | None, admit: Admit) -> None:
    if peer.public_key == local.key.public:
        raise HandshakeRefused(RefusalReason.SELF_CONNECTION)
    if expected_key is not None and peer.public_key != expected_key:
        # Before FINISH: a stranger at the address we dialled doesn't learn who we are.
        raise HandshakeRefused(RefusalReason.UNEXPECTED_KEY, ours=expected_key.hex(), theirs=peer.public_key.hex())
    reason = admit(peer)
    if reason is not None:
        raise HandshakeRefused(reason)


def _shared_secret(secret: bytes, ephemeral: bytes) -> bytes:
    """X25519; libsodium refuses an all-zero result, which only points of low order give (RFC 7748, section 6.1)."""
    try:
        return crypto_scalarmult(secret, ephemeral)
    except SodiumError:
        raise HandshakeFailed(f"ephemeral key {ephemeral.hex()} is a point of low order") from None


def _box_keys(shared: bytes, transcript: bytes) -> tuple[bytes, bytes]:
    material = expand(shared + transcript, "handshake boxes", 64)
    return material[:32], material[32:]


def _traffic_keys(shared: bytes, transcript: bytes) -> tuple[bytes, bytes, bytes]:
    """Keys dialler to listener and listener to dialler, and the session id."""
    material = expand(shared + transcript, "link keys", 96)
    return material[:32], material[32:64], material[64:]


def _seal_identity(local: LocalNode, key: bytes, transcript: bytes, tag: str) -> bytes:
    claims = Claims(local.key.public, local.roles, local.listen)
    signature = local.key.sign(tag, transcript + encode(claims))
    return crypto_aead_aegis256_encrypt(encode(SignedClaims(claims, signature)), transcript, _NONCE, key)


def _open_identity(box: bytes, key: bytes, transcript: bytes, tag: str) -> PeerIdentity:
    if len(box) < crypto_aead_aegis256_ABYTES:
        raise HandshakeFailed(f"sealed identity of {len(box)} bytes")
    try:
        plain = crypto_aead_aegis256_decrypt(box, transcript, _NONCE, key)
    except CryptoError:
        raise HandshakeFailed("sealed identity doesn't open: it belongs to another handshake or was changed") from None
    signed = decode(plain, SignedClaims, bytes_max=HANDSHAKE_MESSAGE_BYTES_MAX)
    verify_signature(signed.claims.public_key, tag, transcript + encode(signed.claims), signed.signature)
    return PeerIdentity(signed.claims.public_key, signed.claims.roles, signed.claims.listen)


def _common(ours: tuple[str, ...], theirs: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(ours) & set(theirs)))
