"""`signatures.json`: the verification rule of chapter 3.2 at every edge where libraries disagree.

The edge cases fulfil the equation wherever it can be fulfilled, so that a verifier that leaves out a check accepts
them. R depends on h and h on R, so the payload is counted up until they fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha512
from typing import Final

from deepshard.conformance.vectors.document import Json, accept, document, key_of, refuse
from deepshard.conformance.vectors.edwards import (
    IDENTITY,
    ORDER,
    P,
    Point,
    Secret,
    base,
    challenge,
    encode_y,
    point_of,
    scalar_bytes,
    torsion,
)
from deepshard.primitives import tagged_hash

TAG: Final = "vote"
_BAD: Final = "BadSignature"
_KEY: Final = key_of("signer")
_SECRET: Final = Secret.of(_KEY.seed)
_NONCE: Final = int.from_bytes(sha512(b"vector nonce").digest(), "little") % ORDER
_R: Final = _NONCE * base()
_OPEN, _LENGTHS, _SCALAR, _SMALL, _CANONICAL, _CURVE, _EQUATION = (
    ("3.2/1",),
    ("3.2/3",),
    ("3.2/4",),
    ("3.2/5",),
    ("3.2/6",),
    ("3.2/7",),
    ("3.2/8", "3.2/9"),
)


def make() -> Json:
    """The file."""
    groups = (_plain(), _purposes(), _lengths(), _scalars(), _small_keys(), _small_commitments())
    points = (_bent_keys(), _bent_commitments(), _mixed())
    return document(
        "signatures",
        "Signatures (chapter 3.2): which are valid, at the edges where libraries disagree.",
        [case for group in (*groups, *points) for case in group],
    )


def _message(payload: bytes, tag: str = TAG) -> bytes:
    return tagged_hash("signature " + tag, payload)


def _fields(public: bytes, payload: bytes, signature: bytes, tag: str = TAG) -> Json:
    message = _message(payload, tag)
    return {"tag": tag, "payload": payload, "message": message, "public_key": public, "signature": signature}


def _good(name: str, clauses: tuple[str, ...], fields: Json) -> Json:
    return accept(name, clauses, **fields)


def _bad(name: str, clauses: tuple[str, ...], why: str, fields: Json) -> Json:
    return refuse(name, (*clauses, "3.2/9"), _BAD, why=why, **fields)


def _plain() -> Iterator[Json]:
    for size in (0, 1, 31, 32, 33, 64, 1000):
        payload = bytes(range(256)) * 4
        payload = payload[:size]
        fields = _fields(_KEY.public, payload, _KEY.sign(TAG, payload))
        yield _good(f"a payload of {size} bytes", (*_OPEN, *_EQUATION, "3.2/10"), fields)
    payload = b"payload"
    signature = _KEY.sign(TAG, payload)
    for name, byte in (("R", 0), ("R, the sign", 31), ("S", 32), ("S, a high bit", 62)):
        bent = bytearray(signature)
        bent[byte] ^= 0x80 if byte == 31 else 1
        why = "[S]B - [h]A isn't R"
        yield _bad(f"one bit of {name} changed", _EQUATION, why, _fields(_KEY.public, payload, bytes(bent)))
    yield _bad("another payload", _EQUATION, "another h", _fields(_KEY.public, b"Payload", signature))
    other = key_of("another signer").public
    yield _bad("another key", _EQUATION, "another A", _fields(other, payload, signature))
    negated = bytes([*_KEY.public[:31], _KEY.public[31] ^ 0x80])
    yield _bad("the key with its sign changed", _EQUATION, "A is negated", _fields(negated, payload, signature))
    yield _bad("a signature of zeros", _SMALL, "R has y = 0", _fields(_KEY.public, payload, bytes(64)))


def _purposes() -> Iterator[Json]:
    payload = b"payload"
    tags = ("handshake listener", "handshake dialler", "frame", "proposal", "vote", "transaction")
    for tag in tags:
        fields = _fields(_KEY.public, payload, _KEY.sign(tag, payload), tag)
        yield _good(f"signed as {tag}", (*_OPEN, "3.2/2"), fields)
    for tag in (*tags[:-2], "transaction"):
        fields = _fields(_KEY.public, payload, _KEY.sign(tag, payload))
        yield _bad(f"signed as {tag}, verified as vote", _OPEN, "it was made for another purpose", fields)
    for name, message in (
        ("the payload itself", payload),
        ("the plain hash of the payload", sha512(payload).digest()[:32]),
        ("the tagged hash without the word signature", tagged_hash(TAG, payload)),
    ):
        signature = _sign(message)
        yield _bad(f"signed over {name}", _OPEN, "the message is another", _fields(_KEY.public, payload, signature))
    domain = b"SigEd25519 no Ed25519 collisions\x01\x00"
    prehashed = _sign(sha512(_message(payload)).digest(), domain)
    yield _bad("Ed25519ph", _OPEN, "prehashed", _fields(_KEY.public, payload, prehashed))
    context = _sign(_message(payload), domain[:-2] + b"\x00\x04vote")
    yield _bad("Ed25519ctx", _OPEN, "with a context", _fields(_KEY.public, payload, context))


def _sign(message: bytes, domain: bytes = b"") -> bytes:
    """RFC 8032 over any message, with the prefix that its variants put before everything that is hashed."""
    nonce = int.from_bytes(sha512(domain + _SECRET.prefix + message).digest(), "little") % ORDER
    commitment = (nonce * base()).encode()
    h = int.from_bytes(sha512(domain + commitment + _KEY.public + message).digest(), "little")
    return commitment + scalar_bytes((nonce + h * _SECRET.scalar) % ORDER)


def _lengths() -> Iterator[Json]:
    payload = b"payload"
    signature = _KEY.sign(TAG, payload)
    for name, public, signed in (
        ("a key of 31 bytes", _KEY.public[:-1], signature),
        ("a key of 33 bytes", _KEY.public + b"\x00", signature),
        ("no key", b"", signature),
        ("a signature of 63 bytes", _KEY.public, signature[:-1]),
        ("a signature of 65 bytes", _KEY.public, signature + b"\x00"),
        ("no signature", _KEY.public, b""),
    ):
        yield _bad(name, _LENGTHS, "32 and 64 bytes", _fields(public, payload, signed))


def _scalars() -> Iterator[Json]:
    payload = b"payload"
    signature = _KEY.sign(TAG, payload)
    commitment, scalar = signature[:32], int.from_bytes(signature[32:], "little")
    for times in (1, 2, 7, 14):
        fields = _fields(_KEY.public, payload, commitment + scalar_bytes(scalar + times * ORDER))
        yield _bad(f"S + {times} L", _SCALAR, "the equation holds, but S isn't below L", fields)
    for name, value in (("L", ORDER), ("2^256 - 1", 2**256 - 1), ("2^253", 2**253)):
        fields = _fields(_KEY.public, payload, commitment + scalar_bytes(value))
        yield _bad(f"S = {name}", _SCALAR, "S isn't below L", fields)


def _satisfied(key_part: Point, *, mixed: bool) -> tuple[bytes, bytes, bytes]:
    """Key, payload and signature with [S]B - [h]A = R, where A is [a]B plus a small part.

    R needs the small part of -[h]A: none where h is a multiple of its order, or, if `mixed`, another than none. The
    payload counts up until the R that h was computed with is the one that h asks for.
    """
    public = (_SECRET.scalar * base() + key_part).encode()
    for part in torsion():
        commitment = (_R + part).encode()
        for count in range(64):
            payload = b"payload %d" % count
            h = challenge(commitment, public, _message(payload))
            if -(h * key_part) == part and (part != IDENTITY) == mixed:
                return public, payload, commitment + scalar_bytes((_NONCE + h * _SECRET.scalar) % ORDER)
    raise AssertionError("no payload fits")


def _small_keys() -> Iterator[Json]:
    """A of small order with R = [r]B - [h]A and S = r: the equation holds."""
    for number, part in enumerate(torsion()):
        for alias, public in _aliases(part):
            payload, signature = _under_small_key(part, public)
            name = f"A of small order {_order(number)}, point {number}{alias}"
            yield _bad(name, _SMALL, "the equation holds, but A is of small order", _fields(public, payload, signature))
    zero = bytes(32)
    for name, signature in (("R and S too", zero + zero), ("R is the identity", IDENTITY.encode() + zero)):
        yield _bad(f"A of zeros, {name}", _SMALL, "A has y = 0", _fields(zero, b"payload", signature))


def _under_small_key(part: Point, public: bytes) -> tuple[bytes, bytes]:
    for count in range(64):
        payload = b"payload %d" % count
        for multiple in range(8):
            commitment = (_R + -(multiple * part)).encode()
            h = challenge(commitment, public, _message(payload))
            if h * part == multiple * part:
                return payload, commitment + scalar_bytes(_NONCE)
    raise AssertionError("no payload fits")


def _order(number: int) -> int:
    return {0: 1, 4: 2, 2: 4, 6: 4}.get(number, 8)


def _aliases(part: Point) -> Iterator[tuple[str, bytes]]:
    """A point's encoding, and those that a lenient decoder takes for it."""
    yield "", part.encode()
    if part.x == 0:
        yield ", the sign set", encode_y(part.y, 1)
    if part.y + P < 2**255:
        yield ", y + p", encode_y(part.y + P, part.x & 1)
        if part.x == 0:
            yield ", y + p and the sign set", encode_y(part.y + P, 1)


