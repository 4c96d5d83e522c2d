"""Checks of `handshake.json`."""

from __future__ import annotations

from typing import Any

from nacl.bindings import crypto_aead_aegis256_decrypt, crypto_scalarmult, crypto_scalarmult_base

from deepshard.conformance.vectors.check import Ended, Fields
from deepshard.conformance.vectors.document import Json, unspell
from deepshard.conformance.vectors.read import read_session
from deepshard.encoding import decode, encode
from deepshard.primitives import expand, tagged_hash
from deepshard.wire.events import Established, Event, Failed
from deepshard.wire.handshake import (
    Claims,
    Finish,
    HandshakeRefused,
    Reply,
    SignedClaims,
)
from deepshard.wire.session import Session

_BYTES_MAX = 1024
_PREFIX = 4
"""Length, kind and version before a record."""


def check(case: Fields) -> Json:
    """Let two sessions shake hands, or feed one of them."""
    return _whole(case) if case["operation"] == "whole" else _side(case)


def _said(session: Session) -> bytes:
    return b"".join(session.packets())


def _whole(case: Fields) -> Json:
    dialler = read_session(case["dialler"], dialling=True)
    listener = read_session(case["listener"], dialling=False)
    hello = _said(dialler)
    listener.receive(hello, 0.0)
    reply = _said(listener)
    dialler.receive(reply, 0.0)
    finish = _said(dialler)
    events = listener.receive(finish, 0.0)
    first_packet = _said(listener)
    events += dialler.receive(first_packet, 0.0)
    features = {event.features for event in events if isinstance(event, Established)}
    assert len(events) == 2, events
    said = {"hello": hello, "reply": reply, "finish": finish, "first_packet": first_packet, "features": features.pop()}
    return said | _derived(case, hello, reply, finish)


def _derived(case: Fields, hello: bytes, reply: bytes, finish: bytes) -> Json:
    """Every value between the messages, by the formulas of 4.4, from the messages and the secrets."""
    secrets = [unspell(case[name]["ephemeral_secret"]) for name in ("dialler", "listener")]
    publics = [crypto_scalarmult_base(secret) for secret in secrets]
    shared = crypto_scalarmult(secrets[0], publics[1])
    answer = decode(reply[_PREFIX:], Reply, bytes_max=_BYTES_MAX)
    box_d = decode(finish[_PREFIX:], Finish, bytes_max=_BYTES_MAX).box
    t0 = tagged_hash("handshake hellos", hello, encode(answer.hello))
    t1 = tagged_hash("handshake reply", t0, answer.box)
    t2 = tagged_hash("handshake end", t1, box_d)
    boxes = expand(shared + t0, "handshake boxes", 64)
    link = expand(shared + t2, "link keys", 96)
    values: dict[str, Any] = {"dialler_ephemeral": publics[0], "listener_ephemeral": publics[1], "shared": shared}
    values |= {"t0": t0, "t1": t1, "t2": t2, "k_l": boxes[:32], "k_d": boxes[32:]}
    values |= {"box_l": answer.box, "box_d": box_d}
    values |= {"to_listener": link[:32], "to_dialler": link[32:64], "session_id": link[64:]}
    values |= _opened("listener", answer.box, t0, boxes[:32])
    return values | _opened("dialler", box_d, t1, boxes[32:])


def _opened(who: str, box: bytes, transcript: bytes, key: bytes) -> Json:
    plain = crypto_aead_aegis256_decrypt(box, transcript, bytes(32), key)
    signed = decode(plain, SignedClaims, bytes_max=_BYTES_MAX)
    claims: Claims = signed.claims
    return {f"{who}_claims": encode(claims), f"{who}_signature": signed.signature}


def _side(case: Fields) -> Json:
    """Whole messages and single bytes have to end alike (4.5/5)."""
    received = [unspell(data) for data in case["received"]]
    ends = [_fed(case, pieces) for pieces in (received, [bytes([byte]) for byte in b"".join(received)])]
    (events, sent), (again, sent_again) = ends
    last, other = events[-1], again[-1]
    if not isinstance(last, Failed) or not isinstance(other, Failed):
        return {"received": f"ends with {last} and {other}"}
    assert (type(last.error), sent) == (type(other.error), sent_again)
    reason = {"reason": last.error.reason} if isinstance(last.error, HandshakeRefused) else {}
    raise Ended(last.error, sent=sent, **reason)


def _fed(case: Fields, pieces: list[bytes]) -> tuple[list[Event], bytes]:
    dialling = case["side"] == "dialler"
    expected = case.get("expected_key")
    session = read_session(case["local"], dialling=dialling, expected_key=unspell(expected) if expected else None)
    hello = _said(session)
    events: list[Event] = []
    sent = b""
    for piece in pieces:
        events += session.receive(piece, 0.0)
        sent += _said(session)
    assert bool(hello) == dialling
    return events, sent
