"""What a case may expect of the target, each with a deadline and a sentence for the report."""

from __future__ import annotations

from collections.abc import Callable
from secrets import randbits
from typing import TypeVar

import trio

from deepshard.conformance import packets as wire
from deepshard.conformance.inbound import Packet
from deepshard.conformance.opening import REFUSAL, read_refusal
from deepshard.conformance.peer import Ended, RawPeer
from deepshard.wire.messages import (
    Blocks,
    BlocksRequest,
    HaveReply,
    HaveRequest,
    Message,
    ProofReply,
    ProofRequest,
)

M = TypeVar("M", bound=Message)
PROBE_AFTER_S = 1.0
"""A link that is still open this long after a violation is asked by PING whether it lives, for the report."""


async def refused(peer: RawPeer, *errors: str, strict: bool) -> None:
    """The target closes the link; under `strict` it says why by GOODBYE 5 and one of these error names (5.8/5).

    Raises:
        ClauseFailed: it doesn't.
    """
    wanted = " or ".join(errors) if errors else "any error"
    expected = f"the link closed within {peer.timeout_s:g} s"
    if strict:
        expected += f", with GOODBYE {wire.PROTOCOL_ERROR} that names {wanted}"
    farewell = await _until_closed(peer, expected)
    if not strict:
        return
    if farewell is None:
        raise peer.failed(expected, "the link was closed without a word")
    said = f"GOODBYE {farewell.number} {farewell.text!r}"
    if farewell.number != wire.PROTOCOL_ERROR or not farewell.text.startswith(errors or ("",)):
        raise peer.failed(expected, said)


async def closed(peer: RawPeer, *, reason: int | None = None) -> Packet | None:
    """The target closes the link, for whatever reason or for this one; gives its GOODBYE.

    Raises:
        ClauseFailed: it doesn't.
    """
    expected = f"the link closed within {peer.timeout_s:g} s"
    if reason is not None:
        expected += f", with GOODBYE {reason}"
    farewell = await _until_closed(peer, expected)
    if reason is not None and (farewell is None or farewell.number != reason):
        got = "no GOODBYE" if farewell is None else f"GOODBYE {farewell.number} {farewell.text!r}"
        raise peer.failed(expected, got)
    return farewell


async def _until_closed(peer: RawPeer, expected: str) -> Packet | None:
    """Read to the end. A PONG alone proves nothing: control packets may be answered before a frame is judged."""
    farewell: Packet | None = None
    probe, is_alive = randbits(63), False
    began = trio.current_time()
    probe_at = began + min(PROBE_AFTER_S, peer.timeout_s / 2)
    for deadline in (probe_at, began + peer.timeout_s):
        with trio.move_on_at(deadline):
            while True:
                try:
                    packet = await peer.read()
                except Ended:
                    return farewell
                if packet.kind == wire.GOODBYE:
                    farewell = packet
                elif packet.kind == wire.PONG and packet.number == probe:
                    is_alive = True
        if deadline == probe_at and farewell is None:
            await peer.send_quietly(wire.ping(probe))
    if farewell:
        got = f"GOODBYE {farewell.number}, but the connection stayed open"
    else:
        got = "the link stayed open" + (": a PING was answered" if is_alive else "")
    raise peer.failed(expected, got)


async def taken_in(peer: RawPeer) -> None:
    """The listener's first PING comes; from now on the dialler may send.

    Raises:
        ClauseFailed: it doesn't.
    """
    await until(peer, lambda packet: packet.kind == wire.PING, "PING, which takes the dialler in")


async def alive(peer: RawPeer, expected: str = "") -> None:
    """The link is up: a PING is answered, and another one. A first one may be answered before a frame is judged.

    Raises:
        ClauseFailed: it isn't.
    """
    wanted = (expected + ", and " if expected else "") + "the link still up: PINGs answered"
    for nonce in (randbits(64), randbits(64)):
        await peer.send_quietly(wire.ping(nonce))
        await until(peer, _is_pong(nonce), wanted)


def _is_pong(nonce: int) -> Callable[[Packet], bool]:
    return lambda packet: packet.kind == wire.PONG and packet.number == nonce


async def unblamed(peer: RawPeer, expected: str) -> None:
    """The link is up, also when the target's services have dealt with all that was sent: they answer what came later.

    Raises:
        ClauseFailed: it isn't.
    """
    waiting: set[type[Message]] = {Blocks, ProofReply, HaveReply}
    notes = list(peer.notes)
    await peer.say(BlocksRequest(randbits(60), 1, 1))
    await peer.say(ProofRequest(randbits(60), b"chain"))
    await peer.say(HaveRequest(randbits(60), (bytes(32),)))
    peer.notes.clear()
    peer.notes.extend(notes)

    def is_last(packet: Packet) -> bool:
        answer = packet.message
        if answer is not None:
            waiting.discard(type(answer))
        return not waiting

    await until(peer, is_last, expected + ", and the link still up: requests answered")
    await alive(peer, expected)


