"""Frames as chapter 5.2 words them: headers, signatures, packets; zstd frames written by hand."""

from __future__ import annotations

import struct
from typing import Any, Final

from blake3 import blake3

from deepshard.conformance.vectors.document import Json, digest_of, key_of
from deepshard.conformance.vectors.generate import forms
from deepshard.identity import SecretKey
from deepshard.primitives import content_digest

SESSION: Final = digest_of("session id")
SIGNER: Final = key_of("dialler")
DATA_MAX: Final = 64 * 1024
_ID: Final = digest_of("unit")[:16]
_DIGEST: Final = digest_of("blob")

BODIES: Final[dict[int, tuple[str, int, list[Any]]]] = {
    4: ("Peers", 1, [["192.0.2.1:7000", "[2001:db8::1]:7001"]]),
    5: ("Status", 0, [2**40]),
    6: ("Graft", 1, [0]),
    7: ("Prune", 1, [1, 60]),
    8: ("IHave", 1, [0, [_ID, _ID[::-1]]]),
    9: ("IWant", 1, [[_ID]]),
    10: ("IDontWant", 1, [[]]),
    16: ("Transactions", 1, [[b"one", b""]]),
    17: ("BlockProposal", 0, [b"proposal", b"block"]),
    18: ("Votes", 0, [[b"vote", b"another"]]),
    19: ("ProofOfLock", 0, [b"proof"]),
    20: ("BlocksRequest", 1, [1, 100, 64]),
    21: ("Blocks", 1, [1, [[b"block", b"certificate"]]]),
    22: ("HeadersRequest", 1, [2**62, 1, 1]),
    23: ("Headers", 1, [0, [[b"header", b"certificate", b"set"]]]),
    24: ("ProofRequest", 1, [3, b"chain"]),
    25: ("ProofReply", 1, [3, 7, None, b"proof"]),
    26: ("SnapshotsRequest", 1, [3]),
    27: ("Snapshots", 1, [3, [50, 100]]),
    28: ("SnapshotChunkRequest", 1, [3, 100, digest_of("cursor")]),
    29: ("SnapshotChunk", 2, [3, None]),
    30: ("LightAttackReport", 1, [3, _DIGEST, b"evidence"]),
    32: ("HaveRequest", 1, [4, [_DIGEST]]),
    33: ("HaveReply", 1, [4, b"\x01"]),
    34: ("BlobRequest", 1, [5, _DIGEST]),
    35: ("BlobReply", 2, [5, _DIGEST, 3]),
    36: ("RangeRequest", 1, [6, _DIGEST, 0, 64]),
    37: ("RangeReply", 2, [6, _DIGEST, 1, 0, 0, []]),
}
"""Name, stream and values of a message of every kind."""


def body_of(kind: int) -> bytes:
    """The encoding of the message of this kind."""
    return forms.encoded(BODIES[kind][2])


def header(
    kind: int,
    stream: int,
    sent: int,
    body: int,
    *,
    attachment: int = 0,
    flags: int = 0,
    sequence: int = 0,
    magic: bytes = b"DS",
    version: int = 2,
) -> bytes:
    """The 30 bytes."""
    return struct.pack("<2sBBHIIIIQ", magic, version, flags, kind, stream, sent, body, attachment, sequence)


def signature(
    head: bytes, body: bytes, digest: bytes, *, session: bytes = SESSION, signer: SecretKey = SIGNER
) -> bytes:
    """The sender's, over the body before compression."""
    return signer.sign("frame", session + head + blake3(body).digest() + digest)


def frame(
    kind: int,
    body: bytes,
    *,
    stream: int | None = None,
    sent: bytes | None = None,
    attachment: bytes = b"",
    digest: bytes | None = None,
    session: bytes = SESSION,
    signer: SecretKey = SIGNER,
    **fields: Any,  # noqa: ANN401
) -> list[bytes]:
    """Plain texts of the packets of a frame; `sent` is the compressed body, `fields` are the header's.

    The packets are as long as they may be.
    """
    on = BODIES[kind][1] if stream is None else stream
    carried = body if sent is None else sent
    address = content_digest(attachment) if attachment else bytes(32)
    address = address if digest is None else digest
    shape: Json = {"attachment": len(attachment), "flags": int(sent is not None)} | fields
    head = header(kind, on, len(carried), len(body), **shape)
    signed = signature(head, body, address, session=session, signer=signer)
    first = b"\x01" + head + signed + (address if shape["attachment"] else b"") + carried[:DATA_MAX]
    rest = carried[DATA_MAX:] + attachment
    return [first, *(data(on, rest[at : at + DATA_MAX]) for at in range(0, len(rest), DATA_MAX))]


def data(stream: int, part: bytes) -> bytes:
    """Plain text of a DATA packet."""
    return b"\x02" + stream.to_bytes(4, "little") + part


def zstd(*blocks: bytes, size: int | None, window: int | None = None, dictionary: int = 0) -> bytes:
    """A zstd frame (RFC 8878, section 3.1) of these blocks.

    `size` is the content size it declares, `window` the byte of a window descriptor, without which the frame is a
    single segment.
    """
    code = 0 if size is None or size < 256 else 1 if size < 256 + (1 << 16) else 2 if size < 1 << 32 else 3
    descriptor = code << 6 | (window is None) << 5 | bool(dictionary)
    if window is not None and size is not None and code == 0:
        code, descriptor = 2, descriptor | 2 << 6
    declared = b""
    if size is not None:
        declared = (size - 256 if code == 1 else size).to_bytes(1 << code, "little")
    descriptors = bytes([descriptor]) + (b"" if window is None else bytes([window]))
    named = bytes([dictionary]) if dictionary else b""
    return b"\x28\xb5\x2f\xfd" + descriptors + named + declared + b"".join(blocks)


def raw(content: bytes, *, last: bool = False) -> bytes:
    """A block that holds its content as it is."""
    return (len(content) << 3 | last).to_bytes(3, "little") + content


def rle(value: int, times: int, *, last: bool = False) -> bytes:
    """A block of one byte repeated; at most 128 KiB of it."""
    return (times << 3 | 1 << 1 | last).to_bytes(3, "little") + bytes([value])
