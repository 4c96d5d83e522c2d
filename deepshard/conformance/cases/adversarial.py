"""Peers that mean harm: cut off anywhere, half open, slow, too many; and the target serves the others still."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import trio

from deepshard.conformance import expect
from deepshard.conformance import packets as wire
from deepshard.conformance.harness import Harness
from deepshard.conformance.peer import Ended, RawPeer
from deepshard.conformance.registry import Lane, Level, case
from deepshard.conformance.target import connect
from deepshard.errors import UsageError
from deepshard.limits import DATA_BYTES_MAX
from deepshard.primitives import content_digest, expand
from deepshard.wire.messages import BlobReply, BlobStatus, Status

FLOOD = 1000
FLOODERS = 20
GOOD_S = 1.0
GOOD_PEERS = 3
UNKNOWN_KIND = 60_000
TOGETHER = 16
"""Cut-off connections at a time: the target allows only so many from one address."""


async def _each_length(harness: Harness, lengths: range, cut_off: Callable[[int], object]) -> None:
    """Do the same with every length, some at a time; the target must close each and serve others after."""
    limiter = trio.CapacityLimiter(TOGETHER)

    async def one(length: int) -> None:
        async with limiter:
            await cut_off(length)  # type: ignore[misc]

    async with trio.open_nursery() as nursery:
        for length in lengths:
            nursery.start_soon(one, length)
    harness.must_still_serve = True


async def _ends(peer: RawPeer, what: str) -> None:
    """After our end of file the target closes, too, soon."""
    await peer.end_sending()
    peer.note(what)
    try:
        with trio.fail_after(peer.timeout_s):
            while True:
                await peer.read_exactly(1)
    except Ended:
        await peer.close()
    except trio.TooSlowError:
        raise peer.failed("the connection closed after our end of file", "still open") from None


@case("4.5/5", "4.1/2", title="HELLO cut off at every byte")
async def hello_cut_off(harness: Harness) -> None:
    size = len((await harness.dial()).dialler.hello())

    async def cut_off(length: int) -> None:
        peer = await harness.dial()
        await peer.send_bytes(peer.dialler.hello()[:length])
        await _ends(peer, f"{length} bytes of HELLO and the end")

    await _each_length(harness, range(size), cut_off)


@case("4.5/5", title="FINISH cut off at every byte")
async def finish_cut_off(harness: Harness) -> None:
    probe = await harness.dial()
    await probe.say_hello()
    size = len(probe.dialler.finish())

    async def cut_off(length: int) -> None:
        peer = await harness.dial()
        await peer.say_hello()
        await peer.send_bytes(peer.dialler.finish()[:length])
        await _ends(peer, f"{length} bytes of FINISH and the end")

    await _each_length(harness, range(size), cut_off)


@case(
    "5.1/4",
    title="a packet cut off at {} is no packet",
    each={
        "its size": 2,
        "the end of its size": 4,
        "its first byte": 5,
        "the middle of its box": 60,
        "its tag": -20,
        "its last byte": -1,
    },
)
async def packet_cut_off(harness: Harness, at: int) -> None:
    peer = await harness.link()
    packet = peer.out.seal(peer.frame(Status(0)).start)
    await peer.send_bytes(packet[:at])
    await _ends(peer, f"{len(packet[:at])} of {len(packet)} bytes of a packet, and the end")
    harness.must_still_serve = True


@case("5.2/6", title="a frame cut off between its packets is dropped with the link")
async def frame_cut_off(harness: Harness) -> None:
    peer = await harness.link()
    data = expand(b"cut off", "conformance", 200_000)
    frame = peer.frame(BlobReply(1, content_digest(data), BlobStatus.FOUND), attachment=data)
    await peer.send(frame.start)
    await peer.send(frame.pieces()[0])
    await _ends(peer, "half an attachment, and the end")
    harness.must_still_serve = True


@case(
    "4.5/1",
    title="bytes that are no protocol are refused: {}",
    each={
        "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "TLS": bytes.fromhex("16030100fa010000f60303") + bytes(250),
        "SSH": b"SSH-2.0-OpenSSH_9.0\r\n",
        "zeros": bytes(4096),
        "ones": b"\xff" * 4096,
    },
)
async def another_protocol(harness: Harness, data: bytes) -> None:
    peer = await harness.dial()
    await peer.send_bytes(data, f"{len(data)} bytes of another protocol")
    try:
        with trio.fail_after(12 + peer.timeout_s):
            while True:
                await peer.read_exactly(1)
    except Ended:
        harness.must_still_serve = True
    except trio.TooSlowError:
        raise peer.failed("the connection closed", "still open") from None


@case("4.3/2", title="random bytes for every message of the handshake are refused")
async def random_handshakes(harness: Harness) -> None:
    for number in range(24):
        peer = await harness.dial()
        noise = expand(number.to_bytes(4, "little"), "conformance noise", 300)
        await peer.send_bytes(len(noise).to_bytes(2, "little") + bytes((1, 2)) + noise[2:], "HELLO of random bytes")
        await harness.handshake_refused(peer)
        await peer.close()


@case("5.1/4", title="random bytes for packets are refused")
async def random_packets(harness: Harness) -> None:
    for number in range(8):
        peer = await harness.link()
        noise = expand(number.to_bytes(4, "little"), "conformance noise", 300)
        await peer.send_bytes((200).to_bytes(4, "little") + noise, "a packet of random bytes")
        await harness.refused(peer, "TamperedFrame")
        await peer.close()


@case("5.1/5", title="random plain texts, rightly sealed, never break the target")
async def random_plain(harness: Harness) -> None:
    """Each is refused or, where it happens to be a packet, taken: what counts is that others are served after."""
    for number in range(32):
        peer = await harness.link()
        noise = expand(number.to_bytes(4, "little"), "conformance plain", 40 + 5 * number)
        await peer.send(bytes((number % 9,)) + noise, "a random packet")
        await expect.closed(peer)
        await peer.close()
    harness.must_still_serve = True


@case("5.4/5", title="a body that comes a byte in each packet is taken")
async def byte_per_packet(harness: Harness) -> None:
    peer = await harness.link()
    frame = peer.frame((UNKNOWN_KIND, bytes(DATA_BYTES_MAX + 2000)))
    await peer.send(frame.start)
    await peer.send_together(frame.pieces(1), "a body whose last 2000 bytes come one by one")
    await expect.alive(peer)


@case("5.4/7", title="frames that never end on many links leave room for others", level=Level.SHOULD)
async def unfinished_frames(harness: Harness) -> None:
    for _ in range(8):
        peer = await harness.link()
        await peer.send(
            peer.frame((UNKNOWN_KIND, bytes(4 << 20)))._replace(rest=b"").start, "a body of 4 MiB, never sent"
        )
        await expect.alive(peer)
    good = await harness.link()
    data = expand(b"good", "conformance", 300_000)
    await good.say(BlobReply(1, content_digest(data), BlobStatus.FOUND), data)
    await expect.alive(good)


@case(
    "4.5/3",
    title=f"{FLOOD} connections that never finish their handshake don't keep a good peer out",
    level=Level.SHOULD,
    lane=Lane.ALONE,
)
async def flood(harness: Harness) -> None:
    """While they are open a good peer must be in within a second.

    On a slow machine the first ones have timed out when the last ones are open: so another few hundred come at the end.
    A first good peer waits behind them until the target has accepted them all. Those after it are timed, of which one
    has to be fast: what else the machine does isn't the target's fault.
    """
    _allow_files(2 * FLOOD)
    streams: list[trio.SocketStream] = []
    try:
        for count in (FLOOD, FLOOD // 2):
            async with trio.open_nursery() as nursery:
                for _ in range(FLOODERS):
                    nursery.start_soon(_open_many, harness, streams, count // FLOODERS)
        patient = await harness.dial()
        patient.timeout_s *= 3
        patient.note(f"{len(streams)} connections that say half a HELLO, then a good one")
        await patient.shake_hands()
        await expect.taken_in(patient)
        took: list[float] = []
        while not took or (min(took) > GOOD_S and len(took) < GOOD_PEERS):
            peer = await harness.dial()
            peer.note(f"{len(streams)} connections that say half a HELLO, then a good one")
            began = time.monotonic()
            await peer.shake_hands()
            await expect.taken_in(peer)
            took.append(time.monotonic() - began)
            await expect.alive(peer)
        if min(took) > GOOD_S:
            raise peer.failed(f"a good peer taken in within {GOOD_S:g} s", ", ".join(f"{each:.2f} s" for each in took))
    finally:
        with trio.CancelScope(shield=True):
            for stream in streams:
                await trio.aclose_forcefully(stream)
    harness.must_still_serve = True


def _allow_files(count: int) -> None:
    """Let this process hold so many connections, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _open_many(harness: Harness, streams: list[trio.SocketStream], count: int) -> None:
    for number in range(count):
        try:
            stream = await connect(harness.target.endpoint, harness.target.timeout_s)
        except UsageError:
            continue
        streams.append(stream)
        try:
            await stream.send_all(b"\x80\x00\x01"[: number % 4])
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            continue


@case("5.1/2", title="a link goes on while others are torn down around it")
async def among_the_torn(harness: Harness) -> None:
    steady = await harness.link()
    for number in range(10):
        other = await harness.link()
        await other.send_bytes(other.out.seal(wire.ping(1), key=bytes((number,)) * 32), "a packet that doesn't open")
        await harness.refused(other, "TamperedFrame")
        await other.close()
        if number % 5 == 0:
            await expect.alive(steady)
    await expect.alive(steady)
