from __future__ import annotations

import os
import tracemalloc
from dataclasses import replace
from typing import ClassVar

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshard.encoding import encode
from deepshard.errors import BadSignature, LocalError, MalformedMessage, OversizedMessage, RemoteError
from deepshard.identity.keys import SecretKey
from deepshard.limits import ATTACHMENT_BYTES_MAX, BODY_BYTES_MAX, DATA_BYTES_MAX
from deepshard.primitives import ZERO_DIGEST, content_digest
from deepshard.wire.frames import (
    FLAG_COMPRESSED,
    HEADER_BYTES,
    Payload,
    UnknownKind,
    decompress_body,
    frame_start,
    open_body,
    parse_frame_start,
    prepare,
)
from deepshard.wire.messages import BlobReply, BlobStatus, Message, Priority, Status, Transactions, Votes

SESSION = b"s" * 32
SIGNER = SecretKey(b"\x05" * 32)
BLOB = BlobReply(1, b"d" * 32, BlobStatus.FOUND)
SIGNATURE_AT = 1 + HEADER_BYTES
BODY_AT = SIGNATURE_AT + 64


def start(payload: Payload, *, stream: int | None = None, sequence: int = 0) -> bytes:
    number = int(payload.priority) if stream is None else stream
    return frame_start(payload, stream=number, sequence=sequence, signer=SIGNER, session_id=SESSION)


def opened(plain: bytes, payload: Payload, *, key: bytes = SIGNER.public, session: bytes = SESSION) -> Message | None:
    parsed = parse_frame_start(plain)
    rest = payload.body[len(parsed.body) :]
    return open_body(parsed, parsed.body + rest, peer_key=key, session_id=session)


@pytest.mark.clause("5.2/4", "5.2/5", "5.2/8", "5.2/11")
@given(votes=st.lists(st.binary(max_size=300), max_size=20))
@settings(max_examples=60)
def test_what_is_signed_opens_to_the_same(votes: list[bytes]) -> None:
    payload = prepare(Votes(tuple(votes)))
    assert opened(start(payload), payload) == Votes(tuple(votes))


@pytest.mark.clause("5.2/8")
def test_a_repetitive_body_is_compressed_and_a_random_one_is_not() -> None:
    plain, random = Transactions((b"a" * 5000,)), Transactions((os.urandom(5000),))
    assert prepare(plain).flags == FLAG_COMPRESSED
    assert len(prepare(plain).body) < 100
    assert prepare(random).flags == 0
    for message in (plain, random):
        payload = prepare(message)
        assert opened(start(payload), payload) == message


@pytest.mark.clause("5.2/5")
def test_a_long_body_begins_in_the_frame_packet_and_no_more() -> None:
    payload = prepare(Transactions((os.urandom(100_000), os.urandom(100_000))))
    plain = start(payload)
    assert len(plain) == BODY_AT + DATA_BYTES_MAX
    for wrong in (plain + b"x", plain[:-1]):
        with pytest.raises(MalformedMessage, match="its header makes it"):
            parse_frame_start(wrong)


@pytest.mark.clause("5.2/9", "5.2/10")
def test_the_attachment_digest_stands_in_the_packet_and_under_the_signature() -> None:
    payload = prepare(BLOB, b"attachment")
    plain = start(payload)
    assert plain[BODY_AT : BODY_AT + 32] == content_digest(b"attachment")
    assert opened(plain, payload) == BLOB
    changed = plain[:BODY_AT] + bytes(32) + plain[BODY_AT + 32 :]
    with pytest.raises(BadSignature):
        opened(changed, payload)
    without = prepare(BLOB)
    assert without.attachment_digest == ZERO_DIGEST
    assert len(start(without)) == len(plain) - 32


@pytest.mark.clause("5.2/9")
def test_a_frame_belongs_to_its_session_its_signer_and_its_place() -> None:
    payload = prepare(Status(1))
    plain = start(payload)
    with pytest.raises(BadSignature):
        opened(plain, payload, session=b"t" * 32)
    with pytest.raises(BadSignature):
        opened(plain, payload, key=SecretKey(bytes(32)).public)
    for position in range(
        1 + 22, len(plain)
    ):  # sequence, signature and body; the fields before are checked by themselves
        changed = bytearray(plain)
        changed[position] ^= 1
        with pytest.raises(RemoteError):
            opened(bytes(changed), payload)


class Unlisted(Message, frozen=True):
    """A kind of some later version."""

    KIND: ClassVar[int] = 999
    height: int


@pytest.mark.clause("5.3/9")
def test_unknown_kinds_are_ignored_except_on_the_consensus_stream() -> None:
    payload = prepare(Unlisted(1))
    for stream in (1, 2, 900):
        assert opened(start(payload, stream=stream), payload) is None
    with pytest.raises(UnknownKind):
        opened(start(payload, stream=0), payload)
    unsigned = bytearray(start(payload, stream=1))
    unsigned[SIGNATURE_AT] ^= 1
    with pytest.raises(BadSignature):
        opened(bytes(unsigned), payload)


