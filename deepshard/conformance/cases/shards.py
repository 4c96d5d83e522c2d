"""Chapter 8: blobs and ranges that the target serves. Of blobs it knows those that genesis names."""

from __future__ import annotations

from collections.abc import Callable

from deepshard.conformance import expect
from deepshard.conformance.harness import Harness
from deepshard.conformance.inbound import Packet
from deepshard.conformance.peer import RawPeer
from deepshard.conformance.registry import Level, Needs, case
from deepshard.conformance.verdicts import CaseSkipped
from deepshard.errors import RemoteError
from deepshard.limits import RANGE_BLOCKS_MAX
from deepshard.primitives import CONTENT_BLOCK_BYTES, content_digest
from deepshard.ranges import block_count, range_bytes, verify_range
from deepshard.wire.messages import (
    BlobReply,
    BlobRequest,
    BlobStatus,
    HaveReply,
    HaveRequest,
    RangeReply,
    RangeRequest,
)

UNKNOWN = content_digest(b"nobody has this")
GENESIS = (Needs.GENESIS,)


async def known_blob(harness: Harness, peer: RawPeer, *, larger_than: int = 0) -> tuple[bytes, int]:
    """Digest and size of the largest blob of genesis that the target serves.

    Raises:
        CaseSkipped: it serves none, or none so large.
    """
    genesis = harness.target.genesis
    assert genesis is not None  # the case needs one
    named = (genesis.manifest, *genesis.heldout[:4], *genesis.general[:4], *genesis.canaries[:4])
    best = (b"", -1)
    for number, digest in enumerate(named):
        reply, _ = await _range(peer, number, digest, 0, 1)
        if reply.status is BlobStatus.FOUND and reply.size > best[1]:
            best = (digest, reply.size)
    if best[1] <= larger_than:
        raise CaseSkipped(f"the target serves no blob of genesis that is larger than {larger_than} bytes")
    return best


async def _range(peer: RawPeer, number: int, digest: bytes, first: int, count: int) -> tuple[RangeReply, Packet]:
    await peer.say(RangeRequest(number, digest, first, count))
    return await expect.message(peer, RangeReply, lambda reply: reply.request == number)


@case(
    "8.6/2",
    "8.6/5",
    title="a blob that the target doesn't have is NOT_FOUND, without data: {}",
    each={
        "BlobRequest": BlobRequest(3, UNKNOWN),
        "RangeRequest": RangeRequest(3, UNKNOWN, 0, 1),
        "RangeRequest of a later block": RangeRequest(3, UNKNOWN, 9, 4),
    },
)
async def not_found(harness: Harness, request: BlobRequest | RangeRequest) -> None:
    peer = await harness.link()
    await peer.say(request)
    reply: BlobReply | RangeReply
    if isinstance(request, BlobRequest):
        reply, packet = await expect.message(peer, BlobReply)
        data: object = packet.attachment
    else:
        answer, packet = await expect.message(peer, RangeReply)
        reply, data = answer, packet.attachment or answer.size or answer.proof
    if reply.status is not BlobStatus.NOT_FOUND or data or reply.digest != UNKNOWN:
        raise peer.failed("NOT_FOUND with the digest, no size, proof or data", f"{reply.status.name} with {data!r}")


@case("8.6/1", title="a request is answered once")
async def answered_once(harness: Harness) -> None:
    peer = await harness.link()
    for number in range(4):
        await peer.say(BlobRequest(number, UNKNOWN))
    seen = [(await expect.message(peer, BlobReply))[0].request for _ in range(4)]
    await expect.unblamed(peer, "four answers")
    more = [packet for packet in peer.messages if isinstance(packet.message, BlobReply)]
    if sorted(seen) != list(range(4)) or more:
        raise peer.failed("one answer to each of four requests", f"answers to {seen} and {len(more)} more")


@case("8.6/4", title="many requests at once are answered, or refused", level=Level.SHOULD)
async def many_requests(harness: Harness) -> None:
    peer = await harness.link()
    for number in range(32):
        await peer.say(BlobRequest(number, UNKNOWN))
    answered = {(await expect.message(peer, BlobReply))[0].request for _ in range(32)}
    if answered != set(range(32)):
        raise peer.failed("an answer to each of 32 requests", f"answers to {len(answered)}")


