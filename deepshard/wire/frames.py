"""Frames: what is signed. One message each; header, body and attachment (protocol-spec, chapter 5.2).

The signature covers session id, header, BLAKE3 of the uncompressed body, and the attachment's content address; never
the megabytes themselves. A receiver can show header, digests and signature to a third party.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

import zstandard
from blake3 import blake3

from deepshard.encoding import decode, encode
from deepshard.errors import LocalError, MalformedMessage, OversizedMessage, RemoteError
from deepshard.identity.keys import SecretKey, verify_signature
from deepshard.limits import ATTACHMENT_BYTES_MAX, BODY_BYTES_MAX, COMPRESS_BYTES_MIN, DATA_BYTES_MAX
from deepshard.primitives import ZERO_DIGEST, content_digest
from deepshard.wire.messages import CATALOGUE, Message, Priority
from deepshard.wire.packets import PacketType

MAGIC: Final = b"DS"
FRAME_VERSION: Final = 2
FLAG_COMPRESSED: Final = 1
FRAME_TAG: Final = "frame"
SIGNATURE_BYTES: Final = 64
DIGEST_BYTES: Final = 32
FIRST_BULK_STREAM: Final = 2

_HEADER: Final = struct.Struct("<2sBBHIIIIQ")
HEADER_BYTES: Final = _HEADER.size
_START_BYTES: Final = 1 + HEADER_BYTES + SIGNATURE_BYTES


class UnknownKind(RemoteError):
    """A kind of message that isn't in the catalogue, on the consensus stream, where none may be ignored."""

    def __init__(self, kind: int) -> None:
        super().__init__(f"unknown message kind {kind} on the consensus stream")
        self.kind = kind


class CorruptAttachment(RemoteError):
    """An attachment that isn't what its signed digest says."""

    penalty = 50


@dataclass(frozen=True, slots=True)
class Payload:
    """A message made ready for any number of links: encoded, compressed and hashed once."""

    kind: int
    priority: Priority
    flags: int
    body: bytes
    """As sent, compressed if the flag says so."""
    body_bytes: int
    """Before compression."""
    body_digest: bytes
    attachment: bytes
    attachment_digest: bytes
    """Content address; zeros without an attachment."""

    @property
    def size_bytes(self) -> int:
        """Payload: what it takes in a queue, and of a stream's credit."""
        return len(self.body) + len(self.attachment)


class FrameHeader(NamedTuple):
    """The 30 bytes every frame begins with."""

    magic: bytes
    version: int
    flags: int
    kind: int
    stream: int
    sent_bytes: int
    body_bytes: int
    attachment_bytes: int
    sequence: int

    def pack(self) -> bytes:
        """The header's bytes."""
        return _HEADER.pack(*self)


@dataclass(frozen=True, slots=True)
class FrameStart:
    """A FRAME packet, taken apart. `attachment_digest` is zeros without an attachment."""

    header: FrameHeader
    header_bytes: bytes
    signature: bytes
    attachment_digest: bytes
    body: bytes
    """The first part of the body as sent."""


def prepare(message: Message, attachment: bytes = b"", attachment_digest: bytes | None = None) -> Payload:
    """Encode, compress and hash a message.

    Args:
        message: of any kind in the catalogue.
        attachment: only for kinds that carry one.
        attachment_digest: content address of the attachment, where it is known already.

    Raises:
        LocalError: the message or its attachment is larger than a frame carries.
    """
    assert message.ATTACHES or not attachment  # which kinds carry one is fixed
    body = encode(message)
    if len(body) > BODY_BYTES_MAX or len(attachment) > ATTACHMENT_BYTES_MAX:
        raise LocalError(
            f"{type(message).__name__} has {len(body)} bytes of body and {len(attachment)} of attachment,"
            f" the limits are {BODY_BYTES_MAX} and {ATTACHMENT_BYTES_MAX}"
        )
    sent, flags = body, 0
    if len(body) >= COMPRESS_BYTES_MIN:
        compressed = zstandard.ZstdCompressor(level=1).compress(body)
        if len(compressed) < len(body):
            sent, flags = compressed, FLAG_COMPRESSED
    if not attachment:
        attachment_digest = ZERO_DIGEST
    elif attachment_digest is None:
        attachment_digest = content_digest(attachment)
    body_digest = blake3(body).digest()
    return Payload(message.KIND, message.PRIORITY, flags, sent, len(body), body_digest, attachment, attachment_digest)


def frame_start(payload: Payload, *, stream: int, sequence: int, signer: SecretKey, session_id: bytes) -> bytes:
    """Plain text of the FRAME packet that begins a frame, with the first part of its body."""
    header = _HEADER.pack(
        MAGIC,
        FRAME_VERSION,
        payload.flags,
        payload.kind,
        stream,
        len(payload.body),
        payload.body_bytes,
        len(payload.attachment),
        sequence,
    )
    signature = signer.sign(FRAME_TAG, session_id + header + payload.body_digest + payload.attachment_digest)
    digest = payload.attachment_digest if payload.attachment else b""
    return b"".join((_FRAME_TYPE, header, signature, digest, payload.body[:DATA_BYTES_MAX]))