async def until(peer: RawPeer, matches: Callable[[Packet], bool], expected: str) -> Packet:
    """The first packet that matches; messages that come before are kept.

    Raises:
        ClauseFailed: none comes in time, or the target leaves.
    """
    try:
        with trio.fail_after(peer.timeout_s):
            while True:
                packet = await peer.read()
                if matches(packet):
                    return packet
                if packet.kind == wire.GOODBYE:
                    raise peer.failed(expected, f"GOODBYE {packet.number} {packet.text!r}")
                if packet.message is not None:
                    peer.messages.append(packet)
    except trio.TooSlowError:
        raise peer.failed(expected, f"not within {peer.timeout_s:g} s; the last packet was {peer.last_read}") from None
    except Ended as ended:
        raise peer.failed(expected, f"{ended.how} after {peer.last_read}") from None


async def until_or_end(peer: RawPeer, matches: Callable[[Packet], bool]) -> Packet | None:
    """The first packet that matches; None if the target leaves before. Messages that come before are kept.

    Raises:
        ClauseFailed: neither in time.
    """
    try:
        with trio.fail_after(peer.timeout_s):
            while True:
                packet = await peer.read()
                if matches(packet):
                    return packet
                if packet.message is not None:
                    peer.messages.append(packet)
    except trio.TooSlowError:
        raise peer.failed("the next message or the end", f"neither within {peer.timeout_s:g} s") from None
    except Ended:
        return None


async def message(
    peer: RawPeer, kind: type[M], where: Callable[[M], bool] = lambda _: True, *, expected: str = ""
) -> tuple[M, Packet]:
    """The first message of this kind for which `where` holds, also among those kept.

    Raises:
        ClauseFailed: none comes in time, or the target leaves.
    """
    for kept in list(peer.messages):
        if isinstance(kept.message, kind) and where(kept.message):
            peer.messages.remove(kept)
            return kept.message, kept

    def matches(packet: Packet) -> bool:
        return isinstance(packet.message, kind) and where(packet.message)

    packet = await until(peer, matches, expected or f"a {kind.__name__}")
    assert isinstance(packet.message, kind)
    return packet.message, packet


async def no_message(peer: RawPeer, kind: type[M], where: Callable[[M], bool], *, expected: str) -> None:
    """After a PING there and back, no such message has come: what the target would send it has sent.

    Raises:
        ClauseFailed: one has.
    """
    await alive(peer, expected)
    for kept in peer.messages:
        if isinstance(kept.message, kind) and where(kept.message):
            raise peer.failed(expected, f"a {kind.__name__}")


async def handshake_refused(peer: RawPeer, *, reason: str | None = None, within_s: float | None = None) -> None:
    """The target closes during the handshake, with a REFUSAL that says `reason` if one is given.

    Raises:
        ClauseFailed: it goes on, stays silent, or gives another reason.
    """
    patience_s = within_s or peer.timeout_s
    expected = f"the connection closed within {patience_s:g} s"
    if reason is not None:
        expected += f", after a REFUSAL {reason}"
    said: str | None = None
    try:
        with trio.fail_after(patience_s):
            while True:
                payload = await peer.handshake_message()
                if payload[0] != REFUSAL:
                    raise peer.failed(expected, f"a handshake message of kind {payload[0]}")
                said = read_refusal(payload).reason.value
                if reason is None:
                    raise peer.failed(expected + " without a REFUSAL", f"REFUSAL {said}", "4.6/2")
    except Ended:
        if reason is not None and said != reason:
            raise peer.failed(expected, f"REFUSAL {said}" if said else "no REFUSAL") from None
    except trio.TooSlowError:
        raise peer.failed(expected, f"REFUSAL {said}, but still open" if said else "still open, and silent") from None


async def refused_after_finish(peer: RawPeer, *, reason: int | None = None) -> None:
    """The target doesn't take the suite in after its FINISH: no PING comes, but GOODBYE or the end.

    Raises:
        ClauseFailed: it takes it in, or stays silent.
    """
    expected = "no PING but the link closed" if reason is None else f"GOODBYE {reason} instead of PING"
    farewell: Packet | None = None
    try:
        with trio.fail_after(peer.timeout_s):
            while True:
                packet = await peer.read()
                if packet.kind == wire.PING:
                    raise peer.failed(expected, "PING: the target has taken the suite in")
                if packet.kind == wire.GOODBYE:
                    farewell = packet
    except Ended:
        if reason is not None and (farewell is None or farewell.number != reason):
            got = "no GOODBYE" if farewell is None else f"GOODBYE {farewell.number} {farewell.text!r}"
            raise peer.failed(expected, got) from None
    except trio.TooSlowError:
        raise peer.failed(expected, "still open, and silent") from None
