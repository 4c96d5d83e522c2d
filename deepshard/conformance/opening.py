"""The handshake (chapter 4) step by step, each field of it changeable, written from the text and not from `wire`.

An opening keeps what was really said, whatever it was, so the keys it ends with are those that the target has if the
target accepted it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_bytes
from typing import Any, Final, NamedTuple

from nacl.bindings import (
    crypto_aead_aegis256_decrypt,
    crypto_aead_aegis256_encrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
)
from nacl.exceptions import CryptoError

from deepshard.conformance.verdicts import ClauseFailed, Witness
from deepshard.encoding import decode, encode
from deepshard.errors import BadSignature, RemoteError
from deepshard.identity import SecretKey, verify_signature
from deepshard.limits import HANDSHAKE_MESSAGE_BYTES_MAX
from deepshard.primitives import expand, tagged_hash
from deepshard.wire.handshake import PROTOCOL_VERSION, Claims, Finish, Hello, Refusal, Reply, SignedClaims

HELLO: Final = 1
REPLY: Final = 2
FINISH: Final = 3
REFUSAL: Final = 255
DIALLER_TAG: Final = "handshake dialler"
LISTENER_TAG: Final = "handshake listener"
NONCE: Final = bytes(32)
LIGHT: Final = ("inference",)
"""Roles of a peer that doesn't follow the chain: it is sent little, and is in no mesh."""
MEMBER: Final = ("informant",)

R = Any


class Keys(NamedTuple):
    """What a handshake leaves, from the suite's side."""

    send: bytes
    receive: bytes
    session_id: bytes


@dataclass(frozen=True, slots=True)
class Network:
    """The network that the target is on."""

    chain_id: str
    genesis_hash: bytes


@dataclass(frozen=True, slots=True)
class Self:
    """Who the suite says it is on one connection."""

    key: SecretKey
    roles: tuple[str, ...] = LIGHT
    listen: str = ""
    features: tuple[str, ...] = ()

    @classmethod
    def fresh(cls, roles: tuple[str, ...] = LIGHT) -> Self:
        """A key that the target has never seen, so that no ban follows from one case into another."""
        return cls(SecretKey(token_bytes(32)), roles)


class Identity(NamedTuple):
    """Who the target proved to be."""

    public_key: bytes
    roles: tuple[str, ...]
    listen: str


def message(kind: int, record: bytes, *, version: int = PROTOCOL_VERSION, size: int | None = None) -> bytes:
    """A handshake message; `size` declares another length than it has."""
    payload = bytes((kind, version)) + record
    return (len(payload) if size is None else size).to_bytes(2, "little") + payload


def sealed_claims(
    me: Self,
    key: bytes,
    transcript: bytes,
    tag: str,
    *,
    claims: bytes | None = None,
    signed: bytes | None = None,
    signer: SecretKey | None = None,
    signature: bytes | None = None,
    associated: bytes | None = None,
    record: Callable[[bytes, bytes], bytes] | None = None,
) -> bytes:
    """Box of an identity.

    Args:
        me: whose.
        key: the box's key.
        transcript: what was said so far.
        tag: the signature's purpose.
        claims: other claims, encoded.
        signed: other bytes under the signature.
        signer: another key that signs.
        signature: another signature.
        associated: other associated data.
        record: makes the box's plain text from encoded claims and signature.
    """
    encoded = encode(Claims(me.key.public, me.roles, me.listen)) if claims is None else claims
    over = transcript + encoded if signed is None else signed
    made = (signer or me.key).sign(tag, over) if signature is None else signature
    plain = b"\x92" + encoded + encode(made) if record is None else record(encoded, made)
    return crypto_aead_aegis256_encrypt(plain, transcript if associated is None else associated, NONCE, key)


