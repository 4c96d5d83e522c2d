"""Frames: one message each, signed, and sealed with AEGIS-256 under a key per direction.

On the wire, integers little-endian:

    4 bytes  size of the first box          header, body, signature, 32-byte tag
    4 bytes  size of the second box, or 0   attachment, 32-byte tag
    first box, second box

The sizes are bounded before anything is allocated and are associated data of the first box. The attachment has a box of
its own because opening it then yields the attachment itself: megabytes are neither joined before nor cut out after.
The nonce is the frame's sequence number and the box's index; sequence numbers start at 0 and never repeat in a session.

The signature covers session id, header, and BLAKE3 of the uncompressed body and of the attachment, never the megabytes
themselves. A receiver can show header, digests and signature to a third party.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import zstandard
from nacl.bindings import crypto_aead_aegis256_ABYTES, crypto_aead_aegis256_decrypt, crypto_aead_aegis256_encrypt
from nacl.exceptions import CryptoError

from deepshard.encoding import decode, encode
from deepshard.errors import LocalError, MalformedMessage, OversizedMessage, RemoteError
from deepshard.identity.keys import SecretKey, verify_signature
from deepshard.limits import ATTACHMENT_BYTES_MAX, BODY_BYTES_MAX, REKEY_BYTES, REKEY_FRAMES
from deepshard.primitives import content_digest, expand
from deepshard.wire.messages import CATALOGUE, Message, Priority

MAGIC: Final = b"DS"
FRAME_VERSION: Final = 1
FLAG_COMPRESSED: Final = 1
FRAME_TAG: Final = "frame"
COMPRESS_BYTES_MIN: Final = 256
"""Smaller bodies don't shrink enough to pay for two calls."""

_PREFIX: Final = struct.Struct("<II")
_HEADER: Final = struct.Struct("<2sBBHBIIIQ")
PREFIX_BYTES: Final = _PREFIX.size
SIGNATURE_BYTES: Final = 64
TAG_BYTES: Final = crypto_aead_aegis256_ABYTES
FIRST_BOX_BYTES_MIN: Final = _HEADER.size + SIGNATURE_BYTES + TAG_BYTES
FIRST_BOX_BYTES_MAX: Final = FIRST_BOX_BYTES_MIN + BODY_BYTES_MAX
_EMPTY_DIGEST: Final = content_digest(b"")


class TamperedFrame(RemoteError):
    """A box that doesn't open.

    The penalty is low: whoever sits between two honest peers can cause it.
    """

    penalty = 5


class UnknownKind(RemoteError):
    """A kind of message that isn't in the catalogue, on the consensus stream, where none may be ignored."""

    def __init__(self, kind: int) -> None:
        super().__init__(f"unknown message kind {kind} on the consensus stream")
        self.kind = kind


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

    @property
    def size_bytes(self) -> int:
        """Bytes it will take in a queue and, but for some 140, on the wire."""
        return len(self.body) + len(self.attachment)


@dataclass(frozen=True, slots=True)
class OpenedFrame:
    """A verified frame. `message` is None for an unknown kind on a stream where those are ignored."""

    message: Message | None
    attachment: bytes
    attachment_digest: bytes
    """Content address of the attachment, already checked against the signature."""


def prepare(message: Message, attachment: bytes = b"") -> Payload:
    """Encode, compress and hash a message.

    Raises:
        LocalError: the message or its attachment is larger than a frame carries.
    """
    body = encode(message)
    if len(body) > BODY_BYTES_MAX or len(attachment) > ATTACHMENT_BYTES_MAX:
        raise LocalError(
            f"{type(message).__name__} has {len(body)} bytes of body and {len(attachment)} of attachment,"
            f" the limits are {BODY_BYTES_MAX} and {ATTACHMENT_BYTES_MAX}"
        )
    digest = content_digest(body)
    sent, flags = body, 0
    if len(body) >= COMPRESS_BYTES_MIN:
        compressed = zstandard.ZstdCompressor(level=1).compress(body)
        if len(compressed) < len(body):
            sent, flags = compressed, FLAG_COMPRESSED
    attachment_digest = content_digest(attachment) if attachment else _EMPTY_DIGEST
    return Payload(message.KIND, message.PRIORITY, flags, sent, len(body), digest, attachment, attachment_digest)


class _KeyChain:
    """The key of one direction, replaced by its successor after a count of frames or bytes, then forgotten."""

    def __init__(self, key: bytes, rekey_frames: int, rekey_bytes: int) -> None:
        self._key = key
        self._rekey_frames, self._rekey_bytes = rekey_frames, rekey_bytes
        self._frames = self._bytes = 0

    def key_for(self, frame_bytes: int) -> bytes:
        """The key of the next frame, whose boxes take `frame_bytes`."""
        if self._frames >= self._rekey_frames or self._bytes >= self._rekey_bytes:
            self._key = expand(self._key, "link rekey", 32)
            self._frames = self._bytes = 0
        self._frames += 1
        self._bytes += frame_bytes
        return self._key


