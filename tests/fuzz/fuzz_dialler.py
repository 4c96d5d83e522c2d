"""The dialler's half of the handshake, fed bytes; the harness seals the fuzzer's identity as the listener would.

Flags as in `fuzz_listener`. What follows the REPLY is sealed as the listener's first packets.
"""

from __future__ import annotations

from typing import Final

from fuzz_listener import (
    AS_IT_IS,
    EPHEMERAL_SECRET,
    KEY,
    SIGN,
    heard,
    hello_record,
    message,
    sealed_identity,
)
from harness import Harness, Reader, chunked
from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from wire_sessions import make_session, said

from deepshard.encoding import decode, encode
from deepshard.limits import HANDSHAKE_MESSAGE_BYTES_MAX
from deepshard.primitives import tagged_hash
from deepshard.wire.handshake import (
    LISTENER_TAG,
    PROTOCOL_VERSION,
    Claims,
    DiallerHandshake,
    HandshakeKind,
    Hello,
    Reply,
    SignedClaims,
    _box_keys,
)
from deepshard.wire.packets import Goodbye, PacketSealer, Ping, pack_control
from deepshard.wire.states import State

LISTENER_EPHEMERAL: Final = crypto_scalarmult_base(EPHEMERAL_SECRET)


def check(data: bytes) -> None:
    reader = Reader(data)
    flags, version = reader.number(), reader.number()
    session = make_session(3, dialling=True)
    said(session)
    if flags & AS_IT_IS:
        heard(session, reader.chunk())
        heard(session, reader.chunk())
        return
    hello_bytes, box = reader.chunk(), reader.chunk()
    hello = decode(hello_bytes, Hello, bytes_max=HANDSHAKE_MESSAGE_BYTES_MAX)
    dialling = session._handshake
    assert isinstance(dialling, DiallerHandshake)
    if hello.ephemeral == LISTENER_EPHEMERAL:
        transcript = tagged_hash("handshake hellos", dialling._first, encode(hello))
        shared = crypto_scalarmult(EPHEMERAL_SECRET, crypto_scalarmult_base(dialling._secret))
        key = _box_keys(shared, transcript)[0]
        box = sealed_identity(box, sign=bool(flags & SIGN), tag=LISTENER_TAG, transcript=transcript, key=key)
    heard(session, message(HandshakeKind.REPLY, encode(Reply(hello, box)), version=version))
    if session.state is not State.AWAIT_CONFIRM:
        return
    said(session)
    opener = session._opener
    assert opener is not None
    sealer = PacketSealer(opener._key)
    for plain in reader.chunks():
        if plain and not session.is_closed:
            heard(session, sealer.seal(plain))


def seeds() -> dict[str, bytes]:
    identity = encode(SignedClaims(Claims(KEY.public, (), ""), bytes(64)))
    version = bytes((PROTOCOL_VERSION,))
    ping, goodbye = pack_control(Ping(1)), pack_control(Goodbye(2, "banned"))
    return {
        "confirmed": bytes((SIGN,)) + version + chunked(hello_record(), identity, ping, ping),
        "turned-away": bytes((SIGN,)) + version + chunked(hello_record(), identity, goodbye),
        "forged": b"\x00" + version + chunked(hello_record(), identity),
        "low-order": b"\x00" + version + chunked(hello_record(ephemeral=bytes(32)), identity),
        "other-genesis": b"\x00" + version + chunked(hello_record(genesis_hash=bytes([1]) * 32), identity),
        "refusal": bytes((AS_IT_IS, 0)) + chunked(message(255, encode(("chain-mismatch", "chain", "other\n")))),
    }


HARNESS: Final = Harness(check, seeds, prefix_bytes=2, shape="chunks", input_bytes_max=4096, memory_bytes_max=1 << 20)
