"""Chapters 4.3 to 4.7, with the target as listener: identities, keys, states, refusals."""

from __future__ import annotations

from typing import Any

import trio

from deepshard.conformance import expect
from deepshard.conformance import packets as wire
from deepshard.conformance.harness import Harness
from deepshard.conformance.opening import (
    DIALLER_TAG,
    FINISH,
    HELLO,
    LISTENER_TAG,
    REPLY,
    Self,
    message,
    sealed_claims,
)
from deepshard.conformance.peer import RawPeer
from deepshard.conformance.registry import Lane, Level, case
from deepshard.encoding import encode
from deepshard.identity import SecretKey
from deepshard.limits import HANDSHAKE_TIMEOUT_S
from deepshard.primitives import expand
from deepshard.wire.handshake import Claims
from deepshard.wire.messages import BlocksRequest, Status

OTHER = SecretKey(expand(b"somebody else", "conformance", 32))
L = 2**252 + 27742317777372353535851937790883648493


async def _after_reply(harness: Harness, me: Self | None = None) -> RawPeer:
    peer = await harness.dial(me)
    await peer.say_hello()
    return peer


async def _finish_refused(harness: Harness, peer: RawPeer, box: bytes, note: str) -> None:
    await peer.send_bytes(peer.dialler.finish_of(box), f"FINISH with {note}")
    await harness.handshake_refused(peer)


async def _claims_refused(harness: Harness, note: str, **changed: Any) -> None:  # noqa: ANN401
    peer = await _after_reply(harness)
    opening = peer.dialler
    values = {
        name: value(opening) if callable(value) and name != "record" else value for name, value in changed.items()
    }
    key = values.pop("key", opening.dialler_key)
    transcript = values.pop("transcript", opening.transcript)
    tag = values.pop("tag", DIALLER_TAG)
    await _finish_refused(harness, peer, sealed_claims(peer.me, key, transcript, tag, **values), note)


@case(
    "4.3/2",
    title="a box sealed otherwise is refused: {}",
    each={
        "with the listener's key": {"key": lambda opening: opening.listener_key},
        "with a key of zeros": {"key": bytes(32)},
        "with no associated data": {"associated": b""},
        "with t0 as associated data": {"associated": lambda opening: opening.transcript[::-1]},
    },
)
async def box_sealed_otherwise(harness: Harness, changed: dict[str, Any]) -> None:
    await _claims_refused(harness, "a box sealed otherwise", **changed)


@case("4.3/4", title="a box of {} bytes is refused", each=[0, 1, 31, 32, 33, 900])
async def size_of_box(harness: Harness, size: int) -> None:
    await _finish_refused(harness, await _after_reply(harness), bytes(size), f"a box of {size} zero bytes")


@case("4.3/4", title="a box with one bit flipped is refused: {}", each={"first": 0, "middle": 80, "last": -1})
async def flipped_box(harness: Harness, at: int) -> None:
    peer = await _after_reply(harness)
    opening = peer.dialler
    box = bytearray(sealed_claims(peer.me, opening.dialler_key, opening.transcript, DIALLER_TAG))
    box[at] ^= 1
    await _finish_refused(harness, peer, bytes(box), "a flipped bit in its box")


@case(
    "4.3/4",
    title="a box that holds {} is refused",
    each={
        "nothing": lambda _claims, _signature: b"",
        "claims alone": lambda claims, _signature: claims,
        "a field more": lambda claims, signature: b"\x93" + claims + encode(signature) + b"\xc0",
        "a byte after it": lambda claims, signature: b"\x92" + claims + encode(signature) + b"\x00",
        "a signature of 63 bytes": lambda claims, signature: b"\x92" + claims + encode(signature[:63]),
        "a signature in a longer form": lambda claims, signature: b"\x92" + claims + b"\xc5\x00\x40" + signature,
        "a map": lambda _claims, _signature: b"\x80",
    },
)
async def content_of_box(harness: Harness, record: Any) -> None:  # noqa: ANN401
    await _claims_refused(harness, "another record in its box", record=record)


@case(
    "4.3/4",
    "2.3/2",
    title="claims with {} are refused",
    each={
        "a public key of 31 bytes": (bytes(31), (), ""),
        "nine roles": (OTHER.public, ("r",) * 9, ""),
        "a role of 17 characters": (OTHER.public, ("r" * 17,), ""),
        "a listen of 281 characters": (OTHER.public, (), "x" * 281),
        "a field more": (OTHER.public, (), "", 1),
        "a field less": (OTHER.public, ()),
    },
)
async def fields_of_claims(harness: Harness, claims: tuple[object, ...]) -> None:
    await _claims_refused(harness, "other claims", claims=encode(claims), signer=OTHER)


