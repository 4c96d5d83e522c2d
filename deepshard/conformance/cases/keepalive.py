"""Chapters 5.6 to 5.9: rekeying, keep-alive, goodbye, the first packet; the target as listener."""

from __future__ import annotations

import trio

from deepshard.conformance import expect
from deepshard.conformance import packets as wire
from deepshard.conformance.harness import Harness
from deepshard.conformance.opening import Self
from deepshard.conformance.peer import Ended, RawPeer
from deepshard.conformance.registry import Lane, Level, case
from deepshard.limits import (
    DATA_BYTES_MAX,
    GOODBYE_BYTES_MAX,
    LINK_IDLE_TIMEOUT_S,
    PING_BURST_MAX,
    PING_INTERVAL_S,
    PINGS_UNANSWERED_MAX,
    REKEY_PACKETS,
    STREAM_CREDIT_BYTES,
)
from deepshard.wire.messages import Status

UNKNOWN_KIND = 60_000
REKEY = wire.control(wire.REKEY)
NOTHING_NEW = wire.credit(1, STREAM_CREDIT_BYTES)
"""A packet that changes nothing."""


@case("5.6/3", title="REKEY is accepted at any time: {} times in a row", each=[1, 2, 100])
async def rekey(harness: Harness, times: int) -> None:
    peer = await harness.link()
    for _ in range(times):
        await peer.send(REKEY)
    await peer.say(Status(0))
    await expect.alive(peer)


@case("5.6/3", title="REKEY is accepted as the first packet")
async def rekey_first(harness: Harness) -> None:
    peer = await harness.dial()
    await peer.shake_hands()
    peer.answers_pings = False
    first = await expect.until(peer, lambda packet: packet.kind == wire.PING, "PING")
    await peer.send(REKEY)
    await peer.send(wire.pong(first.number))
    peer.answers_pings = True
    await expect.alive(peer)


@case("5.6/3", title="REKEY is accepted within a frame")
async def rekey_within_frame(harness: Harness) -> None:
    peer = await harness.link()
    frame = peer.frame((UNKNOWN_KIND, bytes(DATA_BYTES_MAX + 10)))
    await peer.send(frame.start, "a FRAME that lacks 10 bytes")
    await peer.send(REKEY)
    await peer.send(frame.pieces()[0], "REKEY, then the rest")
    await expect.alive(peer)


@case("5.6/1", title="a packet under the old key after REKEY is refused")
async def old_key(harness: Harness) -> None:
    peer = await harness.link()
    before = peer.out.key
    await peer.send(REKEY)
    await peer.send_bytes(peer.out.seal(wire.ping(1), key=before), "REKEY, then PING under the old key")
    await harness.refused(peer, "TamperedFrame")


@case("5.6/1", title="a packet under the next key without REKEY is refused")
async def next_key(harness: Harness) -> None:
    peer = await harness.link()
    peer.out.rekey()
    await peer.send(wire.ping(1), "PING under the next key, without REKEY")
    await harness.refused(peer, "TamperedFrame")


@case("5.6/3", title="REKEY of one direction doesn't change the other")
async def directions_independent(harness: Harness) -> None:
    """The suite's opener stays with its key: an answer that opens shows that the target's did, too."""
    peer = await harness.link()
    await peer.send(REKEY)
    await expect.alive(peer)
    await expect.alive(peer)


async def _use_up(peer: RawPeer, packets: int) -> None:
    """Seal packets under one key until `packets` were."""
    step = 4096
    while peer.out.packets_under_key < packets:
        count = min(step, packets - peer.out.packets_under_key)
        await peer.send_together([NOTHING_NEW] * count, f"{packets} packets under one key")


@case("5.6/2", title="REKEY_PACKETS packets under one key, REKEY the last, are taken")
async def key_used_up(harness: Harness) -> None:
    peer = await harness.link()
    await _use_up(peer, REKEY_PACKETS - 1)
    await peer.send(REKEY, f"{REKEY_PACKETS} packets under one key, the last of them REKEY")
    await expect.alive(peer)


