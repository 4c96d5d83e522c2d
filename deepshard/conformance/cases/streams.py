"""Chapter 5.3: streams."""

from __future__ import annotations

from deepshard.conformance import expect
from deepshard.conformance import packets as wire
from deepshard.conformance.harness import Harness
from deepshard.conformance.peer import RawPeer
from deepshard.conformance.registry import case
from deepshard.limits import DATA_BYTES_MAX, FRAME_CHARGE_BYTES, STREAMS_OPEN_MAX
from deepshard.primitives import ZERO_DIGEST, content_digest
from deepshard.wire.messages import BlobReply, BlobRequest, BlobStatus, BlocksRequest, Headers, Message, Status

BUSY = BlobReply(1, ZERO_DIGEST, BlobStatus.BUSY)
FIRST_LIMIT = 2 + STREAMS_OPEN_MAX
UNKNOWN_KIND = 60_000


@case("5.3/1", title="the two directions number their bulk streams by themselves")
async def directions_do_not_share(harness: Harness) -> None:
    """Both sides use stream 2."""
    peer = await harness.link()
    await peer.say(BUSY)
    await peer.say(BlobRequest(5, content_digest(b"nobody has this")))
    _, packet = await expect.message(peer, BlobReply, lambda reply: reply.request == 5)
    if packet.stream != 2:
        raise peer.failed("BlobReply on stream 2, the target's first", f"BlobReply on stream {packet.stream}")


@case(
    "5.3/2",
    title="a first bulk stream with the number {} is refused",
    each=[3, 4, FIRST_LIMIT - 1, FIRST_LIMIT, 2**32 - 1],
)
async def first_bulk_number(harness: Harness, number: int) -> None:
    peer = await harness.link()
    await peer.send_frame(peer.frame(BUSY, stream=number), f"the first bulk frame on stream {number}")
    await harness.refused(peer, "MalformedMessage")


@case("5.3/2", title="after bulk stream 2, a frame on stream {} is refused", each=[2, 4])
async def second_bulk_number(harness: Harness, number: int) -> None:
    peer = await harness.link()
    await peer.say(BUSY)
    await peer.send_frame(peer.frame(BUSY, stream=number), f"the second bulk frame on stream {number}")
    await harness.refused(peer, "MalformedMessage")


async def _open(peer: RawPeer, count: int) -> None:
    """Open bulk streams whose frames lack their attachment."""
    for _ in range(count):
        frame = peer.frame(BlobReply(1, ZERO_DIGEST, BlobStatus.FOUND), attachment=b"x", attachment_digest=ZERO_DIGEST)
        await peer.send(frame.start, f"{count} bulk streams opened and not finished")
        peer.use(frame.header.stream, FRAME_CHARGE_BYTES + len(frame.first))


@case("5.3/4", title="as many streams as the limit allows may be open")
async def streams_up_to_limit(harness: Harness) -> None:
    peer = await harness.link()
    await _open(peer, STREAMS_OPEN_MAX)
    await expect.alive(peer)


@case("5.3/4", title="a stream at the limit closes the link")
async def stream_at_limit(harness: Harness) -> None:
    peer = await harness.link()
    await _open(peer, STREAMS_OPEN_MAX + 1)
    await harness.refused(peer, "StreamLimitExceeded")


@case("5.3/4", title="streams are exhausted by frames that are never finished, not by others' links")
async def streams_of_another_link(harness: Harness) -> None:
    one, other = await harness.link(), await harness.link()
    await _open(one, STREAMS_OPEN_MAX)
    await _open(other, STREAMS_OPEN_MAX)
    await expect.alive(one)
    await expect.alive(other)


@case("5.3/5", title="the stream limit rises as bulk frames are finished")
async def limit_rises(harness: Harness) -> None:
    peer = await harness.link()
    for _ in range(4 * STREAMS_OPEN_MAX):
        await peer.say(BUSY)
    await expect.alive(peer)


@case("5.3/5", title="the stream limit rises while an old stream stays open")
async def limit_rises_beside_an_open_stream(harness: Harness) -> None:
    peer = await harness.link()
    await _open(peer, 1)
    for _ in range(2 * STREAMS_OPEN_MAX):
        await peer.say(BUSY)
    await expect.alive(peer)


@case("5.3/6", title="STREAMS that lowers the limit to {} is refused", each=[0, 2, FIRST_LIMIT - 1])
async def lowered_limit(harness: Harness, limit: int) -> None:
    peer = await harness.link()
    await peer.send(wire.streams(limit), f"STREAMS {limit}")
    await harness.refused(peer, "MalformedMessage")


