"""Chapter 5.1: packets."""

from __future__ import annotations

from typing import Any

from deepshard.conformance import expect
from deepshard.conformance import packets as wire
from deepshard.conformance.harness import Harness
from deepshard.conformance.inbound import Packet
from deepshard.conformance.peer import RawPeer
from deepshard.conformance.registry import case
from deepshard.limits import DATA_BYTES_MAX, GOODBYE_BYTES_MAX, PACKET_BYTES_MAX, PING_BURST_MAX, STREAM_CREDIT_BYTES

UNKNOWN_KIND = 60_000


@case(
    "5.1/1",
    title="a packet of {} bytes is refused by its size alone",
    each=[PACKET_BYTES_MAX + 1, 1 << 20, 1 << 31, 2**32 - 1],
)
async def oversized_packet(harness: Harness, size: int) -> None:
    peer = await harness.link()
    await peer.send_bytes(size.to_bytes(4, "little"), f"the size {size} alone")
    await harness.refused(peer, "OversizedMessage")


@case("5.1/1", title="a packet of 0 bytes is refused")
async def empty_packet(harness: Harness) -> None:
    peer = await harness.link()
    await peer.send_bytes(bytes(4), "the size 0 alone")
    await harness.refused(peer, "MalformedMessage")


@case("5.1/1", "5.2/5", title="the largest FRAME packet is taken")
async def largest_packet(harness: Harness) -> None:
    peer = await harness.link()
    frame = peer.frame((UNKNOWN_KIND, bytes(DATA_BYTES_MAX)), attachment=b"x", stream=2)
    await peer.send_frame(frame, f"a FRAME packet of {len(frame.start)} bytes")
    await expect.alive(peer)


@case(
    "5.1/2",
    title="a packet sealed otherwise is refused: {}",
    each={
        "number in big-endian": {"nonce": (0x0100).to_bytes(8, "big") + bytes(24)},
        "number behind the zeros": {"nonce": bytes(24) + (1).to_bytes(8, "little")},
        "random nonce": {"nonce": b"\x5a" * 32},
        "no associated data": {"associated": b""},
        "size in big-endian as associated data": {"associated": (9).to_bytes(4, "big")},
        "a key of zeros": {"key": bytes(32)},
    },
)
async def sealed_otherwise(harness: Harness, changed: dict[str, Any]) -> None:
    peer = await harness.link()
    await peer.send_bytes(peer.out.seal(wire.ping(1), **changed), "a PING sealed otherwise")
    await harness.refused(peer, "TamperedFrame")


@case(
    "5.1/3",
    title="a packet number that doesn't follow is refused: {}",
    each={
        "one skipped": 1,
        "a thousand skipped": 1000,
        "2^64 - 1": -1,
    },
)
async def skipped_number(harness: Harness, step: int) -> None:
    peer = await harness.link()
    number = (peer.out.number + step) % 2**64
    await peer.send_bytes(peer.out.seal(wire.ping(1), number=number), f"packet {peer.out.number} numbered {number}")
    await harness.refused(peer, "TamperedFrame")


@case("5.1/3", title="a packet that is sent again is refused")
async def replayed_packet(harness: Harness) -> None:
    peer = await harness.link()
    await expect.alive(peer)
    packet = peer.out.seal(wire.credit(1, STREAM_CREDIT_BYTES))
    await peer.send_bytes(packet + packet, "the same packet twice")
    await harness.refused(peer, "TamperedFrame")


@case("5.1/3", title="two packets in the wrong order are refused")
async def reordered_packets(harness: Harness) -> None:
    peer = await harness.link()
    first, second = peer.out.seal(wire.ping(1)), peer.out.seal(wire.ping(2))
    await peer.send_bytes(second + first, "two PINGs in the wrong order")
    await harness.refused(peer, "TamperedFrame")


@case("5.1/3", "5.6/1", title="numbers don't start again after REKEY")
async def number_after_rekey(harness: Harness) -> None:
    peer = await harness.link()
    await peer.send(wire.control(wire.REKEY))
    await peer.send_bytes(peer.out.seal(wire.ping(0x1234), number=0), "REKEY, then a packet numbered 0")
    await _refused_unanswered(harness, peer, 0x1234)


@case(
    "5.1/4",
    title="a packet with a flipped bit is refused: {}",
    each={
        "first byte of the box": 4,
        "in the middle": 8,
        "first byte of the tag": -32,
        "last byte": -1,
    },
)
async def flipped_packet(harness: Harness, at: int) -> None:
    peer = await harness.link()
    packet = bytearray(peer.out.seal(wire.ping(0x1234)))
    packet[at] ^= 0x10
    await peer.send_bytes(bytes(packet), f"a PING with a bit flipped at {at}")
    await _refused_unanswered(harness, peer, 0x1234)


