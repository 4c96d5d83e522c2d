"""Chapters 4 and 5 with the target as dialler: the suite listens."""

from __future__ import annotations

from typing import Any

import trio

from deepshard.conformance import expect
from deepshard.conformance import packets as wire
from deepshard.conformance.cases.handshake_messages import LOW_ORDER
from deepshard.conformance.harness import Harness
from deepshard.conformance.opening import DIALLER_TAG, FINISH, HELLO, REFUSAL, REPLY, message
from deepshard.conformance.peer import Ended, RawPeer
from deepshard.conformance.registry import Lane, Level, Side, case
from deepshard.encoding import encode
from deepshard.identity import SecretKey
from deepshard.limits import HANDSHAKE_MESSAGE_BYTES_MAX, HANDSHAKE_TIMEOUT_S, STREAM_CREDIT_BYTES
from deepshard.primitives import expand
from deepshard.wire.handshake import PROTOCOL_VERSION
from deepshard.wire.messages import Status

OTHER = SecretKey(expand(b"somebody else", "conformance", 32))
LISTENER = Side.LISTENER
SILENT_S = 0.7


async def _hello(harness: Harness) -> RawPeer:
    """The target dials and says HELLO."""
    peer = await harness.accept()
    peer.listener.take_hello(await peer.expect_handshake_message(), peer.witness)
    return peer


async def _finished(harness: Harness) -> RawPeer:
    """The handshake is done; packet 0 is the suite's to send."""
    peer = await harness.accept()
    await peer.shake_hands()
    return peer


@case("4.2/3", "4.4/1", title="the target dials, shakes hands and answers", side=LISTENER)
async def dials(harness: Harness) -> None:
    await expect.alive(await _finished(harness))


@case("4.3/2", title="the target dials with the key that it listens with", side=LISTENER)
async def one_identity(harness: Harness) -> None:
    peer = await _finished(harness)
    if peer.opening.identity.public_key != harness.target.key:
        raise peer.failed(f"the key {harness.target.key.hex()}", peer.opening.identity.public_key.hex())


@case(
    "4.2/1", "4.2/2", title="the target makes a new ephemeral key and nonce for each connection it opens", side=LISTENER
)
async def fresh_secrets(harness: Harness) -> None:
    one, other = await _hello(harness), await _hello(harness)
    hellos = (one.opening.theirs, other.opening.theirs)
    if hellos[0].ephemeral == hellos[1].ephemeral or hellos[0].nonce == hellos[1].nonce:
        raise other.failed("another ephemeral key and nonce", "the same again")


@case("4.5/4", "5.9/1", title="the dialler sends nothing after FINISH until packet 0", side=LISTENER)
async def waits_for_packet_0(harness: Harness) -> None:
    peer = await _finished(harness)
    peer.note("no packet 0 yet")
    with trio.move_on_after(SILENT_S):
        packet = await peer.read()
        raise peer.failed("nothing before packet 0", packet.name)
    await expect.alive(peer)


@case("5.9/2", title="the dialler's first packet is PING", side=LISTENER, level=Level.SHOULD)
async def dialler_pings(harness: Harness) -> None:
    peer = await _finished(harness)
    await peer.send(wire.ping(1), "PING as packet 0")
    kinds = [(await expect.until(peer, lambda _: True, "a packet")).kind for _ in range(2)]
    if wire.PING not in kinds:
        raise peer.failed("PING among the first packets", " and ".join(wire.TYPE_NAMES[kind] for kind in kinds))


@case(
    "5.9/1",
    title="another first packet than PING or GOODBYE is refused: {}",
    side=LISTENER,
    each={
        "PONG": wire.pong(0),
        "CREDIT": wire.credit(1, STREAM_CREDIT_BYTES),
        "REKEY": wire.control(wire.REKEY),
        "STREAMS": wire.streams(100),
        "DATA": wire.data(1, b"x"),
        "FRAME": b"",
    },
)
async def another_first_packet(harness: Harness, plain: bytes) -> None:
    peer = await _finished(harness)
    sent = plain or peer.frame(Status(0)).start
    await peer.send(sent, f"{wire.TYPE_NAMES[sent[0]]} as packet 0")
    await _closed(harness, peer)


