"""Chapter 5.4 and 5.5: credit and priorities."""

from __future__ import annotations

from collections.abc import Callable

import trio

from deepshard.ballots import Proposal
from deepshard.conformance import expect
from deepshard.conformance import packets as wire
from deepshard.conformance.harness import Harness
from deepshard.conformance.peer import RawPeer
from deepshard.conformance.registry import Level, case
from deepshard.conformance.verdicts import CaseSkipped
from deepshard.encoding import encode
from deepshard.limits import (
    ATTACHMENT_BYTES_MAX,
    BODY_BYTES_MAX,
    BULK_CREDIT_BYTES,
    BULK_WINDOW_BYTES_MIN,
    DATA_BYTES_MAX,
    FRAME_CHARGE_BYTES,
    NODE_REASSEMBLY_BYTES_MAX,
    STREAM_CREDIT_BYTES,
    STREAMS_OPEN_MAX,
    SYNC_BLOCKS_MAX,
)
from deepshard.primitives import ZERO_DIGEST, content_digest, expand
from deepshard.wire.messages import BlobReply, BlobRequest, BlobStatus, BlockProposal, Blocks, BlocksRequest

UNKNOWN_KIND = 60_000
BIG = expand(b"a large attachment", "conformance", ATTACHMENT_BYTES_MAX)
QUIET_S = 1.0


async def _declare(peer: RawPeer, count: int, size: int) -> None:
    """Begin bulk frames with attachments of `size` bytes, of which nothing is sent."""
    message = BlobReply(1, ZERO_DIGEST, BlobStatus.FOUND)
    for _ in range(count):
        frame = peer.frame(message, attachment=b"x", attachment_digest=ZERO_DIGEST, header={"attachment_bytes": size})
        await peer.send(frame.start, f"{count} bulk frames that declare {size} bytes each")
        peer.use(frame.header.stream, FRAME_CHARGE_BYTES + len(frame.first))


@case("5.4/1", title="bulk streams begin with BULK_CREDIT_BYTES: the first DATA packet needs no CREDIT")
async def first_bulk_credit(harness: Harness) -> None:
    peer = await harness.link()
    size = BULK_CREDIT_BYTES - FRAME_CHARGE_BYTES - 64
    data = BIG[:size]
    frame = peer.frame(BlobReply(1, content_digest(data), BlobStatus.FOUND), attachment=data)
    await peer.send_together([frame.start, *frame.pieces()], "a bulk frame within the first credit, at once")
    await expect.alive(peer)


@case("5.4/1", title="stream {} begins with STREAM_CREDIT_BYTES", each=[0, 1])
async def first_stream_credit(harness: Harness, stream: int) -> None:
    peer = await harness.link()
    size = STREAM_CREDIT_BYTES - FRAME_CHARGE_BYTES
    frame = peer.frame((UNKNOWN_KIND, bytes(size)), stream=stream)
    await peer.send_together(
        [frame.start, *frame.pieces()], f"a frame of all the first credit on stream {stream}, at once"
    )
    if stream == 1:
        await expect.alive(peer)
    else:
        await harness.refused(peer, "UnknownKind")