def _of_own(opening: Any) -> bytes:  # noqa: ANN401
    return encode(Claims(opening.me.key.public, opening.me.roles, opening.me.listen))


@case(
    "4.3/3",
    "3.2/1",
    title="a signature for something else is refused: {}",
    each={
        "the listener's tag": {"tag": LISTENER_TAG},
        "the tag of frames": {"tag": "frame"},
        "claims without the transcript": {"signed": _of_own},
        "the transcript without claims": {"signed": lambda opening: opening.transcript},
        "another transcript": {"signed": lambda opening: bytes(32) + _of_own(opening)},
        "nothing": {"signed": b""},
    },
)
async def signature_for_something_else(harness: Harness, changed: dict[str, Any]) -> None:
    await _claims_refused(harness, "a signature for something else", **changed)


@case(
    "4.3/4",
    "3.2/8",
    title="a signature that doesn't hold is refused: {}",
    each={
        "by another key": {"signer": OTHER},
        "zeros": {"signature": bytes(64)},
        "ones": {"signature": b"\xff" * 64},
    },
)
async def signature_that_does_not_hold(harness: Harness, changed: dict[str, Any]) -> None:
    await _claims_refused(harness, "a signature that doesn't hold", **changed)


@case("3.2/4", title="a signature whose S is L too high is refused")
async def malleated_signature(harness: Harness) -> None:
    def malleated(opening: Any) -> bytes:  # noqa: ANN401
        signature: bytes = opening.me.key.sign(DIALLER_TAG, opening.transcript + _of_own(opening))
        return signature[:32] + (int.from_bytes(signature[32:], "little") + L).to_bytes(32, "little")

    await _claims_refused(harness, "a signature with S + L", signature=malleated)


@case(
    "3.2/5",
    title="an identity key of small order is refused: {}",
    each={
        "zero": bytes(32),
        "one": b"\x01" + bytes(31),
        "one with the sign": b"\x01" + bytes(30) + b"\x80",
        "p - 1": (2**255 - 20).to_bytes(32, "little"),
        "p": (2**255 - 19).to_bytes(32, "little"),
        "p + 1": (2**255 - 18).to_bytes(32, "little"),
        "order 8, first": bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        "order 8, second": bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    },
)
async def small_order_identity(harness: Harness, point: bytes) -> None:
    await _claims_refused(
        harness, "an identity key of small order", claims=encode((point, (), "")), signature=b"\x01" + bytes(63)
    )


@case(
    "4.3/8",
    title="a link isn't refused for {}",
    each={
        "a role nobody knows": (("emperor",), ""),
        "eight roles": (tuple(f"role-number-{number}" for number in range(8)), ""),
        "no role": ((), ""),
        "a listen that isn't an address": (("informant",), "not an address"),
        "a listen of 280 characters": (("informant",), "x" * 280),
        "a listen with port 0": (("informant",), "127.0.0.1:0"),
        "a listen in IPv6": (("informant",), "[::1]:1"),
    },
)
async def claims_that_do_not_matter(harness: Harness, entry: tuple[tuple[str, ...], str]) -> None:
    roles, listen = entry
    await expect.alive(await harness.link(Self(Self.fresh().key, roles, listen)))


@case(
    "4.4/1",
    title="a HELLO changed on its way fails the handshake: {}",
    each={
        "features": {"features": ("added",)},
        "nonce": {"nonce": bytes(32)},
    },
)
async def changed_on_its_way(harness: Harness, changed: dict[str, object]) -> None:
    """The target gets one HELLO, the suite's transcript holds another."""
    peer = await harness.dial()
    opening = peer.dialler
    said = opening.hello()
    await peer.send_bytes(message(HELLO, opening.hello_record(**changed)), "HELLO, changed on its way")
    payload = await peer.expect_handshake_message()
    opening.take_reply_blindly(payload, said)
    await peer.send_bytes(opening.finish(), "FINISH of the HELLO that was meant")
    await harness.handshake_refused(peer)


@case("4.4/1", title="a box from another connection is refused")
async def box_of_another_connection(harness: Harness) -> None:
    one, other = await _after_reply(harness), await _after_reply(harness)
    finish = one.dialler.finish()
    await other.send_bytes(finish, "FINISH of another connection")
    await harness.handshake_refused(other)