async def _closed(harness: Harness, peer: RawPeer) -> None:
    harness.must_still_serve = True
    try:
        with trio.fail_after(peer.timeout_s):
            while True:
                packet = await peer.read()
                if packet.kind == wire.PONG:
                    raise peer.failed("the link closed", "PONG")
    except Ended:
        return
    except trio.TooSlowError:
        raise peer.failed(f"the link closed within {peer.timeout_s:g} s", "the link stayed open") from None


@case("5.9/1", title="GOODBYE as packet 0 ends the connection: reason {}", side=LISTENER, each=[1, 2, 3, 4, 6, 999])
async def goodbye_first(harness: Harness, reason: int) -> None:
    peer = await _finished(harness)
    await peer.send(wire.goodbye(reason, b"no"), f"GOODBYE {reason} as packet 0")
    await _closed(harness, peer)


@case(
    "4.1/2",
    title="a REPLY of {} bytes is refused by its length",
    side=LISTENER,
    each=[0, 1, HANDSHAKE_MESSAGE_BYTES_MAX + 1, 65535],
)
async def length_of_reply(harness: Harness, size: int) -> None:
    peer = await _hello(harness)
    await peer.send_bytes(size.to_bytes(2, "little"), f"the length {size} alone")
    await harness.handshake_refused(peer)


@case("4.1/3", "4.5/1", title="an answer of kind {} is refused", side=LISTENER, each=[0, HELLO, FINISH, 4, 254])
async def kind_of_reply(harness: Harness, kind: int) -> None:
    peer = await _hello(harness)
    reply = peer.listener.reply()
    await peer.send_bytes(reply[:2] + bytes((kind,)) + reply[3:], f"REPLY under the kind {kind}")
    await harness.handshake_refused(peer)


@case("4.1/4", title="REPLY of version {} gets REFUSAL unsupported-version", side=LISTENER, each=[0, 1, 3, 255])
async def version_of_reply(harness: Harness, version: int) -> None:
    peer = await _hello(harness)
    reply = peer.listener.reply()
    await peer.send_bytes(reply[:3] + bytes((version,)) + reply[4:], f"REPLY of version {version}")
    await harness.handshake_refused(peer, reason="unsupported-version")


@case(
    "4.2/3",
    "4.6/1",
    title="REPLY of another network gets REFUSAL: {}",
    side=LISTENER,
    each={
        "chain id": ({"chain_id": "another"}, "chain-mismatch"),
        "genesis hash": ({"genesis_hash": bytes(32)}, "genesis-mismatch"),
    },
)
async def another_network(harness: Harness, entry: tuple[dict[str, object], str]) -> None:
    changed, reason = entry
    peer = await _hello(harness)
    await peer.send_bytes(peer.listener.reply(hello=changed), f"REPLY with other {', '.join(changed)}")
    await harness.handshake_refused(peer, reason=reason)


@case(
    "4.1/5",
    title="REPLY with {} is refused",
    side=LISTENER,
    each={
        "a nonce of 31 bytes": {"nonce": bytes(31)},
        "nine features": {"features": ("f",) * 9},
        "an ephemeral as text": {"ephemeral": "x" * 32},
    },
)
async def fields_of_reply(harness: Harness, changed: dict[str, object]) -> None:
    peer = await _hello(harness)
    await peer.send_bytes(peer.listener.reply(hello=changed), f"REPLY with other {', '.join(changed)}")
    await harness.handshake_refused(peer)


@case("4.2/6", title="a REPLY with an ephemeral key of low order is refused: {}", side=LISTENER, each=LOW_ORDER)
async def low_order_reply(harness: Harness, point: bytes) -> None:
    peer = await _hello(harness)
    record = peer.listener.hello_record(ephemeral=point)
    await peer.send_bytes(peer.listener.reply_of(record, bytes(200)), f"REPLY with ephemeral {point.hex()}")
    await harness.handshake_refused(peer)


@case(
    "4.3/4",
    title="a REPLY whose identity isn't right is refused: {}",
    side=LISTENER,
    each={
        "the dialler's tag": {"tag": DIALLER_TAG},
        "signed by another key": {"signer": OTHER},
        "a signature of zeros": {"signature": bytes(64)},
        "a signature over nothing": {"signed": b""},
        "sealed with other associated data": {"associated": b""},
        "sealed with a key of zeros": {"key": bytes(32)},
        "nothing in the box": {"record": lambda _claims, _signature: b""},
        "a key of 31 bytes": {"claims": encode((bytes(31), (), ""))},
    },
)
async def identity_of_reply(harness: Harness, changed: dict[str, Any]) -> None:
    peer = await _hello(harness)
    await peer.send_bytes(peer.listener.reply(**changed), "REPLY with another box")
    await harness.handshake_refused(peer)