def _small_commitments() -> Iterator[Json]:
    """R of small order with S = h a: the equation holds where R's small part is that of -[h]A."""
    for number, part in enumerate(torsion()):
        for alias, commitment in _aliases(part):
            key_part = torsion()[1] if number else IDENTITY
            public = (_SECRET.scalar * base() + key_part).encode()
            payload, signature = _with_commitment(public, key_part, part, commitment)
            name = f"R of small order {_order(number)}, point {number}{alias}"
            why = "the equation holds, but R is of small order"
            yield _bad(name, _SMALL, why, _fields(public, payload, signature))


def _with_commitment(public: bytes, key_part: Point, part: Point, commitment: bytes) -> tuple[bytes, bytes]:
    for count in range(256):
        payload = b"payload %d" % count
        h = challenge(commitment, public, _message(payload))
        if -(h * key_part) == part:
            return payload, commitment + scalar_bytes(h * _SECRET.scalar % ORDER)
    raise AssertionError("no payload fits")


def _bent_keys() -> Iterator[Json]:
    payload = b"payload"
    signature = _KEY.sign(TAG, payload)
    for more in range(2, 19):
        for sign in (0, 1):
            name = f"A with y = p + {more}, sign {sign}"
            is_point = point_of(more, sign) is not None
            why = f"y isn't below p; {'a' if is_point else 'no'} point has y = {more} and this sign"
            yield _bad(name, _CANONICAL, why, _fields(encode_y(P + more, sign), payload, signature))
    none = [y for y in range(2, 20) if point_of(y, 0) is None]
    for y in none[:3]:
        for sign in (0, 1):
            name = f"A with y = {y}, sign {sign}"
            yield _bad(name, _CURVE, "no point has this y", _fields(encode_y(y, sign), payload, signature))


