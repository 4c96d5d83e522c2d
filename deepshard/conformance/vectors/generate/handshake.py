"""`handshake.json`: whole handshakes with every derived value, and what each side has to refuse (chapter 4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from deepshard.conformance.vectors.document import Json, accept, digest_of, document, key_of, refuse
from deepshard.conformance.vectors.edwards import P
from deepshard.conformance.vectors.generate import forms
from deepshard.conformance.vectors.generate.dialogue import (
    CHAIN,
    FINISH,
    GENESIS,
    HELLO,
    REPLY,
    TAGS,
    Dialogue,
    Side,
    goodbye,
    message,
    ping,
    refusal,
    side,
)
from deepshard.primitives import tagged_hash

_WHOLE: Final = ("4.1/1", "4.3/1", "4.3/2", "4.3/3", "4.4/1", "4.4/2", "4.4/3", "4.4/4", "5.9/1")
_LENGTH, _KIND, _VERSION, _RECORD, _NETWORK, _LOW, _STATES = (
    ("4.1/2",),
    ("4.1/3",),
    ("4.1/4", "4.6/1", "4.2/5"),
    ("4.1/5",),
    ("4.2/3", "4.6/1", "4.6/4"),
    ("4.2/6", "1.7/2", "4.6/2"),
    ("4.1/3", "4.5/1"),
)
_BOX, _SELF, _EXPECTED, _REFUSALS, _CONFIRM = (
    ("4.3/4", "4.6/2"),
    ("4.3/6", "4.6/1"),
    ("4.3/7", "4.6/1", "4.6/4"),
    ("4.6/3", "4.6/5", "4.6/6"),
    ("5.9/1", "4.5/1"),
)
ALICE: Final = side("dialler", roles=("trainer",), listen="192.0.2.1:7000", features=("b", "a"))
BOB: Final = side("listener", roles=("validator", "informant"), listen="[2001:db8::1]:7000", features=("a", "c"))
LOW_ORDER: Final = (
    0,
    1,
    P - 1,
    P,
    P + 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
"""X25519 public keys that give 0^32 (RFC 7748, section 6.1), with p and p + 1."""


def make() -> Json:
    """The file."""
    groups = (_whole(), _hello_forms(), _networks(), _low_orders(), _states(), _boxes(), _identities())
    return document(
        "handshake",
        "The handshake (chapter 4): whole ones with every derived value, and what each side has to refuse.",
        [case for group in (*groups, _refusals(), _confirmations()) for case in group],
    )


def _whole() -> Iterator[Json]:
    pairs = {
        "two nodes": (ALICE, BOB),
        "nothing claimed": (side("bare dialler"), side("bare listener")),
        "roles and features that nobody knows": (
            side("odd dialler", roles=("\u00fc" * 16,) * 8, listen="nonsense", features=("x" * 16,) * 8),
            side("odd listener", roles=("", "poet"), listen="h" * 280, features=("x" * 16, "y")),
        ),
        "the longest chain id": (
            side("long dialler", chain_id="c" * 64),
            side("long listener", chain_id="c" * 64),
        ),
    }
    for name, (dialler, listener) in pairs.items():
        yield accept(f"whole: {name}", (*_WHOLE, "4.2/4", "4.3/8"), **_derived(Dialogue(dialler, listener)))


def _derived(dialogue: Dialogue) -> Json:
    dialler, listener = dialogue.dialler, dialogue.listener
    first, second, (box_l, box_d) = dialogue.transcripts[0], dialogue.second, dialogue.box_keys
    to_listener, to_dialler, session_id = dialogue.link_keys()
    return {
        "operation": "whole",
        "dialler": dialler.shown(),
        "listener": listener.shown(),
        "dialler_ephemeral": dialler.ephemeral,
        "listener_ephemeral": listener.ephemeral,
        "hello": dialogue.first,
        "shared": dialogue.shared,
        "t0": first,
        "k_l": box_l,
        "k_d": box_d,
        "listener_claims": listener.claims(),
        "listener_signature": dialogue.signature(listener, first, TAGS["listener"]),
        "box_l": dialogue.box_of_listener(),
        "reply": dialogue.reply(),
        "t1": second,
        "dialler_claims": dialler.claims(),
        "dialler_signature": dialogue.signature(dialler, second, TAGS["dialler"]),
        "box_d": dialogue.box_of_dialler(),
        "finish": dialogue.finish(),
        "t2": tagged_hash("handshake end", second, dialogue.box_of_dialler()),
        "to_listener": to_listener,
        "to_dialler": to_dialler,
        "session_id": session_id,
        "features": sorted({*dialler.features} & {*listener.features}),
        "first_packet": dialogue.packet(ping(1), to_listener=False),
    }


def _listening(*received: bytes, who: Side = BOB) -> Json:
    return {"operation": "side", "side": "listener", "local": who.shown(), "received": received}


def _dialling(*received: bytes, who: Side = ALICE, expected: bytes | None = None) -> Json:
    return {
        "operation": "side",
        "side": "dialler",
        "local": who.shown(),
        "expected_key": expected,
        "received": received,
    }


def _bad(name: str, clauses: tuple[str, ...], error: str, fields: Json, sent: bytes = b"", **facts: Any) -> Json:  # noqa: ANN401
    return refuse(name, clauses, error, facts={"sent": sent, **facts}, **fields)


def _hello_forms() -> Iterator[Json]:
    """Lengths, kinds, versions and records, as a listener meets them first and a dialler in REPLY."""
    whole = Dialogue(ALICE, BOB)
    for name, code, error in (
        ("0", "0000", "MalformedMessage"),
        ("1", "0100", "MalformedMessage"),
        ("1025", "0104", "OversizedMessage"),
        ("65535", "ffff", "OversizedMessage"),
    ):
        for fields in (_listening(bytes.fromhex(code)), _dialling(bytes.fromhex(code))):
            yield _bad(f"{fields['side']}: a length of {name}", _LENGTH, error, fields)
    for kind in (0, 4, 254):
        for fields in (_listening(message(kind, b"")), _dialling(message(kind, b""))):
            yield _bad(f"{fields['side']}: kind {kind}", _KIND, "UnexpectedMessage", fields)
    for version in (0, 1, 3, 255):
        told = refusal("unsupported-version", "version 2", f"version {version}")
        for what, record in (("", forms.encoded(ALICE.hello())), (" and no record", b"\xc1")):
            fields = _listening(message(HELLO, record, version))
            reason = {"reason": "unsupported-version"}
            yield _bad(f"listener: version {version}{what}", _VERSION, "HandshakeRefused", fields, told, **reason)
        fields = _dialling(message(REPLY, whole.reply()[4:], version))
        yield _bad(
            f"dialler: version {version}", _VERSION, "HandshakeRefused", fields, told, reason="unsupported-version"
        )
    record = forms.encoded(ALICE.hello())
    wrong: dict[str, bytes] = {
        "nothing": b"",
        "a byte behind it": record + b"\x00",
        "cut short": record[:-1],
        "a field too few": forms.encoded(ALICE.hello()[:-1]),
        "a field too many": forms.encoded([*ALICE.hello(), 0]),
        "a chain id of 65 characters": forms.encoded(["c" * 65, *ALICE.hello()[1:]]),
        "an ephemeral key of 31 bytes": _with(2, bytes(31)),
        "a nonce of 33 bytes": _with(3, bytes(33)),
        "nine features": _with(4, ["f"] * 9),
        "a feature of 17 characters": _with(4, ["f" * 17]),
        "text with a longer head": record.replace(forms.text(CHAIN), forms.text(CHAIN, 1), 1),
    }
    for name, record in wrong.items():
        yield _bad(f"listener: Hello, {name}", _RECORD, "MalformedMessage", _listening(message(HELLO, record)))
    reply = whole.reply()[4:]
    for name, record in (("a byte behind it", reply + b"\x00"), ("cut short", reply[:-1]), ("a Hello", reply[1:-1])):
        yield _bad(f"dialler: Reply, {name}", _RECORD, "MalformedMessage", _dialling(message(REPLY, record)))


def _with(place: int, value: object) -> bytes:
    hello = ALICE.hello()
    hello[place] = value
    return forms.encoded(hello)


def _networks() -> Iterator[Json]:
    other, genesis = "other-chain", digest_of("other genesis")
    cases: list[tuple[str, Json, str, str, str]] = [
        ("another chain", {"chain_id": other}, "chain-mismatch", CHAIN, other),
        ("another genesis", {"genesis_hash": genesis}, "genesis-mismatch", GENESIS.hex(), genesis.hex()),
        ("both", {"chain_id": other, "genesis_hash": genesis}, "chain-mismatch", CHAIN, other),
        ("a chain id with a line break", {"chain_id": "a\nb"}, "chain-mismatch", CHAIN, "a?b"),
    ]
    for name, changes, reason, ours, theirs in cases:
        told = refusal(reason, ours, theirs)
        dialler, listener = replace(ALICE, **changes), replace(BOB, **changes)
        hello = message(HELLO, forms.encoded(dialler.hello()))
        fields = _listening(hello)
        yield _bad(f"listener: {name}", _NETWORK, "HandshakeRefused", fields, told, reason=reason)
        fields = _dialling(Dialogue(ALICE, listener).reply())
        yield _bad(f"dialler: {name}", _NETWORK, "HandshakeRefused", fields, told, reason=reason)


def _low_orders() -> Iterator[Json]:
    for number in LOW_ORDER:
        for high in (0, 1):
            point = (number | high << 255).to_bytes(32, "little")
            name = f"low-order ephemeral {point.hex()[:4]}...{point.hex()[-4:]}"
            hello = message(HELLO, _with(2, point))
            yield _bad(f"listener: {name}", _LOW, "HandshakeFailed", _listening(hello))
            theirs = BOB.hello()
            theirs[2] = point
            reply = message(REPLY, b"\x92" + forms.encoded(theirs) + forms.binary(bytes(200)))
            yield _bad(f"dialler: {name}", _LOW, "HandshakeFailed", _dialling(reply))
    hello = message(HELLO, forms.encoded(["other-chain", GENESIS, bytes(32), bytes(32), []]))
    told, reason = refusal("chain-mismatch", CHAIN, "other-chain"), "chain-mismatch"
    name = "listener: another chain with a low-order ephemeral"
    yield _bad(name, ("4.2/5",), "HandshakeRefused", _listening(hello), told, reason=reason)


def _states() -> Iterator[Json]:
    whole = Dialogue(ALICE, BOB)
    hello, reply, finish = whole.first, whole.reply(), whole.finish()
    early: list[tuple[str, Json, bytes]] = [
        ("listener: REPLY first", _listening(reply), b""),
        ("listener: FINISH first", _listening(finish), b""),
        ("listener: HELLO twice", _listening(hello, hello), reply),
        ("listener: REPLY after HELLO", _listening(hello, reply), reply),
        ("dialler: HELLO", _dialling(hello), b""),
        ("dialler: FINISH", _dialling(finish), b""),
    ]
    for name, fields, sent in early:
        yield _bad(name, _STATES, "UnexpectedMessage", fields, sent)


def _boxes() -> Iterator[Json]:
    whole = Dialogue(ALICE, BOB)
    earlier = Dialogue(replace(ALICE, nonce=digest_of("earlier nonce")), BOB)
    first, second = whole.transcripts[0], whole.second
    box = whole.box_of_listener()
    mallory = side("mallory")
    forged = b"\x92" + BOB.claims() + forms.binary(whole.signature(mallory, first, TAGS["listener"]))
    reflected = whole.signed_claims(BOB, first, TAGS["dialler"])
    replies = [
        ("a bit of the box changed", whole.reply(bytes([box[0] ^ 1]) + box[1:]), "HandshakeFailed"),
        ("an empty box", whole.reply(b""), "HandshakeFailed"),
        ("a box of 31 bytes", whole.reply(box[:31]), "HandshakeFailed"),
        ("the tag alone", whole.reply(box[:32]), "HandshakeFailed"),
        ("a nonce changed on its way", whole.reply().replace(BOB.nonce, digest_of("other")), "HandshakeFailed"),
        ("a feature taken out on its way", _without_features(whole.reply()), "HandshakeFailed"),
        ("a REPLY of an earlier handshake", earlier.reply(), "HandshakeFailed"),
        ("a box with a byte behind the claims", _box(whole, forged[:-64] + bytes(65)), "MalformedMessage"),
        ("a box of no claims", _box(whole, b"\x92"), "MalformedMessage"),
        ("signed by another key", _box(whole, forged), "BadSignature"),
        ("signed as a dialler", _box(whole, reflected), "BadSignature"),
        ("signed over another handshake", _box(whole, _signed(whole, BOB, earlier.transcripts[0])), "BadSignature"),
    ]
    for name, reply, error in replies:
        yield _bad(f"dialler: {name}", _BOX, error, _dialling(reply))
    box, sent = whole.box_of_dialler(), whole.reply()
    forged = b"\x92" + ALICE.claims() + forms.binary(whole.signature(mallory, second, TAGS["dialler"]))
    reflected = whole.signed_claims(ALICE, second, TAGS["listener"])
    finishes = [
        ("a bit of the box changed", whole.finish(bytes([box[0] ^ 1]) + box[1:]), "HandshakeFailed"),
        ("an empty box", whole.finish(b""), "HandshakeFailed"),
        ("a box of 31 bytes", whole.finish(box[:31]), "HandshakeFailed"),
        ("a FINISH of an earlier handshake", earlier.finish(), "HandshakeFailed"),
        ("the listener's own box", whole.finish(whole.box_of_listener()), "HandshakeFailed"),
        ("a box of no claims", whole.finish(whole.box_of_dialler(b"\x92")), "MalformedMessage"),
        ("signed by another key", whole.finish(whole.box_of_dialler(forged)), "BadSignature"),
        ("signed as a listener", whole.finish(whole.box_of_dialler(reflected)), "BadSignature"),
        ("a byte behind the record", message(FINISH, whole.finish()[4:] + b"\x00"), "MalformedMessage"),
    ]
    for name, finish, error in finishes:
        yield _bad(f"listener: {name}", _BOX, error, _listening(whole.first, finish), sent)


def _box(whole: Dialogue, plain: bytes) -> bytes:
    return whole.reply(whole.box_of_listener(plain))


def _signed(whole: Dialogue, who: Side, transcript: bytes) -> bytes:
    return whole.signed_claims(who, transcript, TAGS["listener"])


def _without_features(reply: bytes) -> bytes:
    features = forms.encoded(list(BOB.features))
    record = reply[4:].replace(features, forms.encoded([]), 1)
    return message(REPLY, record)


def _identities() -> Iterator[Json]:
    twin = side("twin", key=ALICE.key)
    told = refusal("self-connection")
    fields = _dialling(Dialogue(ALICE, twin).reply())
    yield _bad("dialler: its own key", _SELF, "HandshakeRefused", fields, told, reason="self-connection")
    twin = side("twin", key=BOB.key)
    whole = Dialogue(twin, BOB)
    parting = whole.packet(goodbye(4, "self-connection"), to_listener=False)
    fields, sent = _listening(whole.first, whole.finish()), whole.reply() + parting
    yield _bad("listener: its own key", _SELF, "HandshakeRefused", fields, sent, reason="self-connection")
    fields = _dialling(Dialogue(ALICE, BOB).reply(), expected=key_of("carol").public)
    told, reason = refusal("unexpected-key"), "unexpected-key"
    yield _bad("dialler: not the expected key", _EXPECTED, "HandshakeRefused", fields, told, reason=reason)


def _refusals() -> Iterator[Json]:
    hello = Dialogue(ALICE, BOB).first
    sent = Dialogue(ALICE, BOB).reply()
    reasons = ("unsupported-version", "chain-mismatch", "genesis-mismatch", "self-connection", "unexpected-key")
    for reason in (*reasons, "banned", "too-many-peers", "duplicate-link"):
        fields = _dialling(refusal(reason))
        yield _bad(f"dialler: REFUSAL, {reason}", _REFUSALS, "HandshakeRefused", fields, reason=reason)
    told = refusal("unsupported-version", "version 9", "version 2", 9)
    for fields in (_dialling(told), _listening(told)):
        name = f"{fields['side']}: REFUSAL of version 9"
        yield _bad(name, _REFUSALS, "HandshakeRefused", fields, reason="unsupported-version")
    fields = _listening(hello, refusal("banned"))
    yield _bad("listener: REFUSAL for FINISH", _REFUSALS, "HandshakeRefused", fields, sent, reason="banned")
    bad = {"an unknown reason": refusal("mood"), "a text of 81 characters": refusal("banned", "x" * 81)}
    for name, told in bad.items():
        yield _bad(f"dialler: REFUSAL, {name}", (*_RECORD, "4.6/6"), "MalformedMessage", _dialling(told))


def _confirmations() -> Iterator[Json]:
    whole = Dialogue(ALICE, BOB)
    reply, sent = whole.reply(), whole.finish()
    for code, reason in ((1, "duplicate-link"), (2, "banned"), (3, "too-many-peers"), (4, "self-connection")):
        parting = whole.packet(goodbye(code, "bye"), to_listener=False)
        name, fields = f"dialler: packet 0 is GOODBYE {code}", _dialling(reply, parting)
        yield _bad(name, (*_CONFIRM, "4.6/6"), "HandshakeRefused", fields, sent, reason=reason)
    others = {"PONG": b"\x05" + bytes(8), "REKEY": b"\x06", "STREAMS": b"\x08" + bytes(4), "DATA": b"\x02" + bytes(5)}
    for name, plain in others.items():
        fields = _dialling(reply, whole.packet(plain, to_listener=False))
        yield _bad(f"dialler: packet 0 is {name}", _CONFIRM, "UnexpectedMessage", fields, sent)
    fields = _dialling(reply, whole.packet(ping(1), to_listener=True))
    yield _bad("dialler: packet 0 under the other key", ("4.4/3", "5.1/4"), "TamperedFrame", fields, sent)
    fields = _dialling(reply, whole.packet(ping(1), to_listener=False, number=1))
    yield _bad("dialler: packet 0 with number 1", ("5.1/3", "5.1/4"), "TamperedFrame", fields, sent)