@case("5.1/4", title="a size changed on its way is noticed: {} bytes", each=[-1, 1])
async def changed_size(harness: Harness, by: int) -> None:
    peer = await harness.link()
    packet = bytearray(peer.out.seal(wire.ping(0x1234)))
    packet[0] += by
    await peer.send_bytes(bytes(packet) + bytes(8), f"a PING whose size is {by:+d}")
    await _refused_unanswered(harness, peer, 0x1234)


async def _refused_unanswered(harness: Harness, peer: RawPeer, nonce: int) -> None:
    """Nothing in a box that doesn't open may be acted on."""
    acted: list[Packet] = []
    peer.on_packet = acted.append
    await harness.refused(peer, "TamperedFrame")
    if any(packet.kind == wire.PONG and packet.number == nonce for packet in acted):
        raise peer.failed("no answer to a PING that doesn't open", "PONG")


@case("5.1/4", title="another direction's packets sent back are refused")
async def reflected_packets(harness: Harness) -> None:
    """The target's own first packet, sealed by it, is no packet of ours."""
    peer = await harness.dial()
    await peer.shake_hands()
    prefix = await peer.read_exactly(4)
    box = await peer.read_exactly(int.from_bytes(prefix, "little") + wire.TAG_BYTES)
    await peer.send_bytes(prefix + box, "the target's own first packet")
    peer.arriving.count(len(box))
    peer.inbound.packets += 1
    await harness.refused(peer, "TamperedFrame")


@case("5.1/5", title="a packet of type {} is refused", each=[0, 9, 10, 127, 128, 129, 255])
async def unknown_type(harness: Harness, kind: int) -> None:
    peer = await harness.link()
    await peer.send(bytes((kind,)) + bytes(8), f"a packet of type {kind}")
    await harness.refused(peer, "MalformedMessage")


@case(
    "5.1/5",
    title="a packet of the wrong length is refused: {}",
    each={
        "CREDIT of 12 bytes": wire.credit(0, STREAM_CREDIT_BYTES)[:12],
        "CREDIT of 14 bytes": wire.credit(0, STREAM_CREDIT_BYTES) + b"\x00",
        "CREDIT without fields": bytes((wire.CREDIT,)),
        "PING of 8 bytes": wire.ping(1)[:8],
        "PING of 10 bytes": wire.ping(1) + b"\x00",
        "PONG of 8 bytes": wire.pong(1)[:8],
        "PONG of 10 bytes": wire.pong(1) + b"\x00",
        "REKEY of 2 bytes": bytes((wire.REKEY, 0)),
        "STREAMS of 4 bytes": wire.streams(100)[:4],
        "STREAMS of 6 bytes": wire.streams(100) + b"\x00",
        "GOODBYE without a reason": bytes((wire.GOODBYE,)),
        "GOODBYE with half a reason": bytes((wire.GOODBYE, 0)),
        "GOODBYE with a text too long": wire.goodbye(0, b"x" * (GOODBYE_BYTES_MAX + 1)),
        "DATA without payload": wire.data(1, b""),
        "DATA of 3 bytes": bytes((wire.DATA, 1, 0)),
        "FRAME without header": bytes((wire.FRAME,)),
        "FRAME with half a header": bytes((wire.FRAME,)) + bytes(15),
        "FRAME without signature": bytes((wire.FRAME,)) + wire.Header(kind=5, stream=0).pack(),
        "FRAME with half a signature": bytes((wire.FRAME,)) + wire.Header(kind=5, stream=0).pack() + bytes(63),
    },
)
async def wrong_length(harness: Harness, plain: bytes) -> None:
    peer = await harness.link()
    await peer.send(plain, f"{wire.TYPE_NAMES[plain[0]]} of {len(plain)} bytes")
    await harness.refused(peer, "MalformedMessage")


@case("5.1/5", title="a DATA packet with more than DATA_BYTES_MAX is refused")
async def large_data(harness: Harness) -> None:
    peer = await harness.link()
    frame = peer.frame((UNKNOWN_KIND, bytes(3 * DATA_BYTES_MAX)))
    await peer.send(frame.start, "FRAME of a large body")
    await peer.send(wire.data(1, bytes(DATA_BYTES_MAX + 1)), f"DATA of {DATA_BYTES_MAX + 1} bytes")
    await harness.refused(peer, "MalformedMessage", "OversizedMessage")


@case("5.1/6", "5.4/2", title="control packets need no credit")
async def control_needs_no_credit(harness: Harness) -> None:
    """The suite gives no credit at all, and the target's queue is full of answers: PING is answered all the same."""
    peer = await harness.link()
    peer.gives_credit = False
    for _ in range(PING_BURST_MAX // 4):
        await expect.alive(peer)