class Opening:
    """What both sides of a handshake share."""

    def __init__(self, network: Network, me: Self, *, secret: bytes | None = None, nonce: bytes | None = None) -> None:
        self.network, self.me = network, me
        self.secret = secret or token_bytes(32)
        self.ephemeral = crypto_scalarmult_base(self.secret)
        self.nonce = nonce or token_bytes(32)
        self.shared = self.transcript = self.listener_key = self.dialler_key = b""
        self.identity = Identity(b"", (), "")
        self.theirs: Any = None
        self.keys = Keys(b"", b"", b"")

    def hello_record(self, **changed: object) -> bytes:
        """The encoded Hello; any field may be anything that can be encoded."""
        fields: dict[str, object] = {
            "chain_id": self.network.chain_id,
            "genesis_hash": self.network.genesis_hash,
            "ephemeral": self.ephemeral,
            "nonce": self.nonce,
            "features": self.me.features,
        }
        assert changed.keys() <= fields.keys()
        return encode(tuple((fields | changed).values()))

    def _agree(self, first: bytes, listener_hello: bytes, their_ephemeral: bytes) -> None:
        self.transcript = tagged_hash("handshake hellos", first, listener_hello)
        self.shared = crypto_scalarmult(self.secret, their_ephemeral)
        material = expand(self.shared + self.transcript, "handshake boxes", 64)
        self.listener_key, self.dialler_key = material[:32], material[32:]

    def _end(self, box: bytes, *, dialling: bool) -> None:
        end = tagged_hash("handshake end", self.transcript, box)
        material = expand(self.shared + end, "link keys", 96)
        to_listener, to_dialler, session_id = material[:32], material[32:64], material[64:]
        send, receive = (to_listener, to_dialler) if dialling else (to_dialler, to_listener)
        self.keys = Keys(send, receive, session_id)


class DiallerOpening(Opening):
    """The suite dials: HELLO, then the target's REPLY, then FINISH."""

    first = b""

    def hello(self, **changed: object) -> bytes:
        """The HELLO."""
        self.first = message(HELLO, self.hello_record(**changed))
        return self.first

    def take_reply(self, payload: bytes, witness: Witness) -> None:
        """Read and judge the target's REPLY.

        Raises:
            ClauseFailed: it isn't one.
        """
        reply = read_message(payload, REPLY, Reply, witness)
        same = (reply.hello.chain_id, reply.hello.genesis_hash) == (self.network.chain_id, self.network.genesis_hash)
        witness.check("4.2/3", same, f"a REPLY of chain {reply.hello.chain_id} and another genesis")
        self.theirs = reply
        self._agree(self.first, encode(reply.hello), reply.hello.ephemeral)
        self.identity = open_identity(reply.box, self.listener_key, self.transcript, LISTENER_TAG)
        self.transcript = tagged_hash("handshake reply", self.transcript, reply.box)

    def take_reply_blindly(self, payload: bytes, said: bytes) -> None:
        """Go on as if the REPLY had been to `said`, and its box didn't matter."""
        reply = decode(payload[2:], Reply, bytes_max=HANDSHAKE_MESSAGE_BYTES_MAX)
        self._agree(said, encode(reply.hello), reply.hello.ephemeral)
        self.transcript = tagged_hash("handshake reply", self.transcript, reply.box)

    def finish(self, *, tag: str = DIALLER_TAG, key: bytes | None = None, **changed: Any) -> bytes:  # noqa: ANN401
        """The FINISH; the arguments are those of `sealed_claims`."""
        transcript = changed.pop("transcript", self.transcript)
        return self.finish_of(sealed_claims(self.me, key or self.dialler_key, transcript, tag, **changed))

    def finish_of(self, box: bytes) -> bytes:
        """The FINISH with this box."""
        self._end(box, dialling=True)
        return message(FINISH, encode((box,)))