class FrameSealer:
    """Sending direction of a link."""

    def __init__(
        self,
        signer: SecretKey,
        key: bytes,
        session_id: bytes,
        *,
        rekey_frames: int = REKEY_FRAMES,
        rekey_bytes: int = REKEY_BYTES,
    ) -> None:
        self._signer = signer
        self._session_id = session_id
        self._keys = _KeyChain(key, rekey_frames, rekey_bytes)
        self._sequence = 0

    def seal(self, payload: Payload) -> list[bytes]:
        """Sign and seal; buffers to send one after the other, in the order of the calls."""
        header = _HEADER.pack(
            MAGIC,
            FRAME_VERSION,
            payload.flags,
            payload.kind,
            payload.priority,
            len(payload.body),
            payload.body_bytes,
            len(payload.attachment),
            self._sequence,
        )
        signature = self._signer.sign(
            FRAME_TAG, self._session_id + header + payload.body_digest + payload.attachment_digest
        )
        first_bytes = FIRST_BOX_BYTES_MIN + len(payload.body)
        second_bytes = len(payload.attachment) + TAG_BYTES if payload.attachment else 0
        prefix = _PREFIX.pack(first_bytes, second_bytes)
        key = self._keys.key_for(first_bytes + second_bytes)
        plain = header + payload.body + signature
        buffers = [prefix + crypto_aead_aegis256_encrypt(plain, prefix, _nonce(self._sequence, 0), key)]
        if second_bytes:
            buffers.append(crypto_aead_aegis256_encrypt(payload.attachment, None, _nonce(self._sequence, 1), key))
        self._sequence += 1
        return buffers


class FrameOpener:
    """Receiving direction of a link."""

    def __init__(
        self,
        peer_key: bytes,
        key: bytes,
        session_id: bytes,
        *,
        rekey_frames: int = REKEY_FRAMES,
        rekey_bytes: int = REKEY_BYTES,
    ) -> None:
        self._peer_key = peer_key
        self._session_id = session_id
        self._keys = _KeyChain(key, rekey_frames, rekey_bytes)
        self._sequence = 0

    def open(self, prefix: bytes, first_box: bytes, second_box: bytes) -> OpenedFrame:
        """Open, decompress, decode and verify the next frame, whose boxes have the sizes `frame_sizes` read.

        Raises:
            RemoteError: anything about it is wrong; the link can't go on.
        """
        key = self._keys.key_for(len(first_box) + len(second_box))
        plain = _open_box(first_box, prefix, _nonce(self._sequence, 0), key)
        attachment = _open_box(second_box, None, _nonce(self._sequence, 1), key) if second_box else b""
        header = plain[: _HEADER.size]
        magic, version, flags, kind, stream, sent_bytes, body_bytes, attachment_bytes, sequence = _HEADER.unpack(header)
        if magic != MAGIC or version != FRAME_VERSION or flags & ~FLAG_COMPRESSED:
            raise MalformedMessage(f"frame header with magic {magic!r}, version {version}, flags {flags:#x}")
        if sequence != self._sequence:
            raise MalformedMessage(f"frame has sequence number {sequence}, expected {self._sequence}")
        if sent_bytes != len(first_box) - FIRST_BOX_BYTES_MIN or attachment_bytes != len(attachment):
            raise MalformedMessage("frame header and boxes disagree on lengths")
        sent = plain[_HEADER.size : -SIGNATURE_BYTES]
        body = decompress_body(sent, body_bytes) if flags & FLAG_COMPRESSED else sent
        if len(body) != body_bytes:
            raise MalformedMessage(f"frame body has {len(body)} bytes, its header says {body_bytes}")
        message = _decode_message(kind, stream, body)
        attachment_digest = content_digest(attachment) if attachment else _EMPTY_DIGEST
        signed = self._session_id + header + content_digest(body) + attachment_digest
        verify_signature(self._peer_key, FRAME_TAG, signed, plain[-SIGNATURE_BYTES:])
        self._sequence += 1
        return OpenedFrame(message, attachment, attachment_digest)


def frame_sizes(prefix: bytes) -> tuple[int, int]:
    """Sizes of the two boxes, from the first eight bytes of a frame.

    Raises:
        OversizedMessage: beyond their bounds.
        MalformedMessage: below them.
    """
    first, second = _PREFIX.unpack(prefix)
    if first > FIRST_BOX_BYTES_MAX:
        raise OversizedMessage("frame body", first, FIRST_BOX_BYTES_MAX)
    if second > ATTACHMENT_BYTES_MAX + TAG_BYTES:
        raise OversizedMessage("frame attachment", second, ATTACHMENT_BYTES_MAX + TAG_BYTES)
    if first < FIRST_BOX_BYTES_MIN or 0 < second <= TAG_BYTES:
        raise MalformedMessage(f"frame boxes of {first} and {second} bytes are too small")
    return first, second


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


def _decode_message(kind: int, stream: int, body: bytes) -> Message | None:
    expected = CATALOGUE.get(kind)
    if expected is None:
        if stream == Priority.CONSENSUS:
            raise UnknownKind(kind)
        return None
    if stream != expected.PRIORITY:
        raise MalformedMessage(f"{expected.__name__} on stream {stream}, it belongs on {int(expected.PRIORITY)}")
    return decode(body, expected, bytes_max=BODY_BYTES_MAX)


def _open_box(box: bytes, associated: bytes | None, nonce: bytes, key: bytes) -> bytes:
    try:
        return crypto_aead_aegis256_decrypt(box, associated, nonce, key)
    except CryptoError:
        raise TamperedFrame(f"a box of {len(box)} bytes doesn't open: changed, repeated or out of order") from None


def _nonce(sequence: int, box: int) -> bytes:
    return sequence.to_bytes(8, "little") + bytes((box,)) + bytes(23)
