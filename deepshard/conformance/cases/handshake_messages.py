"""Chapter 4.1 and 4.2: messages and HELLO, with the target as listener."""

from __future__ import annotations

import trio
from nacl.bindings import crypto_scalarmult_base

from deepshard.conformance import expect
from deepshard.conformance.harness import Harness
from deepshard.conformance.opening import FINISH, HELLO, REFUSAL, REPLY, Self, message, read_refusal
from deepshard.conformance.peer import RawPeer
from deepshard.conformance.registry import case
from deepshard.encoding import encode
from deepshard.limits import HANDSHAKE_MESSAGE_BYTES_MAX
from deepshard.wire.handshake import PROTOCOL_VERSION

P = 2**255 - 19
LOW_ORDER = {
    "zero": bytes(32),
    "one": (1).to_bytes(32, "little"),
    "order 8, first": bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    "order 8, second": bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    "p - 1": (P - 1).to_bytes(32, "little"),
    "p": P.to_bytes(32, "little"),
    "p + 1": (P + 1).to_bytes(32, "little"),
    "zero with the highest bit": bytes(31) + b"\x80",
    "one with the highest bit": b"\x01" + bytes(30) + b"\x80",
}
"""Every encoding of u-coordinates of low order on Curve25519 and its twist, two of them with the bit that is masked."""

BAD_HELLO_FIELDS: dict[str, dict[str, object]] = {
    "chain_id of 65 characters": {"chain_id": "x" * 65},
    "chain_id as bytes": {"chain_id": b"chain"},
    "chain_id nil": {"chain_id": None},
    "genesis_hash of 31 bytes": {"genesis_hash": bytes(31)},
    "genesis_hash of 33 bytes": {"genesis_hash": bytes(33)},
    "genesis_hash as text": {"genesis_hash": "0" * 32},
    "ephemeral of 31 bytes": {"ephemeral": bytes(31)},
    "ephemeral of 33 bytes": {"ephemeral": bytes(33)},
    "nonce of 31 bytes": {"nonce": bytes(31)},
    "nonce of 33 bytes": {"nonce": bytes(33)},
    "nine features": {"features": ("f",) * 9},
    "a feature of 17 characters": {"features": ("f" * 17,)},
    "a feature as an integer": {"features": (1,)},
    "features nil": {"features": None},
    "features as a map": {"features": {"f": 1}},
}


async def _first(harness: Harness, data: bytes, note: str) -> RawPeer:
    peer = await harness.dial()
    await peer.send_bytes(data, note)
    return peer


@case("4.1/2", title="a length of {} is refused at once", each=[0, 1, HANDSHAKE_MESSAGE_BYTES_MAX + 1, 32768, 65535])
async def length_of_hello(harness: Harness, size: int) -> None:
    await harness.handshake_refused(await _first(harness, size.to_bytes(2, "little"), f"the length {size} alone"))


@case(
    "4.1/2", title="after REPLY, a length of {} is refused at once", each=[0, 1, HANDSHAKE_MESSAGE_BYTES_MAX + 1, 65535]
)
async def length_of_finish(harness: Harness, size: int) -> None:
    peer = await harness.dial()
    await peer.say_hello()
    await peer.send_bytes(size.to_bytes(2, "little"), f"the length {size} alone")
    await harness.handshake_refused(peer)


@case("4.1/3", title="a first message of kind {} is refused", each=[0, REPLY, FINISH, 4, 128, 254])
async def kind_of_first_message(harness: Harness, kind: int) -> None:
    peer = await harness.dial()
    await peer.send_bytes(message(kind, peer.opening.hello_record()), f"a message of kind {kind} with a Hello")
    await harness.handshake_refused(peer)


@case("4.1/3", title="after REPLY, a message of kind {} is refused", each=[0, HELLO, REPLY, 4, 254])
async def kind_of_second_message(harness: Harness, kind: int) -> None:
    peer = await harness.dial()
    await peer.say_hello()
    finish = peer.dialler.finish()
    await peer.send_bytes(finish[:2] + bytes((kind,)) + finish[3:], f"FINISH under the kind {kind}")
    await harness.handshake_refused(peer)


@case("4.1/4", title="HELLO of version {} gets REFUSAL unsupported-version", each=[0, 1, 3, 127, 255])
async def version_of_hello(harness: Harness, version: int) -> None:
    peer = await harness.dial()
    await peer.send_bytes(message(HELLO, peer.opening.hello_record(), version=version), f"HELLO of version {version}")
    await harness.handshake_refused(peer, reason="unsupported-version")


@case(
    "4.1/4",
    title="HELLO of another version is refused for that, whatever its record is: {}",
    each={
        "none": b"",
        "a byte": b"\xc1",
        "a map": b"\x80",
        "a Hello with a field more": encode(("x", bytes(32), 1, 2, 3, 4)),
    },
)
async def version_before_record(harness: Harness, record: bytes) -> None:
    peer = await _first(harness, message(HELLO, record, version=PROTOCOL_VERSION + 1), "HELLO of the next version")
    await harness.handshake_refused(peer, reason="unsupported-version")