@case("5.6/2", title="a packet beyond REKEY_PACKETS without REKEY closes the link")
async def key_exhausted(harness: Harness) -> None:
    peer = await harness.link()
    await _use_up(peer, REKEY_PACKETS + 1)
    await harness.refused(peer, "KeyExhausted")


@case(
    "5.7/1",
    title="PING is answered by PONG with the same nonce: {}",
    each={
        "0": 0,
        "1": 1,
        "2^63": 1 << 63,
        "2^64 - 1": 2**64 - 1,
    },
)
async def ping(harness: Harness, nonce: int) -> None:
    peer = await harness.link()
    await peer.send(wire.ping(nonce), f"PING {nonce:#x}")
    pong = await expect.until(peer, lambda packet: packet.kind == wire.PONG, f"PONG {nonce:#x}")
    if pong.number != nonce:
        raise peer.failed(f"PONG {nonce:#x}", f"PONG {pong.number:#x}")


@case("5.7/1", title="PINGs are answered in their order")
async def pings_in_order(harness: Harness) -> None:
    peer = await harness.link()
    nonces = [7, 3, 3, 9, 1, 2**64 - 1, 0, 5][:PINGS_UNANSWERED_MAX]
    await peer.send_together([wire.ping(nonce) for nonce in nonces], f"PINGs {nonces}")
    got = [(await expect.until(peer, lambda packet: packet.kind == wire.PONG, "PONG")).number for _ in nonces]
    if got != nonces:
        raise peer.failed(f"PONGs {nonces}", f"PONGs {got}")


@case("5.7/2", title="a PONG to no PING closes the link")
async def unasked_pong(harness: Harness) -> None:
    peer = await harness.link()
    await peer.send(wire.pong(0x1234), "a PONG that nobody asked for")
    await harness.refused(peer, "UnexpectedMessage")


@case("5.7/2", title="a PONG with another nonce closes the link")
async def wrong_pong(harness: Harness) -> None:
    peer = await harness.dial()
    await peer.shake_hands()
    peer.answers_pings = False
    first = await expect.until(peer, lambda packet: packet.kind == wire.PING, "PING")
    await peer.send(wire.pong(first.number ^ 1), "a PONG with another nonce")
    await harness.refused(peer, "UnexpectedMessage")


@case("5.7/2", title="a second PONG to one PING closes the link")
async def second_pong(harness: Harness) -> None:
    peer = await harness.dial()
    await peer.shake_hands()
    peer.answers_pings = False
    first = await expect.until(peer, lambda packet: packet.kind == wire.PING, "PING")
    await peer.send_together([wire.pong(first.number)] * 2, "two PONGs to one PING")
    await harness.refused(peer, "UnexpectedMessage")


@case("5.7/3", title="PINGs beyond the burst close the link")
async def too_many_pings(harness: Harness) -> None:
    peer = await harness.link()
    plains = [wire.ping(number) for number in range(4 * PING_BURST_MAX)]
    await peer.send_together(plains, f"{len(plains)} PINGs at once")
    await harness.refused(peer, "RateExceeded")