@pytest.mark.clause("5.3/8")
@pytest.mark.parametrize(
    ("message", "stream"), [(Status(1), 1), (Status(1), 2), (Transactions(()), 0), (Transactions(()), 5), (BLOB, 0)]
)
def test_a_kind_on_another_class_of_stream_than_its_own_is_refused(message: Message, stream: int) -> None:
    payload = prepare(message)
    with pytest.raises(MalformedMessage, match=f"on stream {stream}, it belongs on {int(message.PRIORITY)}"):
        opened(start(payload, stream=stream), payload)


@pytest.mark.clause("5.2/12")
def test_only_some_kinds_carry_an_attachment() -> None:
    payload = replace(prepare(Transactions(())), attachment=b"x", attachment_digest=content_digest(b"x"))
    bulk = replace(payload, kind=BLOB.KIND, priority=Priority.BULK)
    with pytest.raises(MalformedMessage):
        opened(start(payload, stream=1), payload)
    with pytest.raises(MalformedMessage):  # the body isn't a BlobReply's
        opened(start(bulk, stream=2), bulk)
    with pytest.raises(AssertionError):
        prepare(Status(1), b"x")


@pytest.mark.clause("5.2/1", "5.2/3", "5.2/4")
@pytest.mark.parametrize(
    ("position", "replacement", "error"),
    [
        (0, b"XX", MalformedMessage),
        (2, b"\x01", MalformedMessage),
        (2, b"\x03", MalformedMessage),
        (3, b"\x02", MalformedMessage),
        (3, b"\x80", MalformedMessage),
        (10, (BODY_BYTES_MAX + 1).to_bytes(4, "little"), OversizedMessage),
        (10, b"\xff\xff\xff\xff", OversizedMessage),
        (14, (BODY_BYTES_MAX + 1).to_bytes(4, "little"), OversizedMessage),
        (14, b"\x09\x00\x00\x00", MalformedMessage),
        (18, (ATTACHMENT_BYTES_MAX + 1).to_bytes(4, "little"), OversizedMessage),
        (18, b"\x01\x00\x00\x00", MalformedMessage),
    ],
)
def test_a_header_out_of_bounds_is_refused_at_once(position: int, replacement: bytes, error: type[RemoteError]) -> None:
    plain = bytearray(start(prepare(Status(1))))
    plain[1 + position : 1 + position + len(replacement)] = replacement
    with pytest.raises(error):
        parse_frame_start(bytes(plain))


def test_a_truncated_frame_packet_is_malformed_at_every_length() -> None:
    plain = start(prepare(BLOB, b"attachment"))
    for end in range(1, len(plain)):
        with pytest.raises(MalformedMessage):
            parse_frame_start(plain[:end])


@pytest.mark.clause("5.2/7")
def test_a_decompression_bomb_allocates_nothing() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(256 << 20))
    assert len(bomb) < 50_000
    for declared in (10, BODY_BYTES_MAX):
        payload = Payload(18, Priority.CONSENSUS, FLAG_COMPRESSED, bomb, declared, bytes(32), b"", ZERO_DIGEST)
        plain = start(payload)
        tracemalloc.start()
        try:
            with pytest.raises(MalformedMessage):
                opened(plain, payload)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


@pytest.mark.clause("5.2/7")
def test_zstd_must_be_one_frame_that_declares_its_size_within_the_window() -> None:
    body = encode(Votes((b"v" * 500,)))
    sized = zstandard.ZstdCompressor().compress(body)
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(body)
    assert decompress_body(sized, len(body)) == body
    for bad in (unsized, sized + b"x", sized + sized, sized[:-1], b"", b"\x28\xb5\x2f\xfd", sized[:9] + b"\xff" * 9):
        with pytest.raises(MalformedMessage):
            decompress_body(bad, len(body))
    with pytest.raises(MalformedMessage):
        decompress_body(sized, len(body) + 1)
    with pytest.raises(OversizedMessage):
        decompress_body(sized, BODY_BYTES_MAX + 1)
    # A frame written as a stream keeps its window apart from its content's size.
    parameters = zstandard.ZstdCompressionParameters(window_log=24)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=len(body))
    wide = stream.compress(body) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) + stream.flush()
    if zstandard.get_frame_parameters(wide).window_size > BODY_BYTES_MAX:
        with pytest.raises(MalformedMessage, match="window"):
            decompress_body(wide, len(body))


def test_what_is_too_large_to_send_is_our_own_error() -> None:
    with pytest.raises(LocalError, match="limits are"):
        prepare(Transactions((bytes(BODY_BYTES_MAX),)))
    with pytest.raises(LocalError, match="limits are"):
        prepare(BLOB, bytes(ATTACHMENT_BYTES_MAX + 1))