@case("4.1/4", title="FINISH of another version gets REFUSAL unsupported-version")
async def version_of_finish(harness: Harness) -> None:
    peer = await harness.dial()
    await peer.say_hello()
    finish = peer.dialler.finish()
    await peer.send_bytes(finish[:3] + bytes((PROTOCOL_VERSION + 1,)) + finish[4:], "FINISH of the next version")
    await harness.handshake_refused(peer, reason="unsupported-version")


@case("4.1/5", "2.3/2", title="HELLO with {} is refused", each=BAD_HELLO_FIELDS)
async def fields_of_hello(harness: Harness, changed: dict[str, object]) -> None:
    peer = await harness.dial()
    await peer.send_bytes(
        message(HELLO, peer.opening.hello_record(**changed)), f"HELLO with other {', '.join(changed)}"
    )
    await harness.handshake_refused(peer)


def _longer_forms(record: bytes) -> dict[str, bytes]:
    """The same Hello in forms that aren't canonical; its first five bytes are list, then the chain id."""
    chain = record[1] & 0x1F
    return {
        "a byte after it": record + b"\x00",
        "a list in three bytes": b"\xdc\x00\x05" + record[1:],
        "a list in five bytes": b"\xdd\x00\x00\x00\x05" + record[1:],
        "text in a longer form": record[:1] + bytes((0xD9, chain)) + record[2:],
        "bytes in a longer form": record.replace(b"\xc4\x20", b"\xc5\x00\x20", 1),
        "a field less": b"\x94" + record[1:-1],
        "a field more": b"\x96" + record[1:] + b"\xc0",
        "its last byte missing": record[:-1],
        "nothing but its first byte": record[:1],
        "text that isn't UTF-8": record[:2] + b"\xff" + record[3:],
        "a surrogate in text": b"\x95\xa3\xed\xa0\x80" + record[2 + chain :],
        "a map for the list": b"\x85" + record[1:],
        "a byte that MessagePack doesn't use": b"\xc1" + record[1:],
        "a list of 2^32 - 1 values": b"\xdd\xff\xff\xff\xff",
        "bytes of 2^32 - 1 bytes": b"\x95\xa1x\xc6\xff\xff\xff\xff",
        "lists within lists": b"\x91" * 900,
    }


@case(
    "4.1/5",
    "2.4/3",
    title="HELLO in another byte form is refused: {}",
    each=list(_longer_forms(b"\x95\xa1x" + bytes(80))),
)
async def form_of_hello(harness: Harness, name: str) -> None:
    peer = await harness.dial()
    record = peer.opening.hello_record()
    if not 0xA0 < record[1] < 0xC0:  # a chain id of 0 or of 32 and more characters has another form
        record = b"\x95" + encode("x") + record[1 + len(encode(peer.opening.network.chain_id)) :]
    await peer.send_bytes(message(HELLO, _longer_forms(record)[name]), f"HELLO with {name}")
    await harness.handshake_refused(peer)


@case(
    "4.1/5",
    title="FINISH with {} is refused",
    each={
        "no field": b"\x90",
        "two fields": b"\x92\xc4\x00\xc4\x00",
        "text for the box": b"\x91\xa1x",
        "nothing": b"",
        "a byte after it": b"\x91\xc4\x00\x00",
        "a map": b"\x80",
    },
)
async def form_of_finish(harness: Harness, record: bytes) -> None:
    peer = await harness.dial()
    await peer.say_hello()
    await peer.send_bytes(message(FINISH, record), "FINISH with another record")
    await harness.handshake_refused(peer)


@case("4.2/1", title="the target makes a new ephemeral key for each connection")
async def fresh_ephemeral(harness: Harness) -> None:
    seen = [await _reply(harness) for _ in range(3)]
    if len({peer.opening.theirs.hello.ephemeral for peer in seen}) < len(seen):
        raise seen[-1].failed("three ephemeral keys", "the same key twice")


@case("4.2/2", title="the target makes a new nonce for each connection")
async def fresh_nonce(harness: Harness) -> None:
    seen = [await _reply(harness) for _ in range(3)]
    if len({peer.opening.theirs.hello.nonce for peer in seen}) < len(seen):
        raise seen[-1].failed("three nonces", "the same nonce twice")


async def _reply(harness: Harness) -> RawPeer:
    peer = await harness.dial()
    await peer.say_hello()
    return peer


@case(
    "4.2/3",
    "4.6/1",
    title="another network gets REFUSAL: {}",
    each={
        "chain id": ({"chain_id": "another-chain"}, "chain-mismatch"),
        "genesis hash": ({"genesis_hash": bytes(32)}, "genesis-mismatch"),
        "both": ({"chain_id": "another-chain", "genesis_hash": bytes(32)}, "chain-mismatch"),
        "an empty chain id": ({"chain_id": ""}, "chain-mismatch"),
        "a chain id of 64 characters": ({"chain_id": "x" * 64}, "chain-mismatch"),
        "a chain id that would steer a terminal": ({"chain_id": "\x1b[2J"}, "chain-mismatch"),
    },
)
async def another_network(harness: Harness, entry: tuple[dict[str, object], str]) -> None:
    changed, reason = entry
    peer = await harness.dial()
    await peer.send_bytes(
        message(HELLO, peer.opening.hello_record(**changed)), f"HELLO with other {', '.join(changed)}"
    )
    await harness.handshake_refused(peer, reason=reason)


