"""Packets and frames (chapter 5) built from the text, so that each part of them can be wrong."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from blake3 import blake3
from nacl.bindings import crypto_aead_aegis256_decrypt, crypto_aead_aegis256_encrypt
from nacl.exceptions import CryptoError

from deepshard.identity import SecretKey
from deepshard.limits import DATA_BYTES_MAX
from deepshard.primitives import ZERO_DIGEST, content_digest, expand

FRAME: Final = 1
DATA: Final = 2
CREDIT: Final = 3
PING: Final = 4
PONG: Final = 5
REKEY: Final = 6
GOODBYE: Final = 7
STREAMS: Final = 8
TYPE_NAMES: Final = ("", "FRAME", "DATA", "CREDIT", "PING", "PONG", "REKEY", "GOODBYE", "STREAMS")
TAG_BYTES: Final = 32
HEADER: Final = struct.Struct("<2sBBHIIIIQ")
HEADER_BYTES: Final = HEADER.size
SIGNATURE_BYTES: Final = 64
PROTOCOL_ERROR: Final = 5
COMPRESSED: Final = 1


class Direction:
    """Key and number of one direction's next packet."""

    def __init__(self, key: bytes) -> None:
        self.key, self.number = key, 0
        self.packets_under_key = self.bytes_under_key = 0

    def rekey(self) -> None:
        """The next key."""
        self.key = expand(self.key, "link rekey", 32)
        self.packets_under_key = self.bytes_under_key = 0

    def count(self, box_bytes: int) -> None:
        """One more packet."""
        self.number += 1
        self.packets_under_key += 1
        self.bytes_under_key += box_bytes

    def seal(
        self,
        plain: bytes,
        *,
        number: int | None = None,
        key: bytes | None = None,
        size: int | None = None,
        associated: bytes | None = None,
        nonce: bytes | None = None,
    ) -> bytes:
        """The packet, right but for what is given."""
        used = self.number if number is None else number
        prefix = (len(plain) if size is None else size).to_bytes(4, "little")
        bound = prefix if associated is None else associated
        box = crypto_aead_aegis256_encrypt(
            plain, bound, nonce or used.to_bytes(8, "little") + bytes(24), key or self.key
        )
        if number is None:
            self.count(len(box))
        return prefix + box

    def open(self, prefix: bytes, box: bytes) -> bytes | None:
        """Plain text of the next packet; None if it doesn't open."""
        nonce = self.number.to_bytes(8, "little") + bytes(24)
        self.count(len(box))
        try:
            plain: bytes = crypto_aead_aegis256_decrypt(box, prefix, nonce, self.key)
        except CryptoError:
            return None
        return plain


class Header(NamedTuple):
    """The 30 bytes of a frame's header."""

    magic: bytes = b"DS"
    version: int = 2
    flags: int = 0
    kind: int = 0
    stream: int = 1
    sent_bytes: int = 0
    body_bytes: int = 0
    attachment_bytes: int = 0
    sequence: int = 0

    def pack(self) -> bytes:
        """Its bytes."""
        return HEADER.pack(*self)


def control(kind: int, fields: bytes = b"") -> bytes:
    """Plain text of a control packet."""
    return bytes((kind,)) + fields


def credit(stream: int, limit: int) -> bytes:
    """A CREDIT packet."""
    return control(CREDIT, struct.pack("<IQ", stream, limit))


def ping(nonce: int) -> bytes:
    """A PING packet."""
    return control(PING, nonce.to_bytes(8, "little"))


def pong(nonce: int) -> bytes:
    """A PONG packet."""
    return control(PONG, nonce.to_bytes(8, "little"))


def streams(limit: int) -> bytes:
    """A STREAMS packet."""
    return control(STREAMS, limit.to_bytes(4, "little"))


def goodbye(reason: int, text: bytes = b"") -> bytes:
    """A GOODBYE packet."""
    return control(GOODBYE, reason.to_bytes(2, "little") + text)


def data(stream: int, payload: bytes) -> bytes:
    """A DATA packet."""
    return control(DATA, stream.to_bytes(4, "little") + payload)


def signed_bytes(session_id: bytes, header: bytes, body: bytes, attachment_digest: bytes) -> bytes:
    """What a frame's signature covers."""
    return session_id + header + blake3(body).digest() + attachment_digest


class Frame(NamedTuple):
    """A frame ready to send: the FRAME packet's parts and what follows in DATA packets."""

    header: Header
    signature: bytes
    digest: bytes
    first: bytes
    rest: bytes
    note: str = ""

    @property
    def start(self) -> bytes:
        """Plain text of the FRAME packet."""
        return bytes((FRAME,)) + self.header.pack() + self.signature + self.digest + self.first

    @property
    def payload_bytes(self) -> int:
        """What it takes of the stream's credit."""
        return len(self.first) + len(self.rest)

    def pieces(self, size: int = DATA_BYTES_MAX) -> list[bytes]:
        """The rest in DATA packets of at most `size` payload."""
        stream = self.header.stream
        return [data(stream, self.rest[start : start + size]) for start in range(0, len(self.rest), size)]


def build_frame(
    header: Header,
    body: bytes,
    *,
    signer: SecretKey,
    session_id: bytes,
    sent: bytes | None = None,
    attachment: bytes = b"",
    attachment_digest: bytes | None = None,
    signature: bytes | None = None,
    note: str = "",
) -> Frame:
    """A frame with this header, whose lengths are taken as they are.

    Args:
        header: every field of it.
        body: before compression: what is signed.
        signer: who signs.
        session_id: of the link.
        sent: the body as sent; `body` if not given.
        attachment: bytes after the body.
        attachment_digest: instead of the content address.
        signature: instead of the right one.
        note: what it is, for the report.
    """
    digest = content_digest(attachment) if attachment_digest is None else attachment_digest
    covered = digest if attachment else ZERO_DIGEST
    made = signer.sign("frame", signed_bytes(session_id, header.pack(), body, covered))
    wire = body if sent is None else sent
    cut = min(len(wire), DATA_BYTES_MAX)
    carried = digest if attachment else b""
    return Frame(header, signature or made, carried, wire[:cut], wire[cut:] + attachment, note)
