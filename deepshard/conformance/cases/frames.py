"""Chapter 5.2: frames and their headers, signatures and attachments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import zstandard
from blake3 import blake3

from deepshard.conformance import expect
from deepshard.conformance import packets as wire
from deepshard.conformance.harness import Harness
from deepshard.conformance.peer import RawPeer
from deepshard.conformance.registry import Level, case
from deepshard.conformance.verdicts import CaseSkipped
from deepshard.encoding import encode
from deepshard.identity import SecretKey
from deepshard.limits import ATTACHMENT_BYTES_MAX, BODY_BYTES_MAX, COMPRESS_BYTES_MIN, DATA_BYTES_MAX, SYNC_BLOCKS_MAX
from deepshard.primitives import ZERO_DIGEST, content_digest, expand
from deepshard.wire.messages import BlobReply, BlobStatus, Blocks, BlocksRequest, Status

UNKNOWN_KIND = 60_000
OTHER = SecretKey(expand(b"somebody else", "conformance", 32))
STATUS = Status(0)


async def _refused_frame(harness: Harness, error: str | tuple[str, ...], note: str, **changed: Any) -> None:  # noqa: ANN401
    peer = await harness.link()
    await peer.send_frame(peer.frame(STATUS, **changed), f"Status with {note}")
    await harness.refused(peer, *((error,) if isinstance(error, str) else error))


@case("5.2/1", title="another magic is refused: {}", each={"DT": b"DT", "ds": b"ds", "zeros": bytes(2), "SD": b"SD"})
async def magic(harness: Harness, value: bytes) -> None:
    await _refused_frame(harness, "MalformedMessage", f"magic {value!r}", header={"magic": value})


@case("5.2/1", title="frame version {} is refused", each=[0, 1, 3, 255])
async def version(harness: Harness, value: int) -> None:
    await _refused_frame(harness, "MalformedMessage", f"frame version {value}", header={"version": value})


@case("5.2/1", title="flag bit {} is refused", each=range(1, 8))
async def flag(harness: Harness, bit: int) -> None:
    await _refused_frame(harness, "MalformedMessage", f"flag bit {bit}", header={"flags": 1 << bit})


@case(
    "5.2/2",
    title="a sequence number that doesn't follow is refused: {}",
    each={
        "one skipped": 1,
        "far ahead": 1 << 40,
        "2^64 - 1": 2**64 - 1,
    },
)
async def sequence(harness: Harness, step: int) -> None:
    peer = await harness.link()
    number = (peer.sequence + step) % 2**64
    await peer.send_frame(peer.frame(STATUS, header={"sequence": number}), f"Status numbered {number}")
    await harness.refused(peer, "MalformedMessage")


@case("5.2/2", title="a sequence number that came before is refused")
async def repeated_sequence(harness: Harness) -> None:
    peer = await harness.link()
    await peer.say(STATUS)
    await peer.send_frame(peer.frame(STATUS, header={"sequence": 0}), "a second frame numbered 0")
    await harness.refused(peer, "MalformedMessage")


@case("5.2/2", title="frames of all streams are numbered together")
async def sequence_over_streams(harness: Harness) -> None:
    peer = await harness.link()
    for message in (STATUS, BlocksRequest(1, 1, 1), BlobReply(1, ZERO_DIGEST, BlobStatus.BUSY), STATUS):
        await peer.say(message)
    await expect.alive(peer)


@case(
    "5.2/3",
    title="a declared size beyond its bound is refused with the FRAME packet: {}",
    each={
        "sent_bytes one too many": {"sent_bytes": BODY_BYTES_MAX + 1, "body_bytes": BODY_BYTES_MAX + 1},
        "sent_bytes 2^32 - 1": {"sent_bytes": 2**32 - 1, "body_bytes": 2**32 - 1},
        "body_bytes one too many": {"body_bytes": BODY_BYTES_MAX + 1, "flags": 1},
        "body_bytes 2^32 - 1": {"body_bytes": 2**32 - 1, "flags": 1},
        "attachment_bytes one too many": {"attachment_bytes": ATTACHMENT_BYTES_MAX + 1},
        "attachment_bytes 2^32 - 1": {"attachment_bytes": 2**32 - 1},
    },
)
async def declared_size(harness: Harness, changed: dict[str, Any]) -> None:
    peer = await harness.link()
    bulk = "attachment_bytes" in changed
    message = BlobReply(1, ZERO_DIGEST, BlobStatus.FOUND) if bulk else STATUS
    frame = peer.frame(message, header=changed)
    digest = ZERO_DIGEST if bulk else b""
    body = frame.first.ljust(DATA_BYTES_MAX, b"\x00") if "sent_bytes" in changed else frame.first
    await peer.send(frame._replace(digest=digest, first=body).start, f"a FRAME packet with {changed}")
    await harness.refused(peer, "OversizedMessage")


@case("5.2/4", title="an uncompressed body of another size than declared is refused: {}", each=[-1, 1, 1000])
async def uncompressed_size(harness: Harness, by: int) -> None:
    size = len(encode(STATUS)) + by
    await _refused_frame(harness, "MalformedMessage", f"body_bytes {size}", header={"body_bytes": size})


Edit = Callable[[wire.Frame], wire.Frame]
_LAYOUTS: dict[str, Edit] = {
    "the body's last byte left for DATA": lambda frame: frame._replace(first=frame.first[:-1]),
    "nothing of the body": lambda frame: frame._replace(first=b""),
    "a byte after the body": lambda frame: frame._replace(first=frame.first + b"\x00"),
    "a digest without an attachment": lambda frame: frame._replace(digest=ZERO_DIGEST),
}


@case("5.2/5", title="a FRAME packet with {} is refused", each=_LAYOUTS)
async def layout(harness: Harness, edit: Edit) -> None:
    peer = await harness.link()
    await peer.send(edit(peer.frame(BlocksRequest(1, 1, 1))).start, "a FRAME packet of another layout")
    await harness.refused(peer, "MalformedMessage")


@case("5.2/5", title="a FRAME packet without the digest of its attachment is refused")
async def missing_digest(harness: Harness) -> None:
    peer = await harness.link()
    frame = peer.frame(BlobReply(1, ZERO_DIGEST, BlobStatus.FOUND), attachment=b"x" * 10)
    await peer.send(frame._replace(digest=b"").start, "FRAME of an attachment, without its digest")
    await harness.refused(peer, "MalformedMessage")


@case(
    "5.2/5",
    title="body and attachment may share a DATA packet, and be cut anywhere: pieces of {} bytes",
    each=[1021, 4096, DATA_BYTES_MAX],
)
async def pieces(harness: Harness, size: int) -> None:
    peer = await harness.link()
    frame = peer.frame((UNKNOWN_KIND, b"b" * (DATA_BYTES_MAX + 5000)), attachment=b"a" * 20_000, stream=2)
    await peer.wait_for_credit(2, 256 + len(frame.first))
    await peer.send(frame.start, f"a frame in pieces of {size}")
    peer.use(2, 256 + len(frame.first))
    for piece in frame.pieces(size):
        await peer.wait_for_credit(2, len(piece) - 5)
        await peer.send(piece, f"a frame in pieces of {size}")
        peer.use(2, len(piece) - 5)
    await expect.alive(peer)


@case("5.2/6", title="DATA on stream {} without a frame is refused", each=[0, 1, 2, 17, 2**32 - 1])
async def data_without_frame(harness: Harness, stream: int) -> None:
    peer = await harness.link()
    await peer.send(wire.data(stream, b"x"), f"DATA on stream {stream}")
    await harness.refused(peer, "UnexpectedMessage")


@case("5.2/6", title="DATA after a frame's end is refused")
async def data_after_end(harness: Harness) -> None:
    peer = await harness.link()
    await peer.say(BlobReply(1, ZERO_DIGEST, BlobStatus.BUSY))
    await peer.send(wire.data(2, b"x"), "DATA on the stream of a finished frame")
    await harness.refused(peer, "UnexpectedMessage")


@case("5.2/6", title="DATA beyond a frame's end is refused")
async def data_beyond_end(harness: Harness) -> None:
    peer = await harness.link()
    frame = peer.frame((UNKNOWN_KIND, bytes(DATA_BYTES_MAX + 10)))
    await peer.send(frame.start, "FRAME that lacks 10 bytes")
    await peer.send(wire.data(1, bytes(11)), "DATA of 11 bytes")
    await harness.refused(peer, "MalformedMessage")


def _over(**other: Any) -> Callable[[RawPeer, wire.Frame], bytes]:  # noqa: ANN401
    """A signature over something else than 5.2/9 says."""

    def sign(peer: RawPeer, frame: wire.Frame) -> bytes:
        session = other.get("session_id", peer.opening.keys.session_id)
        header = other.get("header", frame.header.pack())
        body = other.get("body", frame.first)
        return peer.me.key.sign("frame", wire.signed_bytes(session, header, body, other.get("digest", ZERO_DIGEST)))

    return sign


def _flip(at: int) -> Callable[[RawPeer, wire.Frame], bytes]:
    def flipped(_: RawPeer, frame: wire.Frame) -> bytes:
        signature = bytearray(frame.signature)
        signature[at] ^= 1
        return bytes(signature)

    return flipped


@case(
    "5.2/9",
    title="a signature that doesn't hold closes the link: {}",
    each={
        "zeros": lambda _peer, _frame: bytes(64),
        "a bit of R flipped": _flip(0),
        "a bit of S flipped": _flip(40),
        "another session": _over(session_id=bytes(32)),
        "another header": _over(header=bytes(30)),
        "another body": _over(body=b""),
        "a digest of an attachment that isn't there": _over(digest=content_digest(b"")),
        "by another key": lambda peer, frame: OTHER.sign(
            "frame", wire.signed_bytes(peer.opening.keys.session_id, frame.header.pack(), frame.first, ZERO_DIGEST)
        ),
        "with the tag of votes": lambda peer, frame: peer.me.key.sign(
            "vote", wire.signed_bytes(peer.opening.keys.session_id, frame.header.pack(), frame.first, ZERO_DIGEST)
        ),
    },
)
async def signature(harness: Harness, sign: Callable[[RawPeer, wire.Frame], bytes]) -> None:
    peer = await harness.link()
    frame = peer.frame(STATUS)
    await peer.send_frame(frame._replace(signature=sign(peer, frame)), "Status with a wrong signature")
    await harness.refused(peer, "BadSignature")


@case("5.2/9", title="a bulk frame with a wrong signature closes the link")
async def bulk_signature(harness: Harness) -> None:
    peer = await harness.link()
    frame = peer.frame(BlobReply(1, content_digest(b"x"), BlobStatus.FOUND), attachment=b"x", signature=bytes(64))
    await peer.send_frame(frame, "BlobReply with a signature of zeros")
    await harness.refused(peer, "BadSignature")


@case("5.2/9", title="the attachment's digest is under the signature")
async def digest_under_signature(harness: Harness) -> None:
    peer = await harness.link()
    frame = peer.frame(BlobReply(1, content_digest(b"x"), BlobStatus.FOUND), attachment=b"x")
    other = frame._replace(digest=content_digest(b"y"), rest=b"y")
    await peer.send_frame(other, "BlobReply with another attachment and digest under the old signature")
    await harness.refused(peer, "BadSignature")


@case(
    "5.2/10",
    "1.5/4",
    title="an attachment that isn't what its signed digest says closes the link: {}",
    each={
        "another byte": (b"x" * 100, b"x" * 99 + b"y"),
        "plain BLAKE3": (b"", b"x" * 100),
        "beyond a block": (b"x" * 40_000, b"x" * 39_999 + b"y"),
    },
)
async def corrupt_attachment(harness: Harness, entry: tuple[bytes, bytes]) -> None:
    named, sent = entry
    digest = content_digest(named) if named else blake3(sent).digest()
    peer = await harness.link()
    message = BlobReply(1, digest, BlobStatus.FOUND)
    frame = peer.frame(message, attachment=sent, attachment_digest=digest)
    await peer.send_frame(frame, "BlobReply whose attachment has another content address")
    await harness.refused(peer, "CorruptAttachment")


@case(
    "5.2/10",
    "1.5/1",
    title="an attachment of {} bytes with its content address is taken",
    each=[1, 16_383, 16_384, 16_385, 81_920],
)
async def right_attachment(harness: Harness, size: int) -> None:
    peer = await harness.link()
    data = expand(b"attachment", "conformance", size)
    await peer.say(BlobReply(1, content_digest(data), BlobStatus.FOUND), data)
    await expect.alive(peer, "an answer that nobody waits for ignored")


@case(
    "5.2/11",
    "2.4/3",
    title="a body that isn't canonical is refused: {}",
    each={
        "empty": b"",
        "an integer in a longer form": b"\x91\xcc\x05",
        "a list in a longer form": b"\xdc\x00\x01\x05",
        "a byte after it": b"\x91\x05\x00",
        "a field less": b"\x90",
        "a field more": b"\x92\x05\x05",
        "a float": b"\x91\xca\x00\x00\x00\x00",
        "true for 1": b"\x91\xc3",
        "nil": b"\x91\xc0",
        "a map": b"\x81\xa6height\x05",
        "negative": b"\x91\xff",
        "above the bound": b"\x91\xcf\x40\x00\x00\x00\x00\x00\x00\x01",
        "text": b"\x91\xa15",
        "its end missing": b"\x91",
        "an extension": b"\x91\xd4\x00\x00",
        "a list of 2^32 - 1 values": b"\xdd\xff\xff\xff\xff",
    },
)
async def body(harness: Harness, encoded: bytes) -> None:
    peer = await harness.link()
    await peer.send_frame(peer.frame((Status.KIND, encoded)), f"Status with the body {encoded.hex()}")
    await harness.refused(peer, "MalformedMessage")


@case(
    "5.2/11",
    "2.4/5",
    title="a body of nested lists is refused: {}",
    each={"a thousand deep": 1000, "a million deep": 1_000_000},
)
async def nested_body(harness: Harness, depth: int) -> None:
    peer = await harness.link()
    await peer.send_frame(peer.frame((Status.KIND, b"\x91" * depth)), f"Status with {depth} lists within each other")
    await harness.refused(peer, "MalformedMessage")


@case(
    "5.2/12",
    "6.2/2",
    title="an attachment to a kind without one is refused: {}",
    each={
        "BlocksRequest on a bulk stream": (BlocksRequest(1, 1, 1), 2),
        "BlocksRequest on stream 1": (BlocksRequest(1, 1, 1), 1),
        "Status on stream 0": (STATUS, 0),
    },
)
async def attachment_to_another_kind(harness: Harness, entry: tuple[Any, int]) -> None:
    message, stream = entry
    peer = await harness.link()
    await peer.send_frame(peer.frame(message, attachment=b"x", stream=stream), f"an attachment on stream {stream}")
    await harness.refused(peer, "MalformedMessage")


@case("5.2/8", title="the target compresses large bodies where that makes them smaller", level=Level.SHOULD)
async def compresses(harness: Harness) -> None:
    peer = await harness.link()
    await peer.say(BlocksRequest(7, 1, SYNC_BLOCKS_MAX))
    reply, packet = await expect.message(peer, Blocks, lambda reply: reply.request == 7)
    body = encode(reply)
    smaller = len(zstandard.ZstdCompressor(level=1).compress(body)) < len(body)
    if packet.started is None or len(body) < COMPRESS_BYTES_MIN or not smaller:
        raise CaseSkipped("the target's blocks are too few to shrink")
    if not packet.started.flags & wire.COMPRESSED:
        raise peer.failed("Blocks as a zstd frame", f"{len(body)} bytes uncompressed")