_FRAME_TYPE: Final = bytes((PacketType.FRAME,))


def parse_frame_start(plain: bytes) -> FrameStart:
    """Read the plain text of a FRAME packet; everything but stream and sequence number is checked.

    Raises:
        MalformedMessage: the header isn't one, or the packet isn't exactly as long as it says.
        OversizedMessage: it declares more than a frame may hold.
    """
    if len(plain) < _START_BYTES:
        raise MalformedMessage(f"FRAME packet of {len(plain)} bytes, at least {_START_BYTES} are needed")
    header = FrameHeader._make(_HEADER.unpack_from(plain, 1))
    if header.magic != MAGIC or header.version != FRAME_VERSION or header.flags & ~FLAG_COMPRESSED:
        raise MalformedMessage(
            f"frame header with magic {header.magic!r}, version {header.version}, flags {header.flags:#x}"
        )
    if max(header.sent_bytes, header.body_bytes) > BODY_BYTES_MAX:
        raise OversizedMessage("frame body", max(header.sent_bytes, header.body_bytes), BODY_BYTES_MAX)
    if header.attachment_bytes > ATTACHMENT_BYTES_MAX:
        raise OversizedMessage("frame attachment", header.attachment_bytes, ATTACHMENT_BYTES_MAX)
    if not header.flags & FLAG_COMPRESSED and header.sent_bytes != header.body_bytes:
        raise MalformedMessage(f"uncompressed body of {header.sent_bytes} bytes declared as {header.body_bytes}")
    body_at = _START_BYTES + (DIGEST_BYTES if header.attachment_bytes else 0)
    inline_bytes = min(header.sent_bytes, DATA_BYTES_MAX)
    if len(plain) != body_at + inline_bytes:
        raise MalformedMessage(f"FRAME packet of {len(plain)} bytes, its header makes it {body_at + inline_bytes}")
    digest = plain[_START_BYTES:body_at] or ZERO_DIGEST
    signature = plain[1 + HEADER_BYTES : _START_BYTES]
    return FrameStart(header, plain[1 : 1 + HEADER_BYTES], signature, digest, plain[body_at:])


def open_body(start: FrameStart, sent: bytes, *, peer_key: bytes, session_id: bytes) -> Message | None:
    """Decompress the whole body, verify the frame's signature, and decode; None for an unknown kind that is ignored.

    Raises:
        RemoteError: anything about it is wrong; the link can't go on.
    """
    header = start.header
    body = decompress_body(sent, header.body_bytes) if header.flags & FLAG_COMPRESSED else sent
    signed = b"".join((session_id, start.header_bytes, blake3(body).digest(), start.attachment_digest))
    verify_signature(peer_key, FRAME_TAG, signed, start.signature)
    expected = CATALOGUE.get(header.kind)
    if expected is None:
        if header.stream == Priority.CONSENSUS:
            raise UnknownKind(header.kind)
        return None
    if min(header.stream, FIRST_BULK_STREAM) != expected.PRIORITY:
        name = expected.__name__
        raise MalformedMessage(f"{name} on stream {header.stream}, it belongs on {int(expected.PRIORITY)}")
    if header.attachment_bytes and not expected.ATTACHES:
        raise MalformedMessage(f"{expected.__name__} with an attachment of {header.attachment_bytes} bytes")
    return decode(body, expected, bytes_max=BODY_BYTES_MAX)


def decompress_body(data: bytes, body_bytes: int) -> bytes:
    """Undo zstd into exactly `body_bytes`.

    python-zstandard's one-shot call allocates what the zstd frame declares, whatever `max_output_size` says; so the
    declaration is compared with ours first, and libzstd then writes no further than it.

    Raises:
        OversizedMessage: `body_bytes` is beyond the bound.
        MalformedMessage: not one complete zstd frame of that content size, or a window beyond the bound.
    """
    if body_bytes > BODY_BYTES_MAX:
        raise OversizedMessage("decompressed body", body_bytes, BODY_BYTES_MAX)
    try:
        parameters = zstandard.get_frame_parameters(data)
        if parameters.content_size != body_bytes or body_bytes == 0:
            raise MalformedMessage(f"zstd frame declares {parameters.content_size} bytes, the header {body_bytes}")
        if parameters.window_size > BODY_BYTES_MAX or parameters.dict_id:
            raise MalformedMessage(f"zstd window of {parameters.window_size} bytes, dictionary {parameters.dict_id}")
        return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise MalformedMessage(f"frame body doesn't decompress: {error}") from None