def _bent_commitments() -> Iterator[Json]:
    payload = b"payload"
    public = _KEY.public
    scalars = {"y = p + 3": encode_y(P + 3, 0), "y = 2^255 - 1": encode_y(2**255 - 1, 0), "y = 2": encode_y(2, 0)}
    for name, commitment in scalars.items():
        h = challenge(commitment, public, _message(payload))
        signature = commitment + scalar_bytes((_NONCE + h * _SECRET.scalar) % ORDER)
        why = "R isn't what an encoding gives"
        yield _bad(f"R with {name}", _EQUATION, why, _fields(public, payload, signature))
    flipped = (-_R).encode()
    h = challenge(flipped, public, _message(payload))
    signature = flipped + scalar_bytes((_NONCE + h * _SECRET.scalar) % ORDER)
    yield _bad("R with its sign changed", _EQUATION, "R is negated", _fields(public, payload, signature))


def _mixed() -> Iterator[Json]:
    """Points with a large and a small part: valid if the equation holds as it stands, without the cofactor."""
    for number in (1, 2, 4, 7):
        part, order = torsion()[number], _order(number)
        fields = _fields(*_satisfied(part, mixed=False))
        yield _good(f"A of mixed order {order} L, point {number}, the equation holds", _EQUATION, fields)
        public, payload, signature = _only_with_cofactor(part, IDENTITY)
        why = "the equation holds only after multiplication by 8"
        name = f"A of mixed order {order} L, point {number}, the equation holds with the cofactor"
        yield _bad(name, _EQUATION, why, _fields(public, payload, signature))
        public, payload, signature = _only_with_cofactor(IDENTITY, part)
        name = f"R of mixed order {order} L, point {number}, the equation holds with the cofactor"
        yield _bad(name, _EQUATION, why, _fields(public, payload, signature))
    fields = _fields(*_satisfied(torsion()[1], mixed=True))
    yield _good("A and R of mixed order, their small parts cancel", _EQUATION, fields)


def _only_with_cofactor(key_part: Point, commitment_part: Point) -> tuple[bytes, bytes, bytes]:
    public = (_SECRET.scalar * base() + key_part).encode()
    commitment = (_R + commitment_part).encode()
    for count in range(64):
        payload = b"payload %d" % count
        h = challenge(commitment, public, _message(payload))
        if -(h * key_part) != commitment_part:
            return public, payload, commitment + scalar_bytes((_NONCE + h * _SECRET.scalar) % ORDER)
    raise AssertionError("no payload fits")