@case("4.3/4", title="a REPLY with a box of {} bytes is refused", side=LISTENER, each=[0, 31, 32, 500])
async def box_of_reply(harness: Harness, size: int) -> None:
    peer = await _hello(harness)
    await peer.send_bytes(
        peer.listener.reply_of(peer.listener.hello_record(), bytes(size)), f"REPLY with {size} zeros for a box"
    )
    await harness.handshake_refused(peer)


@case("4.4/1", title="a REPLY changed on its way fails the handshake", side=LISTENER)
async def changed_reply(harness: Harness) -> None:
    peer = await _hello(harness)
    opening = peer.listener
    right = opening.reply()
    meant, said = opening.hello_record(), opening.hello_record(features=("added",))
    await peer.send_bytes(message(REPLY, right[4:].replace(meant, said)), "REPLY, a feature added on its way")
    await harness.handshake_refused(peer)


@case("4.5/1", title="the target's own HELLO sent back is refused", side=LISTENER)
async def reflected_hello(harness: Harness) -> None:
    peer = await harness.accept()
    payload = await peer.expect_handshake_message()
    await peer.send_bytes(len(payload).to_bytes(2, "little") + payload, "the target's own HELLO")
    await harness.handshake_refused(peer)


@case("4.6/3", title="REFUSAL of version {} is read", side=LISTENER, each=[0, PROTOCOL_VERSION, 255])
async def refusal(harness: Harness, version: int) -> None:
    peer = await _hello(harness)
    record = encode(("chain-mismatch", "\x1b[2J", "x" * 80))
    await peer.send_bytes(message(REFUSAL, record, version=version), f"REFUSAL of version {version}")
    await harness.handshake_refused(peer)


@case("4.5/2", title="a listener that doesn't answer is given up in time", side=LISTENER, lane=Lane.WAITING)
async def silent_listener(harness: Harness) -> None:
    peer = await _hello(harness)
    peer.note("no answer to HELLO")
    await harness.handshake_refused(peer, within_s=HANDSHAKE_TIMEOUT_S + peer.timeout_s)


@case("4.5/2", title="a listener that sends no packet 0 is given up in time", side=LISTENER, lane=Lane.WAITING)
async def no_packet_0(harness: Harness) -> None:
    peer = await _finished(harness)
    peer.note("no packet 0")
    peer.timeout_s += HANDSHAKE_TIMEOUT_S
    await _closed(harness, peer)


@case("4.3/6", "4.6/1", title="the target that meets itself says self-connection", side=LISTENER)
async def meets_itself(harness: Harness) -> None:
    """The suite passes the bytes between a connection that the target opens and one to the target."""
    outward = await harness.accept()
    inward = await harness.dial()
    hello = await outward.expect_handshake_message()
    await inward.send_bytes(len(hello).to_bytes(2, "little") + hello, "the target's HELLO, passed on to itself")
    reply = await inward.expect_handshake_message()
    await outward.send_bytes(len(reply).to_bytes(2, "little") + reply, "the target's REPLY, passed on to itself")
    await harness.handshake_refused(outward, reason="self-connection")


@case("4.4/3", title="tampering with the listener's packets is noticed", side=LISTENER)
async def tampered(harness: Harness) -> None:
    peer = await _finished(harness)
    await expect.alive(peer)
    packet = bytearray(peer.out.seal(wire.ping(5)))
    packet[-1] ^= 1
    await peer.send_bytes(bytes(packet), "a PING with a bit flipped")
    await harness.refused(peer, "TamperedFrame")


@case(
    "4.7/3",
    title="of two links, one dialled by each side, the one dialled by the smaller key stays",
    side=LISTENER,
    level=Level.SHOULD,
)
async def both_dialled(harness: Harness) -> None:
    """The target has dialled the suite; then the suite dials with the same key."""
    theirs = await _finished(harness)
    await expect.alive(theirs)
    ours = await harness.dial(theirs.me)
    await ours.shake_hands()
    ours.note("a second link, dialled by the other side")
    if theirs.me.key.public < harness.target.key:
        await expect.taken_in(ours)
        await expect.closed(theirs, reason=7)
        await expect.alive(ours)
    else:
        await expect.refused_after_finish(ours, reason=1)
        await expect.alive(theirs)