@case("5.3/6", title="STREAMS below an earlier STREAMS is refused")
async def lowered_after_raised(harness: Harness) -> None:
    peer = await harness.link()
    await peer.send(wire.streams(FIRST_LIMIT + 10))
    await peer.send(wire.streams(FIRST_LIMIT + 9), "STREAMS that raises the limit, then one that lowers it")
    await harness.refused(peer, "MalformedMessage")


@case(
    "5.3/6",
    title="STREAMS with the same or a higher limit is taken: {}",
    each=[FIRST_LIMIT, FIRST_LIMIT + 1, 2**32 - 1],
)
async def raised_limit(harness: Harness, limit: int) -> None:
    peer = await harness.link()
    await peer.send(wire.streams(limit), f"STREAMS {limit}")
    await peer.send(wire.streams(limit), f"STREAMS {limit}")
    await expect.alive(peer)


@case("5.3/7", title="a FRAME inside another on stream {} is refused", each=[0, 1])
async def frame_inside_frame(harness: Harness, stream: int) -> None:
    peer = await harness.link()
    first = peer.frame((UNKNOWN_KIND, bytes(DATA_BYTES_MAX + 1)), stream=stream)
    await peer.send(first.start, f"a FRAME that lacks a byte, on stream {stream}")
    second = peer.frame(Status(0) if stream == 0 else BlocksRequest(1, 1, 1))
    await peer.send(second.start, f"another FRAME on stream {stream}")
    await harness.refused(peer, "UnexpectedMessage")


@case("5.3/7", "5.5/3", title="packets of other streams may come between those of a frame")
async def interleaved(harness: Harness) -> None:
    peer = await harness.link()
    gossip = peer.frame(Headers(999, ((bytes(DATA_BYTES_MAX), b"", b""),)))
    rest = gossip.pieces(5)
    await peer.send(gossip.start, "a FRAME on stream 1 that lacks a few bytes")
    bulk = peer.frame(BlobReply(1, content_digest(b"x" * 10), BlobStatus.FOUND), attachment=b"x" * 10)
    await peer.send(bulk.start, "a FRAME on stream 2 that lacks 10 bytes")
    await peer.say(Status(0))
    for piece in (rest[0], wire.data(2, b"x" * 5), *rest[1:], wire.data(2, b"x" * 5)):
        await peer.send(piece, "DATA of both, in turns")
    await expect.alive(peer)


@case(
    "5.3/8",
    title="a message on a stream of another class is refused: {}",
    each={
        "Status on stream 1": (Status(0), 1),
        "Status on a bulk stream": (Status(0), 2),
        "BlocksRequest on stream 0": (BlocksRequest(1, 1, 1), 0),
        "BlocksRequest on a bulk stream": (BlocksRequest(1, 1, 1), 2),
        "BlobReply on stream 0": (BUSY, 0),
        "BlobReply on stream 1": (BUSY, 1),
    },
)
async def another_class(harness: Harness, entry: tuple[Message, int]) -> None:
    message, stream = entry
    peer = await harness.link()
    await peer.send_frame(peer.frame(message, stream=stream))
    await harness.refused(peer, "MalformedMessage")


@case("5.3/9", title="an unknown kind on stream 1 is ignored: {}", each=[0, 1, 2, 3, 100, 1023, 1024, 65535])
async def unknown_kind_on_gossip(harness: Harness, kind: int) -> None:
    peer = await harness.link()
    await peer.send_frame(peer.frame((kind, b"\xc1 whatever"), stream=1))
    await expect.alive(peer)


@case(
    "5.3/9",
    title="an unknown kind on a bulk stream is ignored, {} an attachment",
    each={"with": b"x" * 1000, "without": b""},
)
async def unknown_kind_on_bulk(harness: Harness, attachment: bytes) -> None:
    peer = await harness.link()
    await peer.send_frame(peer.frame((UNKNOWN_KIND, b"\xc1 whatever"), stream=2, attachment=attachment))
    await expect.alive(peer)


@case("5.3/9", title="an unknown kind on stream 0 closes the link: {}", each=[0, 1, UNKNOWN_KIND, 65535])
async def unknown_kind_on_consensus(harness: Harness, kind: int) -> None:
    peer = await harness.link()
    await peer.send_frame(peer.frame((kind, b"\xc0"), stream=0))
    await harness.refused(peer, "UnknownKind")


@case("5.3/9", title="an unknown kind on stream {} with a wrong signature closes the link", each=[0, 1, 2])
async def unknown_kind_with_wrong_signature(harness: Harness, stream: int) -> None:
    peer = await harness.link()
    frame = peer.frame((UNKNOWN_KIND, b"\xc0"), stream=stream, signature=bytes(64))
    await peer.send_frame(frame, f"an unknown kind on stream {stream} with a signature of zeros")
    await harness.refused(peer, "BadSignature")
