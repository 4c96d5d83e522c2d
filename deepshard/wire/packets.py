"""Packets: what is sealed. Sizes, numbers, keys and types of one direction of a link (protocol-spec, chapter 5.1).

    packet = size:u32 | AEGIS-256(type:u8 | fields)

The size is that of the plain text. It is bounded before anything is allocated, and is the box's associated data. The
nonce is the packet's number: numbers start at 0 and never repeat, also not after a change of key.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from deepshard.errors import MalformedMessage, OversizedMessage, RemoteError
from deepshard.limits import GOODBYE_BYTES_MAX, PACKET_BYTES_MAX, REKEY_BYTES, REKEY_PACKETS
from deepshard.primitives import expand
from deepshard.wire.aead import TAG_BYTES, open_box, seal

SIZE_BYTES: Final = 4
REKEY_TAG: Final = "link rekey"
_NONCE_REST: Final = bytes(24)
_U32: Final = struct.Struct("<I")
_CREDIT: Final = struct.Struct("<BIQ")
_NONCED: Final = struct.Struct("<BQ")
_STREAMS: Final = struct.Struct("<BI")
_GOODBYE: Final = struct.Struct("<BH")


class PacketType(IntEnum):
    """First byte of a packet's plain text."""

    FRAME = 1
    DATA = 2
    CREDIT = 3
    PING = 4
    PONG = 5
    REKEY = 6
    GOODBYE = 7
    STREAMS = 8


class GoodbyeReason(IntEnum):
    """Why a link is closed; receivers accept others too."""

    SHUTTING_DOWN = 0
    DUPLICATE_LINK = 1
    BANNED = 2
    TOO_MANY_PEERS = 3
    SELF_CONNECTION = 4
    PROTOCOL_ERROR = 5
    OVERLOADED = 6
    REPLACED = 7


class TamperedFrame(RemoteError):
    """A box that doesn't open.

    The penalty is low: whoever sits between two honest peers can cause it.
    """

    penalty = 5


class KeyExhausted(RemoteError):
    """The peer sealed more under one key than is safe."""


@dataclass(frozen=True, slots=True)
class Credit:
    """`limit` bytes of payload may be sent on `stream` in all."""

    stream: int
    limit: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a `Pong` of the same nonce."""

    nonce: int


@dataclass(frozen=True, slots=True)
class Pong:
    """Answers a `Ping`."""

    nonce: int


@dataclass(frozen=True, slots=True)
class Rekey:
    """The last packet under its key."""


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The sender closes the link; `text` is for people, `reason` a `GoodbyeReason` or unknown."""

    reason: int
    text: str


@dataclass(frozen=True, slots=True)
class Streams:
    """Bulk streams with numbers below `limit` may be opened."""

    limit: int


Control = Credit | Ping | Pong | Rekey | Goodbye | Streams


def pack_control(control: Control) -> bytes:
    """Plain text of a control packet. A goodbye's text is cut to its bound."""
    match control:
        case Credit(stream, limit):
            return _CREDIT.pack(PacketType.CREDIT, stream, limit)
        case Ping(nonce):
            return _NONCED.pack(PacketType.PING, nonce)
        case Pong(nonce):
            return _NONCED.pack(PacketType.PONG, nonce)
        case Rekey():
            return bytes((PacketType.REKEY,))
        case Streams(limit):
            return _STREAMS.pack(PacketType.STREAMS, limit)
        case Goodbye(reason, text):
            # Cutting may split a character: what is left of it is dropped.
            cut = text.encode(errors="replace")[:GOODBYE_BYTES_MAX].decode(errors="ignore").encode()
            return _GOODBYE.pack(PacketType.GOODBYE, reason) + cut


_LAYOUTS: Final[dict[int, struct.Struct]] = {
    PacketType.CREDIT: _CREDIT,
    PacketType.PING: _NONCED,
    PacketType.PONG: _NONCED,
    PacketType.STREAMS: _STREAMS,
    PacketType.REKEY: struct.Struct("<B"),
}


def parse_control(plain: bytes) -> Control:
    """Read the plain text of a packet that is neither FRAME nor DATA.

    Raises:
        MalformedMessage: an unknown type, or not exactly as long as its type demands.
    """
    kind = plain[0]
    if kind == PacketType.GOODBYE:
        return _parse_goodbye(plain)
    layout = _LAYOUTS.get(kind)
    if layout is None:
        raise MalformedMessage(f"packet of unknown type {kind}")
    if len(plain) != layout.size:
        raise MalformedMessage(f"{PacketType(kind).name} packet of {len(plain)} bytes, expected {layout.size}")
    fields = layout.unpack(plain)
    match kind:
        case PacketType.CREDIT:
            return Credit(fields[1], fields[2])
        case PacketType.PING:
            return Ping(fields[1])
        case PacketType.PONG:
            return Pong(fields[1])
        case PacketType.STREAMS:
            return Streams(fields[1])
        case _:
            return Rekey()


