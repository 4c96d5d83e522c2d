"""The handshake as chapter 4 words it, step by step over primitives, for both sides at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from nacl.bindings import crypto_aead_aegis256_encrypt, crypto_scalarmult, crypto_scalarmult_base

from deepshard.conformance.vectors.document import Json, digest_of, key_of
from deepshard.conformance.vectors.generate import forms
from deepshard.identity import SecretKey
from deepshard.primitives import expand, tagged_hash

CHAIN: Final = "vector-chain"
GENESIS: Final = digest_of("genesis")
VERSION: Final = 2
HELLO, REPLY, FINISH, REFUSAL = 1, 2, 3, 255
TAGS: Final = {"listener": "handshake listener", "dialler": "handshake dialler"}


@dataclass(frozen=True, slots=True)
class Side:
    """What one side knows before the first byte."""

    name: str
    key: SecretKey
    ephemeral_secret: bytes
    nonce: bytes
    chain_id: str = CHAIN
    genesis_hash: bytes = GENESIS
    roles: tuple[str, ...] = ()
    listen: str = ""
    features: tuple[str, ...] = ()

    @property
    def ephemeral(self) -> bytes:
        """X25519 public key."""
        return crypto_scalarmult_base(self.ephemeral_secret)

    def hello(self) -> list[Any]:
        """The values of its Hello."""
        return [self.chain_id, self.genesis_hash, self.ephemeral, self.nonce, list(self.features)]

    def claims(self) -> bytes:
        """Its Claims, encoded."""
        return forms.encoded([self.key.public, list(self.roles), self.listen])

    def shown(self) -> Json:
        """What the vectors give of it."""
        names = ("ephemeral_secret", "nonce", "chain_id", "genesis_hash", "roles", "listen", "features")
        return {"seed": self.key.seed, **{name: getattr(self, name) for name in names}}


def side(name: str, **changes: Any) -> Side:  # noqa: ANN401
    """A side by its name: its key and random values follow from it."""
    values: Json = {"key": key_of(name), "ephemeral_secret": digest_of(f"ephemeral of {name}")}
    values |= {"nonce": digest_of(f"nonce of {name}"), **changes}
    return Side(name, **values)


def message(kind: int, record: bytes, version: int = VERSION) -> bytes:
    """A handshake message around an encoded record."""
    return (len(record) + 2).to_bytes(2, "little") + bytes([kind, version]) + record


def refusal(reason: str, ours: str = "", theirs: str = "", version: int = VERSION) -> bytes:
    """A REFUSAL."""
    return message(REFUSAL, forms.encoded([reason, ours, theirs]), version)


@dataclass(slots=True)
class Dialogue:
    """A handshake between two sides; what it says can be changed before the next step is computed."""

    dialler: Side
    listener: Side
    first: bytes = b""
    """HELLO as sent."""
    shared: bytes = b""
    transcripts: list[bytes] = field(default_factory=list)
    box_keys: Sequence[bytes] = ()

    def __post_init__(self) -> None:
        """Compute what follows from the two Hellos."""
        self.first = self.first or message(HELLO, forms.encoded(self.dialler.hello()))
        self.shared = crypto_scalarmult(self.dialler.ephemeral_secret, self.listener.ephemeral)
        first = tagged_hash("handshake hellos", self.first, forms.encoded(self.listener.hello()))
        self.transcripts.append(first)
        keys = expand(self.shared + first, "handshake boxes", 64)
        self.box_keys = (keys[:32], keys[32:])

    def signature(self, who: Side, transcript: bytes, tag: str) -> bytes:
        """A side's signature over its claims."""
        return who.key.sign(tag, transcript + who.claims())

    def signed_claims(self, who: Side, transcript: bytes, tag: str) -> bytes:
        """Plain text of a box."""
        return b"\x92" + who.claims() + forms.binary(self.signature(who, transcript, tag))

    def box_of_listener(self, plain: bytes | None = None) -> bytes:
        """`box_l`, around other plain text if that is given."""
        first = self.transcripts[0]
        inside = self.signed_claims(self.listener, first, TAGS["listener"]) if plain is None else plain
        return crypto_aead_aegis256_encrypt(inside, first, bytes(32), self.box_keys[0])

    def reply(self, box: bytes | None = None) -> bytes:
        """REPLY."""
        inside = self.box_of_listener() if box is None else box
        return message(REPLY, b"\x92" + forms.encoded(self.listener.hello()) + forms.binary(inside))

    @property
    def second(self) -> bytes:
        """`t1`."""
        return tagged_hash("handshake reply", self.transcripts[0], self.box_of_listener())

    def box_of_dialler(self, plain: bytes | None = None) -> bytes:
        """`box_d`, around other plain text if that is given."""
        second = self.second
        inside = self.signed_claims(self.dialler, second, TAGS["dialler"]) if plain is None else plain
        return crypto_aead_aegis256_encrypt(inside, second, bytes(32), self.box_keys[1])

    def finish(self, box: bytes | None = None) -> bytes:
        """FINISH."""
        inside = self.box_of_dialler() if box is None else box
        return message(FINISH, b"\x91" + forms.binary(inside))

    def link_keys(self) -> tuple[bytes, bytes, bytes]:
        """Key to the listener, key to the dialler, session id."""
        third = tagged_hash("handshake end", self.second, self.box_of_dialler())
        keys = expand(self.shared + third, "link keys", 96)
        return keys[:32], keys[32:64], keys[64:]

    def packet(self, plain: bytes, *, to_listener: bool, number: int = 0) -> bytes:
        """A sealed packet."""
        to_listeners, to_diallers, _ = self.link_keys()
        return packet(plain, to_listeners if to_listener else to_diallers, number)


def packet(plain: bytes, key: bytes, number: int) -> bytes:
    """A sealed packet (5.1)."""
    size = len(plain).to_bytes(4, "little")
    nonce = number.to_bytes(8, "little") + bytes(24)
    return size + crypto_aead_aegis256_encrypt(plain, size, nonce, key)


def ping(nonce: int) -> bytes:
    """Plain text of a PING."""
    return b"\x04" + nonce.to_bytes(8, "little")


def goodbye(reason: int, text: str = "") -> bytes:
    """Plain text of a GOODBYE."""
    return b"\x07" + reason.to_bytes(2, "little") + text.encode()
