"""`frames.json`: frames of every kind and shape, and what has to be refused of a single one (chapter 5.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from deepshard.conformance.vectors.document import Json, accept, digest_of, document, key_of, refuse
from deepshard.conformance.vectors.generate import forms
from deepshard.conformance.vectors.generate.framing import (
    BODIES,
    DATA_MAX,
    SESSION,
    SIGNER,
    body_of,
    data,
    frame,
    header,
    raw,
    rle,
    signature,
    zstd,
)
from deepshard.primitives import content_digest

_KINDS: Final = ("6.2/1", "5.2/9", "5.2/11", "5.2/13", "5.3/8")
_HEADER, _SIZES, _PLAIN, _FIRST, _ZSTD, _SIGNED, _ATTACHED, _BODY, _NONE, _CLASS, _UNKNOWN = (
    ("5.2/1",),
    ("5.2/3",),
    ("5.2/4",),
    ("5.2/5", "5.1/5"),
    ("5.2/7",),
    ("5.2/9", "3.2/2"),
    ("5.2/10",),
    ("5.2/11",),
    ("5.2/12", "6.2/2"),
    ("5.3/8",),
    ("5.3/9",),
)
_BAD, _OVERSIZED = "MalformedMessage", "OversizedMessage"
_BODY_MAX: Final = 4 * 1024 * 1024
_ATTACHMENT_MAX: Final = 8 * 1024 * 1024
_LEVEL_19: Final = (
    "28b52ffd607a0175030092861112e0e980f1d4006070ef2da59432a5c3506e07d66621359ec61eda95bdfc964907e6a15dd9cbafb13f62a3"
    "f2e8ab61ddcd55a3138f26e29d59d56fb7cd52715171e2134032014da811d0bbff06e0e71088a1d803e8cc1bd9ee8c9b0fc99d9b83cf74e5"
    "cbd3b66cba8b4f55"
)
_CHECKSUMMED: Final = (
    "28b52ffd647a01fd040022461116c0251dff1bc33ffcffff35446e29a54c2985ac32870442d660a3e873f9eff7bc8d228fc5b75dd336aad7"
    "1e7bd49b9edc7bb60e16d18cc86fb7246ba0b0a0b055001006813720b0a3820e9d74b7c3642c631997b18c6524b34ebadb613296b18ccb58"
    "c632925927a7df5c0bd0bd23fc5c666a9e578cb07319a971ae18e1e606176a5e462dc8bac04ac22916a46e6025e1140b52179892126e296c"
    "18c6709db6"
)
"""The body of forty addresses, as zstd 1.5.7 compressed it at levels 19 and 3, the latter with a checksum."""
_FORTY: Final = forms.encoded([[f"192.0.2.{number}:{7000 + number % 7}" for number in range(40)]])


def make() -> Json:
    """The file."""
    groups = (_kinds(), _pieces(), _compressed(), _bad_zstd(), _bad_headers(), _bad_packets(), _bad_bodies())
    return document(
        "frames",
        "Frames (chapter 5.2): one of every kind, in every shape, and what has to be refused of a single one.",
        [case for group in (*groups, _signatures(), _attachments(), _classes()) for case in group],
        session_id=SESSION,
        signer_seed=SIGNER.seed,
        signer_public_key=SIGNER.public,
    )


def _good(name: str, clauses: tuple[str, ...], kind: int, body: bytes, plains: list[bytes], **fields: Any) -> Json:  # noqa: ANN401
    shown: Json = {"kind": kind, "body": body, **fields}
    return accept(name, clauses, plains=plains, **shown)


def _bad(name: str, clauses: tuple[str, ...], error: str, plains: list[bytes], why: str = "") -> Json:
    return refuse(name, clauses, error, why=why, plains=plains)


def _kinds() -> Iterator[Json]:
    for kind, (name, _, _) in BODIES.items():
        body = body_of(kind)
        yield _good(f"{name}", _KINDS, kind, body, frame(kind, body), message=name)
    for kind, values in ((35, [5, digest_of("blob"), 0]), (37, [6, digest_of("blob"), 0, 20_000, 1, [digest_of("p")]])):
        name, body, attachment = BODIES[kind][0], forms.encoded(values), b"attachment" * 30
        plains = frame(kind, body, attachment=attachment)
        digest = content_digest(attachment)
        clauses = (*_KINDS, *_ATTACHED)
        yield _good(f"{name} with an attachment", clauses, kind, body, plains, message=name, attachment_digest=digest)


def _transactions(size: int) -> bytes:
    """A Transactions body of exactly `size` bytes, of which the first five aren't zero."""
    rest = size - (5 if size < DATA_MAX + 5 else 7)
    return forms.encoded([[bytes(rest)]])