@case("5.7/3", title="PINGs within the burst are answered")
async def ping_burst(harness: Harness) -> None:
    peer = await harness.link()
    for _ in range(PING_BURST_MAX // PINGS_UNANSWERED_MAX):
        plains = [wire.ping(number) for number in range(PINGS_UNANSWERED_MAX)]
        await peer.send_together(plains, f"{len(plains)} PINGs at once")
        for _ in plains:
            await expect.until(peer, lambda packet: packet.kind == wire.PONG, "PONG")


@case("5.7/4", title="after PING_INTERVAL_S of silence comes a PING", level=Level.SHOULD, lane=Lane.WAITING)
async def pings_the_silent(harness: Harness) -> None:
    peer = await harness.link()
    peer.note(f"nothing for {PING_INTERVAL_S:g} s")
    peer.timeout_s += PING_INTERVAL_S
    await expect.until(peer, lambda packet: packet.kind == wire.PING, f"PING after {PING_INTERVAL_S:g} s")


@case("5.7/4", title="after LINK_IDLE_TIMEOUT_S without a byte the link is closed", lane=Lane.WAITING)
async def closes_the_silent(harness: Harness) -> None:
    peer = await harness.link()
    peer.answers_pings = peer.gives_credit = False
    patience_s = LINK_IDLE_TIMEOUT_S + peer.timeout_s
    expected = f"the link closed within {patience_s:g} s"
    peer.note(f"nothing for {LINK_IDLE_TIMEOUT_S:g} s")
    with trio.move_on_after(patience_s):
        await _read_to_the_end(peer)
        return
    raise peer.failed(expected, "the link stayed open")


async def _read_to_the_end(peer: RawPeer) -> None:
    while True:
        try:
            await peer.read()
        except Ended:
            return


@case(
    "5.8/2",
    title="what follows GOODBYE is ignored: {}",
    each={
        "zeros": bytes(200),
        "a size too large": b"\xff" * 4,
        "another packet": b"",
    },
)
async def after_goodbye(harness: Harness, data: bytes) -> None:
    me = Self.fresh()
    peer = await harness.link(me)
    plains = peer.out.seal(wire.goodbye(0, b"bye"))
    await peer.send_bytes(plains + (data or peer.out.seal(wire.pong(1))), "GOODBYE, and more after it")
    await _left_in_peace(harness, peer, me)


@case(
    "5.8/3",
    title="GOODBYE whose text isn't UTF-8 is refused: {}",
    each={
        "a lone byte": b"\xff",
        "a cut character": b"abc\xe2\x82",
        "a surrogate": b"\xed\xa0\x80",
        "too long a form": b"\xc0\x80",
    },
)
async def goodbye_not_text(harness: Harness, text: bytes) -> None:
    peer = await harness.link()
    await peer.send(wire.goodbye(0, text), f"GOODBYE with the text {text.hex()}")
    await harness.refused(peer, "MalformedMessage")


@case("5.8/4", title="GOODBYE with the reason {} is accepted", each=[0, 1, 2, 3, 4, 5, 6, 7, 8, 1000, 65535])
async def goodbye_reason(harness: Harness, reason: int) -> None:
    me = Self.fresh()
    peer = await harness.link(me)
    await peer.send(wire.goodbye(reason, b"for people"), f"GOODBYE {reason}")
    await _left_in_peace(harness, peer, me)


@case(
    "5.8/4",
    title="GOODBYE is accepted {}",
    each={
        "without a text": b"",
        "with the longest text": b"x" * GOODBYE_BYTES_MAX,
        "with a text that isn't printable": b"\x1b[2J\x00\n",
    },
)
async def goodbye_text(harness: Harness, text: bytes) -> None:
    me = Self.fresh()
    peer = await harness.link(me)
    await peer.send(wire.goodbye(0, text), "GOODBYE")
    await _left_in_peace(harness, peer, me)


async def _left_in_peace(harness: Harness, peer: RawPeer, me: Self) -> None:
    """The target closes, doesn't blame, and takes the same key in again."""
    farewell = await expect.closed(peer)
    if farewell is not None and farewell.number == wire.PROTOCOL_ERROR:
        raise peer.failed("the link closed", f"GOODBYE 5 {farewell.text!r}")
    await expect.alive(await harness.link(me))


@case("5.8/1", title="the target closes its direction after a GOODBYE", level=Level.SHOULD)
async def goodbye_is_the_end(harness: Harness) -> None:
    peer = await harness.link()
    await peer.send(wire.pong(1), "a PONG that nobody asked for")
    if await expect.closed(peer) is None:
        raise peer.failed("GOODBYE, then the end", "the end")


@case("5.8/5", title="the target says by GOODBYE 5 which rule was broken", level=Level.SHOULD)
async def goodbye_names_error(harness: Harness) -> None:
    peer = await harness.link()
    await peer.send(wire.pong(1), "a PONG that nobody asked for")
    await expect.refused(peer, "UnexpectedMessage", strict=True)


@case("5.9/1", title="the listener's first packet is PING")
async def first_packet(harness: Harness) -> None:
    peer = await harness.dial()
    await peer.shake_hands()
    first = await expect.until(peer, lambda _: True, "PING")
    if first.kind != wire.PING:
        raise peer.failed("PING", first.name)
