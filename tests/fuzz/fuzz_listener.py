"""The listener's half of the handshake, fed bytes; the harness seals the fuzzer's identity as the dialler would.

Flags in the first byte: bit 0, everything is fed as it is, in two pieces; bit 1, the identity is signed by the key that
it names, if that is the harness's.
"""

from __future__ import annotations

from typing import Final

from harness import Harness, Reader, chunked
from nacl.bindings import crypto_aead_aegis256_encrypt, crypto_scalarmult_base
from wire_sessions import make_session, said

from deepshard.encoding import decode, encode
from deepshard.errors import RemoteError
from deepshard.identity.keys import SecretKey
from deepshard.limits import HANDSHAKE_MESSAGE_BYTES_MAX
from deepshard.wire.events import Failed
from deepshard.wire.handshake import (
    DIALLER_TAG,
    PROTOCOL_VERSION,
    Claims,
    Finish,
    HandshakeKind,
    Hello,
    ListenerHandshake,
    SignedClaims,
)
from deepshard.wire.session import Session
from deepshard.wire.states import State

KEY: Final = SecretKey(bytes([1]) * 32)
EPHEMERAL_SECRET: Final = bytes([5]) * 32
NONCE: Final = bytes(32)
AS_IT_IS, SIGN = 1, 2


def message(kind: int, record: bytes, *, version: int = PROTOCOL_VERSION) -> bytes:
    payload = bytes((kind, version)) + record
    return (len(payload) & 0xFFFF).to_bytes(2, "little") + payload


def sealed_identity(plain: bytes, *, sign: bool, tag: str, transcript: bytes, key: bytes) -> bytes:
    """A box of the fuzzer's plain text, with a good signature in it if that is wanted and can be."""
    if sign:
        try:
            claims = decode(plain, SignedClaims, bytes_max=HANDSHAKE_MESSAGE_BYTES_MAX).claims
        except RemoteError:
            pass
        else:
            plain = encode(SignedClaims(claims, KEY.sign(tag, transcript + encode(claims))))
    return crypto_aead_aegis256_encrypt(plain, transcript, NONCE, key)


def heard(session: Session, data: bytes | bytearray) -> None:
    """Feed bytes; a session that fails must be closed and may have something to say."""
    events = session.receive(data, 0.0)
    if any(isinstance(event, Failed) for event in events):
        assert session.is_closed
        assert len(said(session)) <= HANDSHAKE_MESSAGE_BYTES_MAX + 1024
    assert len(session._buffer) <= HANDSHAKE_MESSAGE_BYTES_MAX + (1 << 16) + 1024


def check(data: bytes) -> None:
    reader = Reader(data)
    flags, version = reader.number(), reader.number()
    session = make_session(2, dialling=False)
    if flags & AS_IT_IS:
        heard(session, reader.chunk())
        heard(session, reader.chunk())
        return
    hello, identity = reader.chunk(), reader.chunk()
    heard(session, message(HandshakeKind.HELLO, hello, version=version))
    if session.state is not State.AWAIT_FINISH:
        return
    said(session)
    listening = session._handshake
    assert isinstance(listening, ListenerHandshake)
    transcript, key = listening._transcript, listening._dialler_key
    box = sealed_identity(identity, sign=bool(flags & SIGN), tag=DIALLER_TAG, transcript=transcript, key=key)
    heard(session, message(HandshakeKind.FINISH, encode(Finish(box))))
    heard(session, reader.chunk())


def hello_record(**changes: object) -> bytes:
    fields = {
        "chain_id": "chain",
        "genesis_hash": bytes(32),
        "ephemeral": crypto_scalarmult_base(EPHEMERAL_SECRET),
        "nonce": bytes(32),
        "features": ("ranges",),
    }
    return encode(tuple((fields | changes).values()))


def seeds() -> dict[str, bytes]:
    assert decode(hello_record(), Hello, bytes_max=1024).chain_id == "chain"
    identity = encode(SignedClaims(Claims(KEY.public, ("validator",), "127.0.0.1:9000"), bytes(64)))
    version = bytes((PROTOCOL_VERSION,))
    low_order = hello_record(ephemeral=bytes(32))
    dialler = make_session(1, dialling=True)
    hello = said(dialler)
    return {
        "signed": bytes((SIGN,)) + version + chunked(hello_record(), identity, bytes(40)),
        "forged": b"\x00" + version + chunked(hello_record(), identity),
        "low-order": bytes((SIGN,)) + version + chunked(low_order, identity),
        "other-chain": bytes((SIGN,)) + version + chunked(hello_record(chain_id="other"), identity),
        "other-version": bytes((SIGN, 1)) + chunked(hello_record(), identity),
        "as-it-is": bytes((AS_IT_IS,)) + bytes(1) + chunked(hello[:20], hello[20:]),
        "refusal": bytes((AS_IT_IS, 0)) + chunked(message(255, encode(("banned", "", "")))),
    }


HARNESS: Final = Harness(check, seeds, prefix_bytes=2, shape="chunks", input_bytes_max=4096, memory_bytes_max=1 << 20)
