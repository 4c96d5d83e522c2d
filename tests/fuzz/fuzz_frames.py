"""Frames: the plain text of a FRAME packet, taken apart, opened, verified and decoded.

With bit 7 of the first byte the harness signs what the fuzzer made of header and body, so that it gets behind the
signature; without, the bytes are taken as they are.
"""

from __future__ import annotations

from typing import Final

from blake3 import blake3
from harness import Harness
from samples import message_samples

from deepshard.identity.keys import SecretKey
from deepshard.limits import BODY_BYTES_MAX, MIB
from deepshard.primitives import ZERO_DIGEST
from deepshard.wire.frames import (
    FLAG_COMPRESSED,
    FRAME_TAG,
    HEADER_BYTES,
    SIGNATURE_BYTES,
    decompress_body,
    frame_start,
    open_body,
    parse_frame_start,
    prepare,
)
from deepshard.wire.messages import Transactions

KEY: Final = SecretKey(bytes(32))
SESSION_ID: Final = bytes(range(32))
SIGN: Final = 0x80


def check(data: bytes) -> None:
    plain = data[1:]
    start = parse_frame_start(plain)
    body = start.body
    if len(body) < start.header.sent_bytes:
        body += bytes(start.header.sent_bytes - len(body))
    if data[0] & SIGN:
        plain = resigned(plain, sent=body)
        start = parse_frame_start(plain)
    open_body(start, body, peer_key=KEY.public, session_id=SESSION_ID)


def resigned(plain: bytes, *, sent: bytes | None = None, session_id: bytes = SESSION_ID, key: SecretKey = KEY) -> bytes:
    """The FRAME packet with a good signature over what it holds; `sent` is the whole body where it isn't in it."""
    start = parse_frame_start(plain)
    sent = start.body if sent is None else sent
    body = decompress_body(sent, start.header.body_bytes) if start.header.flags & FLAG_COMPRESSED else sent
    digest = start.attachment_digest or ZERO_DIGEST
    signature = key.sign(FRAME_TAG, session_id + start.header_bytes + blake3(body).digest() + digest)
    at = 1 + HEADER_BYTES
    return plain[:at] + signature + plain[at + SIGNATURE_BYTES :]


def seeds() -> dict[str, bytes]:
    found = {}
    for message in message_samples():
        attachment = b"attachment" if message.ATTACHES else b""
        payload = prepare(message, attachment)
        plain = frame_start(payload, stream=int(message.PRIORITY), sequence=0, signer=KEY, session_id=SESSION_ID)
        found[type(message).__name__] = bytes((SIGN,)) + plain
    compressed = prepare(Transactions((bytes(1000),)))
    plain = frame_start(compressed, stream=1, sequence=0, signer=KEY, session_id=SESSION_ID)
    found["compressed"] = bytes((SIGN,)) + plain
    found["as-it-is"] = b"\x00" + plain
    return found


HARNESS: Final = Harness(check, seeds, memory_bytes_max=3 * BODY_BYTES_MAX + MIB)