class ListenerOpening(Opening):
    """The target dials: its HELLO, then REPLY, then its FINISH."""

    def take_hello(self, received: bytes, witness: Witness) -> None:
        """Read and judge the target's HELLO; `received` is the payload.

        Raises:
            ClauseFailed: it isn't one.
        """
        self.theirs = read_message(received, HELLO, Hello, witness)
        same = (self.theirs.chain_id, self.theirs.genesis_hash) == (self.network.chain_id, self.network.genesis_hash)
        witness.check("4.2/3", same, f"a HELLO of chain {self.theirs.chain_id} and another genesis")
        self._first = len(received).to_bytes(2, "little") + received

    def reply(self, *, tag: str = LISTENER_TAG, key: bytes | None = None, **changed: Any) -> bytes:  # noqa: ANN401
        """The REPLY; the arguments are those of `sealed_claims` and, as `hello`, a dict of changed fields."""
        record = self.hello_record(**changed.pop("hello", {}))
        self._agree(self._first, record, self.theirs.ephemeral)
        transcript = changed.pop("transcript", self.transcript)
        return self.reply_of(record, sealed_claims(self.me, key or self.listener_key, transcript, tag, **changed))

    def reply_of(self, record: bytes, box: bytes) -> bytes:
        """The REPLY with this hello and box."""
        self.transcript = tagged_hash("handshake reply", self.transcript, box)
        return message(REPLY, b"\x92" + record + encode(box))

    def take_finish(self, payload: bytes, witness: Witness) -> None:
        """Read and judge the target's FINISH.

        Raises:
            ClauseFailed: it isn't one.
        """
        finish = read_message(payload, FINISH, Finish, witness)
        self.identity = open_identity(finish.box, self.dialler_key, self.transcript, DIALLER_TAG)
        self._end(finish.box, dialling=False)


def read_message(payload: bytes, kind: int, expected: type[R], witness: Witness) -> R:
    """Decode a handshake message of the target.

    Raises:
        ClauseFailed: of another kind or version, or malformed.
    """
    if len(payload) >= 2 and payload[0] == REFUSAL and kind != REFUSAL:
        refusal = read_refusal(payload)
        raise _failed(f"a REFUSAL, {refusal.reason.value} (ours {refusal.ours!r}, theirs {refusal.theirs!r})")
    if payload[:2] != bytes((kind, PROTOCOL_VERSION)):
        raise _failed(f"a handshake message that begins with {payload[:2].hex()}")
    try:
        record = decode(payload[2:], expected, bytes_max=HANDSHAKE_MESSAGE_BYTES_MAX)
    except RemoteError as error:
        raise _failed(f"{error}") from None
    witness.check("4.1/5", holds=True, fact="")
    return record


def read_refusal(payload: bytes) -> Refusal:
    """Decode a REFUSAL.

    Raises:
        ClauseFailed: it isn't one.
    """
    try:
        refusal: Refusal = decode(payload[2:], Refusal, bytes_max=HANDSHAKE_MESSAGE_BYTES_MAX)
    except RemoteError as error:
        raise _failed(f"a REFUSAL that can't be read: {error}") from None
    return refusal


def open_identity(box: bytes, key: bytes, transcript: bytes, tag: str) -> Identity:
    """Open and verify the target's identity.

    Raises:
        ClauseFailed: it doesn't open or doesn't verify.
    """
    try:
        plain = crypto_aead_aegis256_decrypt(box, transcript, NONCE, key)
        signed: SignedClaims = decode(plain, SignedClaims, bytes_max=HANDSHAKE_MESSAGE_BYTES_MAX)
        claims = signed.claims
        verify_signature(claims.public_key, tag, transcript + encode(claims), signed.signature)
    except CryptoError:
        raise _failed("a sealed identity that doesn't open with the keys of the chapter") from None
    except BadSignature as error:
        raise _failed(f"an identity whose signature is wrong: {error}") from None
    except RemoteError as error:
        raise _failed(f"an identity that can't be read: {error}") from None
    return Identity(claims.public_key, claims.roles, claims.listen)


def _failed(got: str) -> ClauseFailed:
    return ClauseFailed(sent="its part of the handshake", expected="the target's part as in chapter 4", got=got)