@case("5.4/2", title="payload beyond a bulk stream's limit closes the link")
async def beyond_bulk_limit(harness: Harness) -> None:
    """So much is declared that the target can't have given credit for all of it."""
    peer = await harness.link()
    await _declare(peer, STREAMS_OPEN_MAX, ATTACHMENT_BYTES_MAX)
    for _ in range(2):  # CREDIT may follow the first PONG
        await expect.alive(peer)
    stream = min(range(2, 2 + STREAMS_OPEN_MAX), key=peer.room)
    if peer.room(stream) >= ATTACHMENT_BYTES_MAX:
        raise CaseSkipped("the target gives credit for 128 MiB at once")
    room = peer.room(stream)
    plains = [wire.data(stream, bytes(DATA_BYTES_MAX)) for _ in range(room // DATA_BYTES_MAX)]
    plains.append(wire.data(stream, bytes(room % DATA_BYTES_MAX + 1)))
    await peer.send_together(plains, f"{room + 1} bytes on stream {stream}, which has room for {room}")
    await harness.refused(peer, "CreditExceeded")


@case("5.4/2", "5.4/7", title="the target sends nothing beyond the suite's limit on stream 1")
async def target_keeps_to_stream_limit(harness: Harness) -> None:
    peer = await harness.link()
    peer.gives_credit = False
    asked = await _ask_for_blocks(peer, STREAM_CREDIT_BYTES + STREAM_CREDIT_BYTES // 2)
    await _until_quiet(peer)
    used = peer.inbound.used.get(1, 0)
    if used > STREAM_CREDIT_BYTES:
        raise peer.failed(f"at most {STREAM_CREDIT_BYTES} bytes", f"{used} bytes on stream 1")
    peer.gives_credit = True
    peer.inbound.given[1] = used + STREAM_CREDIT_BYTES
    await peer.send(wire.credit(1, peer.inbound.given[1]), "CREDIT, after none")
    await expect.message(peer, Blocks, lambda reply: reply.request == asked, expected="the rest after CREDIT")


async def _ask_for_blocks(peer: RawPeer, wanted_bytes: int) -> int:
    """Ask for more Blocks than there is credit for; gives the number of the last request."""
    await peer.say(BlocksRequest(1, 1, SYNC_BLOCKS_MAX))
    reply, packet = await expect.message(peer, Blocks, lambda reply: reply.request == 1)
    size = packet.payload_bytes + FRAME_CHARGE_BYTES
    count = wanted_bytes // size + 2
    if not reply.blocks or count > 4000:
        raise CaseSkipped("the target has too few blocks to fill its credit")
    for number in range(2, count + 2):
        await peer.say(BlocksRequest(number, 1, SYNC_BLOCKS_MAX))
    return count + 1


async def _until_quiet(peer: RawPeer) -> None:
    """Read until nothing has come for a while."""
    while True:
        packet = None
        with trio.move_on_after(QUIET_S):
            packet = await peer.read()
        if packet is None:
            return
        if packet.message is not None and not isinstance(packet.message, Blocks):
            peer.messages.append(packet)


@case("5.4/3", title="CREDIT that lowers a limit is refused: stream {}", each=[0, 1])
async def lowered(harness: Harness, stream: int) -> None:
    peer = await harness.link()
    await peer.send(
        wire.credit(stream, STREAM_CREDIT_BYTES - 1), f"CREDIT {STREAM_CREDIT_BYTES - 1} for stream {stream}"
    )
    await harness.refused(peer, "MalformedMessage")


@case("5.4/3", title="CREDIT below an earlier CREDIT is refused")
async def lowered_after_raised(harness: Harness) -> None:
    peer = await harness.link()
    await peer.send(wire.credit(1, 2 * STREAM_CREDIT_BYTES))
    await peer.send(wire.credit(1, 2 * STREAM_CREDIT_BYTES - 1), "CREDIT that raises a limit, then one that lowers it")
    await harness.refused(peer, "MalformedMessage")


@case(
    "5.4/3", title="CREDIT for a bulk stream that the target hasn't opened is refused: {}", each=[2, 3, 17, 2**32 - 1]
)
async def for_unopened(harness: Harness, stream: int) -> None:
    peer = await harness.link()
    await peer.send(wire.credit(stream, 1 << 20), f"CREDIT for stream {stream}")
    await harness.refused(peer, "MalformedMessage")


@case(
    "5.4/3", title="CREDIT with the same or a higher limit is taken: {}", each=[STREAM_CREDIT_BYTES, 1 << 40, 2**64 - 1]
)
async def raised(harness: Harness, limit: int) -> None:
    peer = await harness.link()
    for stream in (0, 1):
        await peer.send(wire.credit(stream, limit), f"CREDIT {limit} for stream {stream}")
    await peer.say(BlocksRequest(1, 1, 1))
    await expect.message(peer, Blocks)
    await expect.alive(peer)


@case("5.4/4", title="CREDIT for a bulk stream that is complete is ignored: {}", each={"lower": 1, "higher": 1 << 30})
async def for_complete(harness: Harness, limit: int) -> None:
    peer = await harness.link()
    await peer.say(BlobRequest(1, content_digest(b"nobody has this")))
    _, packet = await expect.message(peer, BlobReply)
    await peer.send(wire.credit(packet.stream, limit), f"CREDIT {limit} for stream {packet.stream}, which is complete")
    await expect.alive(peer)


@case("5.4/5", title="a frame of the largest body gets the credit that it needs on stream 1")
async def largest_body(harness: Harness) -> None:
    peer = await harness.link()
    await peer.send_frame(peer.frame((UNKNOWN_KIND, bytes(BODY_BYTES_MAX))), "a body of 4 MiB, uncompressed")
    await expect.alive(peer)


@case("5.4/5", "5.2/10", title="a frame of the largest attachment gets the credit that it needs")
async def largest_attachment(harness: Harness) -> None:
    peer = await harness.link()
    await peer.say(BlobReply(1, content_digest(BIG), BlobStatus.FOUND), BIG)
    await expect.alive(peer)


@case("5.4/5", title="frames that lack credit get it when others are finished")
async def credit_in_time(harness: Harness) -> None:
    """Six attachments of 8 MiB are begun together: more than the target need hold for one peer."""
    peer = await harness.link()
    message = BlobReply(1, content_digest(BIG), BlobStatus.FOUND)
    frames = [peer.frame(message, attachment=BIG, attachment_digest=content_digest(BIG)) for _ in range(6)]
    for frame in frames:
        await peer.send(frame.start, "six bulk frames of 8 MiB, begun together")
        peer.use(frame.header.stream, FRAME_CHARGE_BYTES + len(frame.first))
    waiting = {frame.header.stream: frame.pieces() for frame in frames}
    while waiting:
        for stream, pieces in list(waiting.items()):
            while pieces and peer.room(stream) >= len(pieces[0]) - 5:
                piece = pieces.pop(0)
                await peer.send(piece, "six bulk frames of 8 MiB, in turns")
                peer.use(stream, len(piece) - 5)
            if not pieces:
                del waiting[stream]
        if waiting:
            await peer.wait_until(_any_room(peer, waiting), "CREDIT for a frame that is incomplete", "5.4/5")
    await expect.alive(peer)


def _any_room(peer: RawPeer, waiting: dict[int, list[bytes]]) -> Callable[[], bool]:
    return lambda: any(peer.room(stream) >= len(pieces[0]) - 5 for stream, pieces in waiting.items())


@case("5.4/6", title="the limit of stream {} rises as frames are finished", each=[0, 1])
async def limit_rises(harness: Harness, stream: int) -> None:
    peer = await harness.link()
    far = encode(Proposal(2**40, 0, -1, content_digest(b"a block"), bytes(20), bytes(64)))
    message = (UNKNOWN_KIND, bytes(100_000)) if stream == 1 else BlockProposal(far, bytes(100_000))
    for _ in range(3 * STREAM_CREDIT_BYTES // 100_000):
        await peer.send_frame(peer.frame(message), f"frames of three times the first credit on stream {stream}")
    await expect.alive(peer)


@case("5.4/7", title="too much declared at once doesn't close the link", level=Level.SHOULD)
async def withheld(harness: Harness) -> None:
    peer = await harness.link()
    await _declare(peer, STREAMS_OPEN_MAX, ATTACHMENT_BYTES_MAX)
    await expect.alive(peer, "credit withheld")
    given = sum(max(0, limit - BULK_CREDIT_BYTES) for stream, limit in peer.limits.items() if stream >= 2)
    if given > NODE_REASSEMBLY_BYTES_MAX:
        raise peer.failed(f"at most {NODE_REASSEMBLY_BYTES_MAX} bytes of credit", f"{given} bytes")


@case("5.4/8", title="a bulk stream gets at least BULK_WINDOW_BYTES_MIN at once", level=Level.SHOULD)
async def window(harness: Harness) -> None:
    peer = await harness.link()
    await _declare(peer, 1, ATTACHMENT_BYTES_MAX)
    wanted = BULK_CREDIT_BYTES + BULK_WINDOW_BYTES_MIN
    await peer.wait_until(lambda: peer.limits.get(2, 0) >= wanted, f"CREDIT of at least {wanted} bytes for stream 2")
