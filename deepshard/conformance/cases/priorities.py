"""Chapter 5.5: what the target sends first, when it may send anything."""

from __future__ import annotations

from itertools import pairwise

import trio

from deepshard.conformance import expect
from deepshard.conformance import packets as wire
from deepshard.conformance.cases.shards import known_blob
from deepshard.conformance.harness import Harness
from deepshard.conformance.inbound import Packet
from deepshard.conformance.peer import RawPeer
from deepshard.conformance.registry import Lane, Level, Needs, case
from deepshard.conformance.verdicts import CaseSkipped
from deepshard.limits import BULK_CREDIT_BYTES, DATA_BYTES_MAX, FRAME_CHARGE_BYTES, STREAM_CREDIT_BYTES, SYNC_BLOCKS_MAX
from deepshard.wire.messages import BlobRequest, Blocks, BlocksRequest

QUIET_S = 1.0
STALLED_S = 2.5
"""A target that has sent neither gossip nor bulk for so long waits for credit, and not for its machine."""
BLOBS = 4
PIECES_MIN = 4


async def _read_for(peer: RawPeer, seconds: float) -> list[Packet]:
    """Everything that comes until no gossip and no bulk has for a while; consensus may go on."""
    packets: list[Packet] = []
    last = trio.current_time()
    while True:
        packet = None
        with trio.move_on_after(seconds):
            packet = await peer.read()
        if packet is None:
            return packets
        packets.append(packet)
        if packet.payload_bytes and packet.stream > 0:
            last = trio.current_time()
        elif trio.current_time() - last >= seconds:
            return packets


async def _stall(harness: Harness) -> tuple[RawPeer, int]:
    """A link on which bulk and gossip wait for nothing but credit; gives the bytes of gossip that wait, or more."""
    peer = await harness.link()
    digest, size = await known_blob(harness, peer, larger_than=BULK_CREDIT_BYTES + PIECES_MIN * DATA_BYTES_MAX)
    peer.gives_credit = False
    await peer.say(BlocksRequest(1, 1, SYNC_BLOCKS_MAX))
    _, packet = await expect.message(peer, Blocks, lambda reply: reply.request == 1)
    each = packet.payload_bytes + FRAME_CHARGE_BYTES
    count = STREAM_CREDIT_BYTES // each + 40
    if count > 4000:
        raise CaseSkipped("the target has too few blocks to fill its credit")
    for number in range(2, count + 2):
        await peer.say(BlocksRequest(number, 1, SYNC_BLOCKS_MAX))
    for number in range(BLOBS):
        await peer.say(BlobRequest(number, digest))
    await _read_for(peer, STALLED_S)
    del size
    return peer, each


def _bulk_credit(peer: RawPeer) -> list[bytes]:
    """CREDIT for every bulk stream of the target that is incomplete."""
    credit = []
    for stream, partial in peer.inbound.partial.items():
        if stream >= 2:
            needed = FRAME_CHARGE_BYTES + partial.header.sent_bytes + partial.header.attachment_bytes
            peer.inbound.given[stream] = needed
            credit.append(wire.credit(stream, needed))
    return credit


@case(
    "5.5/1",
    title="gossip that has credit isn't held up by bulk that has it, too",
    needs=(Needs.GENESIS,),
    lane=Lane.ALONE,
)
async def gossip_before_bulk(harness: Harness) -> None:
    """Once gossip flows, no bulk comes before all of it that waited is through; and it flows soon."""
    peer, each = await _stall(harness)
    bulk = _bulk_credit(peer)
    if not bulk:
        raise CaseSkipped("no bulk of the target waits for credit")
    peer.inbound.given[1] += 20 * each
    await peer.send_together(
        [*bulk, wire.credit(1, peer.inbound.given[1])], "CREDIT for stalled bulk and stalled gossip, at once"
    )
    classes = [min(packet.stream, 2) for packet in await _read_for(peer, QUIET_S) if packet.payload_bytes]
    gossip = [at for at, number in enumerate(classes) if number == 1]
    if len(gossip) < PIECES_MIN or classes.count(2) < PIECES_MIN:
        raise CaseSkipped(f"too little waited: {len(gossip)} pieces of gossip, {classes.count(2)} of bulk")
    before, between = classes[: gossip[0]].count(2), classes[gossip[0] : gossip[-1]].count(2)
    if between:
        raise peer.failed("no bulk within the gossip that has credit", f"{between} pieces of bulk between it")
    if 2 * before > classes.count(2):
        raise peer.failed("gossip before most of the bulk", f"{before} of {classes.count(2)} pieces of bulk before it")


@case("5.5/1", "5.1/6", title="a PONG isn't held up by bulk and gossip", needs=(Needs.GENESIS,), lane=Lane.ALONE)
async def control_first(harness: Harness) -> None:
    """Credit for much is given, and a PING with it: at most a few packets may have been chosen before the PONG."""
    peer, each = await _stall(harness)
    bulk = _bulk_credit(peer)
    peer.inbound.given[1] += 20 * each
    await peer.send_together(
        [wire.ping(7), *bulk, wire.credit(1, peer.inbound.given[1])], "PING, and CREDIT for all that is stalled"
    )
    packets = await _read_for(peer, QUIET_S)
    at = next((at for at, packet in enumerate(packets) if packet.kind == wire.PONG), None)
    if at is None or any(packet.payload_bytes and packet.stream > 0 for packet in packets[:at]):
        raise peer.failed("PONG first, since its PING came before the credit", "payload before it" if at else "no PONG")


@case("5.5/2", title="bulk streams take turns", level=Level.SHOULD, needs=(Needs.GENESIS,), lane=Lane.ALONE)
async def turns(harness: Harness) -> None:
    peer, _ = await _stall(harness)
    bulk = _bulk_credit(peer)
    if len(bulk) < 2:
        raise CaseSkipped("fewer than two bulk streams of the target wait for credit")
    await peer.send_together(bulk, f"CREDIT for {len(bulk)} stalled bulk streams, at once")
    streams = [
        packet.stream for packet in await _read_for(peer, QUIET_S) if packet.stream >= 2 and packet.payload_bytes
    ]
    if len(set(streams)) < 2:
        raise CaseSkipped("only one bulk stream went on")
    changes = sum(one != other for one, other in pairwise(streams))
    if changes < len(set(streams)):
        raise peer.failed("pieces of the streams in turns", f"one stream after the other: {streams[:12]}")