@case("8.5/1", title="the bit of a blob is set if the target has it, and only then", needs=GENESIS)
async def bits(harness: Harness) -> None:
    peer = await harness.link()
    digest, _ = await known_blob(harness, peer)
    await peer.say(HaveRequest(9, (UNKNOWN, digest, UNKNOWN, digest)))
    reply, _ = await expect.message(peer, HaveReply, lambda reply: reply.request == 9)
    if reply.bitmap != b"\x0a":
        raise peer.failed("the bitmap 0a", reply.bitmap.hex())


@case("8.9/1", title="blobs of genesis are served to everybody", level=Level.SHOULD, needs=GENESIS)
async def served_to_all(harness: Harness) -> None:
    peer = await harness.link()
    digest, size = await known_blob(harness, peer)
    await peer.say(BlobRequest(5, digest))
    reply, packet = await expect.message(peer, BlobReply, lambda reply: reply.request == 5)
    if reply.status is not BlobStatus.FOUND or len(packet.attachment) != size:
        raise peer.failed(f"FOUND with {size} bytes", f"{reply.status.name} with {len(packet.attachment)} bytes")


@case("8.1/3", "8.6/3", title="a blob that is sent has the content address that was asked for", needs=GENESIS)
async def right_blob(harness: Harness) -> None:
    peer = await harness.link()
    digest, _ = await known_blob(harness, peer)
    await peer.say(BlobRequest(5, digest))
    reply, packet = await expect.message(peer, BlobReply, lambda reply: reply.request == 5)
    if reply.digest != digest or content_digest(packet.attachment) != digest:
        raise peer.failed(f"the blob {digest.hex()}", content_digest(packet.attachment).hex())


@case(
    "8.7/3",
    "1.5/6",
    title="{} are sent with their proof",
    needs=GENESIS,
    each={
        "the first block": lambda _: (0, 1),
        "all blocks": lambda _: (0, RANGE_BLOCKS_MAX),
        "the second block": lambda _: (1, 1),
        "the last block": lambda blocks: (blocks - 1, 1),
        "more blocks than there are": lambda blocks: (blocks - 1, RANGE_BLOCKS_MAX),
        "some in the middle": lambda blocks: (blocks // 2, 2),
        "all but the first": lambda _: (1, RANGE_BLOCKS_MAX),
    },
)
async def ranges(harness: Harness, choose: Callable[[int], tuple[int, int]]) -> None:
    peer = await harness.link()
    digest, size = await known_blob(harness, peer, larger_than=CONTENT_BLOCK_BYTES)
    blocks = block_count(size)
    first, count = choose(blocks)
    reply, packet = await _range(peer, 77, digest, first, count)
    held = min(count, blocks - first)
    expected = f"blocks {first} to {first + held - 1} of {blocks}, and their proof"
    facts = (reply.status, reply.digest, reply.size, reply.first_block, len(packet.attachment))
    if facts != (BlobStatus.FOUND, digest, size, first, range_bytes(size, first, held)):
        raise peer.failed(expected, f"{reply.status.name}, block {reply.first_block}, {len(packet.attachment)} bytes")
    try:
        verify_range(digest, size=size, first=first, count=held, data=packet.attachment, proof=reply.proof)
    except RemoteError as error:
        raise peer.failed(expected, str(error)) from None


@case(
    "8.7/2",
    title="a range that begins beyond the end isn't answered: {} blocks beyond",
    needs=GENESIS,
    each=[0, 1, 2**30],
)
async def beyond_the_end(harness: Harness, by: int) -> None:
    peer = await harness.link()
    digest, size = await known_blob(harness, peer)
    await peer.say(RangeRequest(88, digest, block_count(size) + by, 1))
    await _range(peer, 89, digest, 0, 1)
    await expect.unblamed(peer, "no answer, and the link left as it is")
    if any(isinstance(packet.message, RangeReply) and packet.message.request == 88 for packet in peer.messages):
        raise peer.failed("no answer", "RangeReply")