def _pieces() -> Iterator[Json]:
    for size in (DATA_MAX, DATA_MAX + 1, 2 * DATA_MAX, 2 * DATA_MAX + 5):
        body = _transactions(size)
        assert len(body) == size
        yield _good(f"a body of {size} bytes", _FIRST, 16, body, frame(16, body))
    body, attachment = forms.encoded([1, digest_of("blob"), 0]), bytes(100_000)
    first, *rest = frame(35, body, attachment=attachment)
    digest = content_digest(attachment)
    cuts = {
        "as they may be at most": [first, *rest],
        "of one byte first": [first, data(2, b"\x00"), data(2, bytes(40_000)), data(2, bytes(59_999))],
        "across block borders": [first, *(data(2, bytes(size)) for size in (16_383, 2, 50_000, 33_615))],
    }
    for name, plains in cuts.items():
        shown: Json = {"attachment_digest": digest}
        yield _good(f"DATA packets {name}", (*_FIRST, *_ATTACHED), 35, body, plains, **shown)


def _compressed() -> Iterator[Json]:
    body = _transactions(1000)
    sent = zstd(raw(body[:5]), rle(0, 995, last=True), size=1000)
    yield _good("compressed: blocks of repeated bytes", _ZSTD, 16, body, frame(16, body, sent=sent))
    whole = zstd(raw(body, last=True), size=1000)
    yield _good("compressed: larger than the body", _ZSTD, 16, body, frame(16, body, sent=whole))
    empty = zstd(raw(b""), raw(body, last=True), size=1000)
    yield _good("compressed: with an empty block", _ZSTD, 16, body, frame(16, body, sent=empty))
    windowed = zstd(raw(body, last=True), size=1000, window=12 << 3)
    yield _good("compressed: a window of the largest size", _ZSTD, 16, body, frame(16, body, sent=windowed))
    for name, code in (("by level 19", _LEVEL_19), ("with a checksum", _CHECKSUMMED)):
        plains = frame(4, _FORTY, sent=bytes.fromhex(code))
        yield _good(f"compressed: {name}", _ZSTD, 4, _FORTY, plains)
    blocks = [rle(0, 1 << 17) for _ in range(15)]
    large = b"\x92\xc4\x00\xc6" + (2**21 - 8).to_bytes(4, "big") + bytes(2**21 - 8)
    sent = zstd(raw(large[:8]), *blocks, rle(0, (1 << 17) - 8, last=True), size=2**21)
    yield _good("compressed: 2 MiB in a hundred bytes", _ZSTD, 17, large, frame(17, large, sent=sent))


def _bad_zstd() -> Iterator[Json]:
    body = _transactions(1000)
    zeros = rle(0, 995, last=True)
    good = zstd(raw(body[:5]), zeros, size=1000)
    bent = bytearray(bytes.fromhex(_CHECKSUMMED))
    bent[-1] ^= 1
    wrong: list[tuple[str, bytes, bytes]] = [
        ("a content size one less", body, zstd(raw(body[:5]), zeros, size=999)),
        ("a content size one more", body, zstd(raw(body[:5]), zeros, size=1001)),
        ("a content size of 2^62", body, zstd(raw(body[:5]), zeros, size=2**62)),
        ("no content size", body, zstd(raw(body[:5]), zeros, size=None, window=0)),
        ("more content than declared", body, zstd(raw(body[:5]), rle(0, 1 << 17, last=True), size=1000)),
        ("less content than declared", body, zstd(raw(body[:5]), rle(0, 994, last=True), size=1000)),
        ("a window of 4.5 MiB", body, zstd(raw(body, last=True), size=1000, window=12 << 3 | 1)),
        ("a window of 2^41 bytes", body, zstd(raw(body, last=True), size=1000, window=0xF8)),
        ("a dictionary", body, zstd(raw(body[:5]), zeros, size=1000, dictionary=1)),
        ("a byte behind it", body, good + b"\x00"),
        ("a frame behind it", body, good + zstd(raw(b"", last=True), size=0)),
        ("a skippable frame before it", body, bytes.fromhex("502a4d1800000000") + good),
        ("a skippable frame behind it", body, good + bytes.fromhex("502a4d1800000000")),
        ("its last byte cut off", body, good[:-1]),
        ("its last block cut off", body, zstd(raw(body[:5]), size=1000)),
        ("its head alone", body, good[:5]),
        ("another magic", body, b"\x27" + good[1:]),
        ("a block of the reserved type", body, zstd((1000 << 3 | 7).to_bytes(3, "little"), size=1000)),
        ("a wrong checksum", _FORTY, bytes(bent)),
        ("nothing", body, b""),
        ("the body itself", body, body),
    ]
    for name, original, sent in wrong:
        kind = 4 if original is _FORTY else 16
        yield _bad(f"zstd: {name}", _ZSTD, _BAD, frame(kind, original, sent=sent))
    empty = frame(16, b"", sent=zstd(raw(b"", last=True), size=0))
    yield _bad("zstd: an empty body", (*_ZSTD, *_BODY), _BAD, empty)