@case("4.4/3", title="packets under the dialler's keys swapped are refused")
async def swapped_keys(harness: Harness) -> None:
    peer = await harness.link()
    peer.note("PING under the key of the other direction")
    await peer.send_bytes(peer.out.seal(wire.ping(1), key=peer.opening.keys.receive), "PING under the other key")
    await harness.refused(peer, "TamperedFrame")


@case("4.4/4", "5.2/9", title="a frame signed for another session is refused")
async def frame_of_another_session(harness: Harness) -> None:
    one, other = await harness.link(), await harness.link()
    frame = one.frame(Status(0), session_id=other.opening.keys.session_id)
    await one.send_frame(frame, "Status, signed for another session")
    await harness.refused(one, "BadSignature")


@case("4.4/4", title="two links of one key have different session ids and keys")
async def sessions_differ(harness: Harness) -> None:
    one, other = await harness.link(), await harness.link()
    if {*one.opening.keys} & {*other.opening.keys}:
        raise other.failed("other keys and another session id", "some of the same")


@case("4.5/1", title="{} is refused", each={"FINISH before HELLO": FINISH, "REPLY to a listener": REPLY})
async def out_of_turn(harness: Harness, kind: int) -> None:
    peer = await harness.dial()
    record = encode((bytes(200),)) if kind == FINISH else b"\x92" + peer.opening.hello_record() + encode(bytes(200))
    await peer.send_bytes(message(kind, record), f"kind {kind} first")
    await harness.handshake_refused(peer)


@case("4.5/1", title="a second HELLO is refused")
async def second_hello(harness: Harness) -> None:
    peer = await _after_reply(harness)
    await peer.send_bytes(peer.dialler.first, "HELLO again")
    await harness.handshake_refused(peer)


@case("4.5/1", title="a second FINISH is no packet")
async def second_finish(harness: Harness) -> None:
    peer = await harness.link()
    await peer.send_bytes(peer.dialler.finish(), "FINISH again")
    await peer.send_bytes(bytes(2048), "FINISH again, and zeros")
    await harness.refused(peer)


@case("4.5/2", title="a silent connection is closed in time", lane=Lane.WAITING)
async def silent(harness: Harness) -> None:
    peer = await harness.dial()
    peer.note("nothing")
    await _timed_out(harness, peer)


@case(
    "4.5/2",
    title="a connection that stops within HELLO is closed in time: {} bytes",
    each=[1, 2, 40],
    lane=Lane.WAITING,
)
async def half_hello(harness: Harness, size: int) -> None:
    peer = await harness.dial()
    await peer.send_bytes(peer.dialler.hello()[:size], f"{size} bytes of HELLO")
    await _timed_out(harness, peer)


@case("4.5/2", title="a connection without FINISH is closed in time", lane=Lane.WAITING)
async def no_finish(harness: Harness) -> None:
    await _timed_out(harness, await _after_reply(harness))


@case("4.5/2", title="bytes that trickle in don't extend the time", lane=Lane.WAITING)
async def slow_loris(harness: Harness) -> None:
    peer = await harness.dial()
    hello = peer.dialler.hello()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_trickle, peer, hello)
        await _timed_out(harness, peer)
        nursery.cancel_scope.cancel()


async def _trickle(peer: RawPeer, data: bytes) -> None:
    for at in range(len(data) - 1):
        await peer.send_bytes(data[at : at + 1], "HELLO, a byte every half second")
        await trio.sleep(0.5)


async def _timed_out(harness: Harness, peer: RawPeer) -> None:
    await harness.handshake_refused(peer, within_s=HANDSHAKE_TIMEOUT_S + harness.target.timeout_s)


@case("4.6/1", title="who is banned is told so by GOODBYE 2 as packet 0")
async def banned(harness: Harness) -> None:
    me = Self.fresh()
    peer = await harness.link(me)
    await peer.send_frame(peer.frame(Status(0), signature=bytes(64)), "Status with a signature of zeros")
    await harness.refused(peer, "BadSignature")
    again = await harness.dial(me)
    await again.shake_hands()
    again.note("the handshake of a key that has sent a bad signature")
    await expect.refused_after_finish(again, reason=2)


@case("4.7/2", title="of two links that one side dialled the newer one stays", level=Level.SHOULD)
async def newer_link_stays(harness: Harness) -> None:
    me = Self.fresh()
    older = await harness.link(me)
    newer = await harness.link(me)
    older.note("another link with the same key")
    await expect.closed(older, reason=7)
    await expect.alive(newer)
    await newer.say(BlocksRequest(1, 1, 1))
    await expect.alive(newer)