@case(
    "4.2/4",
    title="features that the target doesn't know are ignored: {}",
    each={
        "eight": tuple(f"unknown-{number}" for number in range(8)),
        "the longest": ("x" * 16,),
        "one twice": ("x", "x"),
        "an empty name": ("",),
    },
)
async def unknown_features(harness: Harness, features: tuple[str, ...]) -> None:
    fresh = Self.fresh()
    await expect.alive(await harness.link(Self(fresh.key, fresh.roles, "", features)))


@case(
    "4.2/5",
    title="what is wrong first is refused first: {}",
    each={
        "chain id before genesis hash": ({"chain_id": "other", "genesis_hash": bytes(32)}, "chain-mismatch"),
        "chain id before ephemeral key": ({"chain_id": "other", "ephemeral": bytes(32)}, "chain-mismatch"),
        "genesis hash before ephemeral key": ({"genesis_hash": bytes(32), "ephemeral": bytes(32)}, "genesis-mismatch"),
        "record before chain id": ({"chain_id": "other", "nonce": b""}, None),
    },
)
async def order_of_checks(harness: Harness, entry: tuple[dict[str, object], str | None]) -> None:
    changed, reason = entry
    peer = await harness.dial()
    await peer.send_bytes(
        message(HELLO, peer.opening.hello_record(**changed)), f"HELLO with other {', '.join(changed)}"
    )
    await harness.handshake_refused(peer, reason=reason)


@case("4.2/6", "1.7/2", title="an ephemeral key of low order is refused: {}", each=LOW_ORDER)
async def low_order(harness: Harness, point: bytes) -> None:
    peer = await harness.dial()
    await peer.send_bytes(
        message(HELLO, peer.opening.hello_record(ephemeral=point)), f"HELLO with ephemeral {point.hex()}"
    )
    await harness.handshake_refused(peer)


@case("1.7/2", title="the highest bit of an ephemeral key is masked")
async def masked_bit(harness: Harness) -> None:
    peer = await harness.dial()
    key = crypto_scalarmult_base(peer.opening.secret)
    await peer.say_hello(ephemeral=key[:31] + bytes((key[31] | 0x80,)))
    await peer.send_bytes(peer.dialler.finish(), "FINISH")
    peer.use_keys(peer.opening)
    await expect.taken_in(peer)


@case("4.5/5", title="HELLO and FINISH are understood a byte at a time")
async def byte_by_byte(harness: Harness) -> None:
    peer = await harness.dial()
    opening = peer.dialler
    await _drip(peer, opening.hello(), "HELLO")
    opening.take_reply(await peer.expect_handshake_message(), peer.witness)
    await _drip(peer, opening.finish(), "FINISH")
    peer.use_keys(opening)
    await expect.taken_in(peer)


async def _drip(peer: RawPeer, data: bytes, name: str) -> None:
    for at in range(len(data)):
        await peer.send_bytes(data[at : at + 1], f"{name} byte by byte")
        await trio.lowlevel.checkpoint()


@case("4.5/1", "4.6/3", title="REFUSAL of version {} as the first message closes the connection", each=[0, 1, 2, 255])
async def refusal_first(harness: Harness, version: int) -> None:
    record = encode(("banned", "", ""))
    peer = await _first(harness, message(REFUSAL, record, version=version), f"REFUSAL of version {version}")
    await harness.handshake_refused(peer)


@case(
    "4.6/4", title="REFUSAL says what differs: {}", each=["chain-mismatch", "genesis-mismatch", "unsupported-version"]
)
async def facts_of_refusal(harness: Harness, reason: str) -> None:
    network = harness.target.network
    peer = await harness.dial()
    differing: dict[str, dict[str, object]] = {
        "chain-mismatch": {"chain_id": "elsewhere"},
        "genesis-mismatch": {"genesis_hash": bytes(32)},
    }
    changed = differing.get(reason, {})
    version = PROTOCOL_VERSION - 1 if reason == "unsupported-version" else PROTOCOL_VERSION
    await peer.send_bytes(message(HELLO, peer.opening.hello_record(**changed), version=version), f"HELLO for {reason}")
    refusal = read_refusal(await peer.expect_handshake_message())
    facts = {
        "chain-mismatch": (network.chain_id, "elsewhere"),
        "genesis-mismatch": (network.genesis_hash.hex(), "00" * 32),
        "unsupported-version": (f"version {PROTOCOL_VERSION}", f"version {version}"),
    }[reason]
    if (refusal.reason.value, refusal.ours, refusal.theirs) != (reason, *facts):
        got = f"{refusal.reason.value}, ours {refusal.ours!r}, theirs {refusal.theirs!r}"
        raise peer.failed(f"{reason}, ours {facts[0]!r}, theirs {facts[1]!r}", got)