def _bad_headers() -> Iterator[Json]:
    body = body_of(5)
    for name, fields in (
        ("another magic", {"magic": b"DT"}),
        ("version 0", {"version": 0}),
        ("version 1", {"version": 1}),
        ("version 3", {"version": 3}),
        ("flag bit 1", {"flags": 2}),
        ("flag bit 7", {"flags": 0x80}),
        ("flag bits 0 and 1", {"flags": 3}),
    ):
        yield _bad(f"header: {name}", _HEADER, _BAD, frame(5, body, **fields))
    for sequence in (1, 2**63, 2**64 - 1):
        plains = frame(5, body, sequence=sequence)
        yield _bad(f"header: sequence {sequence} first", ("5.2/2",), _BAD, plains)
    for name, sent, size, attachment in (
        ("a body of 4 MiB and 1", _BODY_MAX + 1, _BODY_MAX + 1, 0),
        ("a body of 2^32 - 1", 2**32 - 1, 2**32 - 1, 0),
        ("an attachment of 8 MiB and 1", 1, 1, _ATTACHMENT_MAX + 1),
        ("an attachment of 2^32 - 1", 1, 1, 2**32 - 1),
    ):
        head = header(35, 2, sent, size, attachment=attachment)
        digest = bytes(32) if attachment else b""
        plain = b"\x01" + head + signature(head, b"", bytes(32)) + digest + bytes(min(sent, DATA_MAX))
        yield _bad(f"header: {name}", _SIZES, _OVERSIZED, [plain], "refused with the FRAME packet")
    head = header(16, 1, 20, _BODY_MAX + 1, flags=1)
    plain = b"\x01" + head + signature(head, b"", bytes(32)) + bytes(20)
    why = "twenty bytes that claim to become more than 4 MiB"
    yield _bad("header: a compressed body that declares 4 MiB and 1", (*_SIZES, *_ZSTD), _OVERSIZED, [plain], why)
    for more in (-1, 1):
        head = header(5, 0, len(body), len(body) + more)
        plain = b"\x01" + head + signature(head, body, bytes(32)) + body
        name = f"header: an uncompressed body {more:+d} bytes before compression"
        yield _bad(name, _PLAIN, _BAD, [plain])


def _bad_packets() -> Iterator[Json]:
    body = body_of(5)
    (plain,) = frame(5, body)
    for name, cut in (("nothing but its type", 1), ("half a header", 20), ("no signature", 31), ("a byte of 95", 94)):
        yield _bad(f"FRAME packet: {name}", _FIRST, _BAD, [plain[:cut]])
    yield _bad("FRAME packet: a byte of the body missing", _FIRST, _BAD, [plain[:-1]])
    yield _bad("FRAME packet: a byte behind the body", _FIRST, _BAD, [plain + b"\x00"])
    yield _bad("FRAME packet: no body at all", _FIRST, _BAD, [plain[: -len(body)]])
    large = _transactions(DATA_MAX + 10)
    first, rest = frame(16, large)
    yield _bad("FRAME packet: more of the body than 64 KiB", _FIRST, _BAD, [first + rest[5:]])
    yield _bad("FRAME packet: less of the body than 64 KiB", _FIRST, _BAD, [first[:-1], data(1, b"\x00" + rest[5:])])
    reply = forms.encoded([1, digest_of("blob"), 0])
    attached, *_ = frame(35, reply, attachment=b"attachment")
    without = attached[:95] + attached[127:]
    yield _bad("FRAME packet: no digest of its attachment", _FIRST, _BAD, [without])
    with_digest = plain[:95] + bytes(32) + plain[95:]
    yield _bad("FRAME packet: a digest without an attachment", _FIRST, _BAD, [with_digest])


def _bad_bodies() -> Iterator[Json]:
    good = body_of(5)
    for name, body in (
        ("a byte behind the message", good + b"\x00"),
        ("a longer integer", b"\x91" + forms.unsigned(5, 8)),
        ("a field too many", forms.encoded([5, 5])),
        ("nothing", b""),
        ("a map", b"\x81\xa6height\x05"),
        ("a height beyond its bound", forms.encoded([2**62 + 1])),
    ):
        yield _bad(f"body: {name}", _BODY, _BAD, frame(5, body))
    yield _bad("body: of another kind", _BODY, _BAD, frame(5, body_of(17)))