def _parse_goodbye(plain: bytes) -> Goodbye:
    if not _GOODBYE.size <= len(plain) <= _GOODBYE.size + GOODBYE_BYTES_MAX:
        raise MalformedMessage(f"GOODBYE packet of {len(plain)} bytes")
    try:
        text = plain[_GOODBYE.size :].decode()
    except UnicodeDecodeError:
        raise MalformedMessage("the text of a GOODBYE is not UTF-8") from None
    return Goodbye(_GOODBYE.unpack_from(plain)[1], text)


def packet_size(prefix: bytes | bytearray | memoryview) -> int:
    """Bytes of plain text that a packet declares in its first four bytes.

    Raises:
        OversizedMessage: beyond the bound.
        MalformedMessage: none.
    """
    size: int = _U32.unpack_from(prefix)[0]
    if size > PACKET_BYTES_MAX:
        raise OversizedMessage("packet", size, PACKET_BYTES_MAX)
    if size == 0:
        raise MalformedMessage("packet of 0 bytes")
    return size


class _Direction:
    """Number and key of the next packet of one direction."""

    def __init__(self, key: bytes, rekey_packets: int, rekey_bytes: int) -> None:
        self._key = key
        self._packets_max, self._bytes_max = rekey_packets, rekey_bytes
        self._packets = self._bytes = self._number = 0

    def _has_room(self, packets: int, box_bytes: int) -> bool:
        return self._packets + packets <= self._packets_max and self._bytes + box_bytes <= self._bytes_max

    def _advance(self, box_bytes: int) -> bytes:
        """Count a packet; gives its nonce."""
        nonce = self._number.to_bytes(8, "little") + _NONCE_REST
        self._number += 1
        self._packets += 1
        self._bytes += box_bytes
        return nonce

    def _rekey(self) -> None:
        """There is no way back from the new key to the old one."""
        self._key = expand(self._key, REKEY_TAG, 32)
        self._packets = self._bytes = 0


_REKEY_PLAIN: Final = pack_control(Rekey())
_REKEY_BOX_BYTES: Final = len(_REKEY_PLAIN) + TAG_BYTES


class PacketSealer(_Direction):
    """Sending direction: seals plain texts in the order of the calls, and changes the key in time."""

    def __init__(self, key: bytes, *, rekey_packets: int = REKEY_PACKETS, rekey_bytes: int = REKEY_BYTES) -> None:
        super().__init__(key, rekey_packets, rekey_bytes)

    def seal(self, plain: bytes) -> bytes | bytearray:
        """The packet, with a REKEY packet before it if the key is used up."""
        if self._has_room(2, len(plain) + TAG_BYTES + _REKEY_BOX_BYTES):
            return self._seal(plain)
        rekey = self._seal(_REKEY_PLAIN)
        self._rekey()
        return rekey + self._seal(plain)

    def rekey(self) -> bytes | bytearray:
        """A REKEY packet now."""
        packet = self._seal(_REKEY_PLAIN)
        self._rekey()
        return packet

    def _seal(self, plain: bytes) -> bytes | bytearray:
        nonce = self._advance(len(plain) + TAG_BYTES)
        return seal(plain, _U32.pack(len(plain)), nonce, self._key)


class PacketOpener(_Direction):
    """Receiving direction."""

    def __init__(self, key: bytes, *, rekey_packets: int = REKEY_PACKETS, rekey_bytes: int = REKEY_BYTES) -> None:
        super().__init__(key, rekey_packets, rekey_bytes)

    def open(self, size: bytes, box: bytes | memoryview) -> bytes | bytearray:
        """Plain text of the next packet, not empty. REKEY takes effect before this returns.

        Args:
            size: the packet's first four bytes.
            box: as long as `packet_size` says, and `TAG_BYTES`.

        Raises:
            TamperedFrame: it doesn't open.
            KeyExhausted: the peer should have changed its key.
        """
        if not self._has_room(1, len(box)):
            raise KeyExhausted(f"{self._packets} packets and {self._bytes} bytes under one key without REKEY")
        nonce = self._advance(len(box))
        plain = open_box(box, size, nonce, self._key)
        if plain is None:
            raise TamperedFrame(f"a box of {len(box)} bytes doesn't open: changed, repeated or out of order")
        if plain == _REKEY_PLAIN:
            self._rekey()
        return plain