def _signatures() -> Iterator[Json]:
    body = body_of(5)
    error = "BadSignature"
    (plain,) = frame(5, body)
    yield _bad("signature: zeros", _SIGNED, error, [plain[:31] + bytes(64) + plain[95:]])
    other = digest_of("other session")
    yield _bad("signature: of another session", _SIGNED, error, frame(5, body, session=other))
    yield _bad("signature: by another key", _SIGNED, error, frame(5, body, signer=key_of("mallory")))
    yield _bad("signature: of another body", _SIGNED, error, [plain[:-1] + bytes([plain[-1] ^ 1])])
    votes, forged = frame(18, forms.encoded([[]]))[0], bytearray(frame(18, forms.encoded([[]]))[0])
    forged[5:7] = (17).to_bytes(2, "little")
    assert len(votes) == len(forged)
    yield _bad("signature: of another kind", _SIGNED, error, [bytes(forged)])
    compressed = zstd(raw(body, last=True), size=len(body))
    head = header(5, 0, len(compressed), len(body), flags=1)
    plain = b"\x01" + head + signature(head, compressed, bytes(32)) + compressed
    yield _bad("signature: over the compressed body", _SIGNED, error, [plain])
    signed = SIGNER.sign("frame", SESSION + header(5, 0, len(body), len(body)) + body + bytes(32))
    plain = b"\x01" + header(5, 0, len(body), len(body)) + signed + body
    yield _bad("signature: over the body, not its hash", _SIGNED, error, [plain])
    head = header(5, 0, len(body), len(body))
    signed = SIGNER.sign("frame", SESSION + head + content_digest(body) + bytes(32))
    plain = b"\x01" + head + signed + body
    yield _bad("signature: over the body's content address", (*_SIGNED, "5.2/13"), error, [plain])
    yield _bad("signature: of an unknown kind", (*_SIGNED, *_UNKNOWN), error, _unknown(1, key_of("mallory")))


def _unknown(stream: int, signer: Any = SIGNER) -> list[bytes]:  # noqa: ANN401
    return frame(999, b"\x90", stream=stream, signer=signer)


def _attachments() -> Iterator[Json]:
    body, attachment = forms.encoded([1, digest_of("blob"), 0]), bytes(range(200))
    address = content_digest(attachment)
    first, second = frame(35, body, attachment=attachment)
    corrupt = "CorruptAttachment"
    yield _bad("attachment: a byte changed", _ATTACHED, corrupt, [first, second[:-1] + b"\x00"])
    yield _bad("attachment: other bytes", _ATTACHED, corrupt, [first, data(2, bytes(200))])
    claimed = frame(35, body, attachment=attachment, digest=digest_of("other"))
    yield _bad("attachment: another digest, signed", _ATTACHED, corrupt, claimed)
    exchanged = first[:95] + digest_of("other") + first[127:]
    yield _bad("attachment: another digest, not signed", _ATTACHED, corrupt, [exchanged, second])
    unsigned = frame(35, body, attachment=attachment, signer=key_of("mallory"))
    yield _bad("attachment: good, under a bad signature", _SIGNED, "BadSignature", unsigned)
    for kind in (34, 5):
        on = BODIES[kind][1]
        plains = frame(kind, body_of(kind), attachment=attachment, digest=address)
        yield _bad(f"attachment: on stream {on}", (*_NONE, "5.3/1"), _BAD, plains)
    yield _bad("DATA: behind the end", ("5.2/6",), _BAD, [first, second + b"\x00"])
    yield _bad("DATA: after the end", ("5.2/6",), "UnexpectedMessage", [first, second, data(2, b"\x00")])
    yield _bad("DATA: on another stream", ("5.2/6",), "UnexpectedMessage", [first, data(3, second[5:])])
    yield _bad("DATA: before any frame", ("5.2/6",), "UnexpectedMessage", [data(1, b"\x00")])
    yield _bad("DATA: empty", ("5.1/5",), _BAD, [first, data(2, b"")])
    yield _bad("DATA: half a stream number", ("5.1/5",), _BAD, [first, b"\x02\x02\x00\x00"])


def _classes() -> Iterator[Json]:
    for kind, streams in ((5, (1, 2)), (16, (0, 2)), (35, (0, 1)), (37, (0, 1)), (6, (0, 2))):
        for stream in streams:
            name = f"{BODIES[kind][0]} on stream {stream}"
            yield _bad(name, _CLASS, _BAD, frame(kind, body_of(kind), stream=stream))
    for stream in (1, 2):
        plains = _unknown(stream)
        yield accept(f"an unknown kind on stream {stream} is ignored", _UNKNOWN, plains=plains, kind=999, ignored=True)
    yield _bad("an unknown kind on stream 0", _UNKNOWN, "UnknownKind", _unknown(0))
