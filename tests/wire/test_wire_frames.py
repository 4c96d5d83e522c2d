from __future__ import annotations

import os
import tracemalloc
from typing import ClassVar

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_aegis256_decrypt, crypto_aead_aegis256_encrypt

from deepshard.encoding import encode
from deepshard.errors import BadSignature, LocalError, MalformedMessage, OversizedMessage, RemoteError
from deepshard.identity.keys import SecretKey
from deepshard.limits import ATTACHMENT_BYTES_MAX, BODY_BYTES_MAX
from deepshard.primitives import content_digest
from deepshard.wire.frames import (
    _HEADER,
    FIRST_BOX_BYTES_MAX,
    FIRST_BOX_BYTES_MIN,
    FLAG_COMPRESSED,
    PREFIX_BYTES,
    TAG_BYTES,
    FrameOpener,
    FrameSealer,
    OpenedFrame,
    Payload,
    TamperedFrame,
    UnknownKind,
    decompress_body,
    frame_sizes,
    prepare,
)
from deepshard.wire.messages import BlobReply, BlobStatus, Message, Priority, Status, Transactions, Votes

KEY, SESSION = b"k" * 32, b"s" * 32
SIGNER = SecretKey(b"\x05" * 32)
BLOB = BlobReply(1, b"d" * 32, BlobStatus.FOUND)


def sealer(**limits: int) -> FrameSealer:
    return FrameSealer(SIGNER, KEY, SESSION, **limits)


def opener(**limits: int) -> FrameOpener:
    return FrameOpener(SIGNER.public, KEY, SESSION, **limits)


def open_frame(receiver: FrameOpener, frame: bytes) -> OpenedFrame:
    first, second = frame_sizes(frame[:PREFIX_BYTES])
    middle = PREFIX_BYTES + first
    return receiver.open(frame[:PREFIX_BYTES], frame[PREFIX_BYTES:middle], frame[middle : middle + second])


def seal(message: Message, attachment: bytes = b"") -> bytes:
    return b"".join(sealer().seal(prepare(message, attachment)))


def reseal(frame: bytes, position: int, replacement: bytes) -> bytes:
    """Change the sealed bytes of a first box as their sender could, leaving the signature as it was."""
    prefix, nonce = frame[:PREFIX_BYTES], bytes(32)
    plain = bytearray(crypto_aead_aegis256_decrypt(frame[PREFIX_BYTES:], prefix, nonce, KEY))
    plain[position : position + len(replacement)] = replacement
    return prefix + crypto_aead_aegis256_encrypt(bytes(plain), prefix, nonce, KEY)


@given(
    votes=st.lists(st.binary(max_size=300), max_size=20),
    attachment=st.binary(max_size=2000),
)
@settings(max_examples=60)
def test_what_is_sealed_opens_to_the_same(votes: list[bytes], attachment: bytes) -> None:
    message = Votes(tuple(votes))
    opened = open_frame(opener(), seal(message, attachment))
    assert opened == OpenedFrame(message, attachment, content_digest(attachment))


def test_a_repetitive_body_is_compressed_and_a_random_one_is_not() -> None:
    plain, random = Transactions((b"a" * 5000,)), Transactions((os.urandom(5000),))
    assert prepare(plain).flags == FLAG_COMPRESSED
    assert len(seal(plain)) < 400
    assert prepare(random).flags == 0
    for message in (plain, random):
        assert open_frame(opener(), seal(message)).message == message


@pytest.mark.parametrize("attachment", [b"", b"x" * 40])
def test_no_byte_may_change(attachment: bytes) -> None:
    frame = seal(BLOB, attachment)
    for position in range(len(frame)):
        changed = bytearray(frame)
        changed[position] ^= 1
        with pytest.raises(RemoteError):
            open_frame(opener(), bytes(changed))


def test_a_frame_cannot_be_repeated_or_overtake_another() -> None:
    sender, receiver = sealer(), opener()
    frames = [b"".join(sender.seal(prepare(Status(height)))) for height in range(3)]
    assert open_frame(receiver, frames[0]).message == Status(0)
    for wrong in (frames[0], frames[2]):
        with pytest.raises(TamperedFrame):
            open_frame(receiver, wrong)


def test_a_frame_belongs_to_its_session_and_its_signer() -> None:
    frame = seal(Status(1))
    with pytest.raises(BadSignature):
        open_frame(FrameOpener(SIGNER.public, KEY, b"t" * 32), frame)
    with pytest.raises(BadSignature):
        open_frame(FrameOpener(SecretKey(bytes(32)).public, KEY, SESSION), frame)
    with pytest.raises(TamperedFrame):
        open_frame(FrameOpener(SIGNER.public, b"l" * 32, SESSION), frame)


def test_the_signature_covers_header_body_and_attachment() -> None:
    small = seal(Status(1))
    height = _HEADER.size + 1
    with pytest.raises(BadSignature):
        open_frame(opener(), reseal(small, height, b"\x02"))
    with pytest.raises(BadSignature):
        open_frame(opener(), reseal(small, len(small) - PREFIX_BYTES - TAG_BYTES - 1, b"\x00"))
    sent = sealer().seal(prepare(BLOB, b"attachment"))
    other = sealer().seal(prepare(BLOB, b"ATTACHMENT"))
    with pytest.raises(BadSignature):
        open_frame(opener(), sent[0] + other[1])


class Unlisted(Message, frozen=True):
    """A kind of some later version."""

    KIND: ClassVar[int] = 999
    height: int


def test_unknown_kinds_are_ignored_except_on_the_consensus_stream() -> None:
    assert open_frame(opener(), seal(Unlisted(1))).message is None
    payload = prepare(Unlisted(1))
    on_consensus = Payload(
        999,
        Priority.CONSENSUS,
        0,
        payload.body,
        payload.body_bytes,
        payload.body_digest,
        b"",
        payload.attachment_digest,
    )
    with pytest.raises(UnknownKind):
        open_frame(opener(), b"".join(sealer().seal(on_consensus)))


def test_a_kind_on_another_stream_than_its_own_is_refused() -> None:
    payload = prepare(Status(1))
    moved = Payload(
        payload.kind,
        Priority.BULK,
        0,
        payload.body,
        payload.body_bytes,
        payload.body_digest,
        b"",
        payload.attachment_digest,
    )
    with pytest.raises(MalformedMessage, match="stream 2"):
        open_frame(opener(), b"".join(sealer().seal(moved)))


@pytest.mark.parametrize(
    ("position", "replacement"),
    [(0, b"XX"), (2, b"\x02"), (3, b"\x80"), (7, b"\xff"), (11, b"\xff"), (15, b"\x01"), (19, b"\x01")],
    ids=["magic", "version", "flags", "sent bytes", "body bytes", "attachment bytes", "sequence"],
)
def test_a_header_that_lies_is_malformed(position: int, replacement: bytes) -> None:
    with pytest.raises(MalformedMessage):
        open_frame(opener(), reseal(seal(Status(1)), position, replacement))


def bomb_payload(body: bytes, body_bytes: int) -> Payload:
    return Payload(18, Priority.CONSENSUS, FLAG_COMPRESSED, body, body_bytes, bytes(32), b"", content_digest(b""))


def test_a_decompression_bomb_allocates_nothing() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(256 << 20))
    assert len(bomb) < 50_000
    for declared in (256 << 20, 10, BODY_BYTES_MAX):
        frame = b"".join(sealer().seal(bomb_payload(bomb, declared)))
        tracemalloc.start()
        try:
            with pytest.raises(RemoteError):
                open_frame(opener(), frame)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


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
    parameters = zstandard.ZstdCompressionParameters(window_log=24)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=len(body))
    wide = stream.compress(body) + stream.flush()
    if zstandard.get_frame_parameters(wide).window_size > BODY_BYTES_MAX:
        with pytest.raises(MalformedMessage, match="window"):
            decompress_body(wide, len(body))


@pytest.mark.parametrize(
    ("first", "second", "error"),
    [
        (FIRST_BOX_BYTES_MAX + 1, 0, OversizedMessage),
        (2**32 - 1, 0, OversizedMessage),
        (FIRST_BOX_BYTES_MIN, ATTACHMENT_BYTES_MAX + TAG_BYTES + 1, OversizedMessage),
        (FIRST_BOX_BYTES_MIN - 1, 0, MalformedMessage),
        (0, 0, MalformedMessage),
        (FIRST_BOX_BYTES_MIN, TAG_BYTES, MalformedMessage),
        (FIRST_BOX_BYTES_MIN, 1, MalformedMessage),
    ],
)
def test_sizes_out_of_bounds_are_refused(first: int, second: int, error: type[RemoteError]) -> None:
    with pytest.raises(error):
        frame_sizes(first.to_bytes(4, "little") + second.to_bytes(4, "little"))


def test_keys_change_after_frames_and_after_bytes_on_both_ends_alike() -> None:
    for limits in ({"rekey_frames": 3}, {"rekey_bytes": 300}):
        sender, receiver = sealer(**limits), opener(**limits)
        keys = set()
        for height in range(10):
            frame = b"".join(sender.seal(prepare(Status(height))))
            assert open_frame(receiver, frame).message == Status(height)
            keys.add(sender._keys._key)
        assert len(keys) == 4
    late = opener(rekey_frames=4)
    sender = sealer(rekey_frames=3)
    for height in range(3):
        open_frame(late, b"".join(sender.seal(prepare(Status(height)))))
    with pytest.raises(TamperedFrame):
        open_frame(late, b"".join(sender.seal(prepare(Status(3)))))


def test_what_is_too_large_to_send_is_our_own_error() -> None:
    with pytest.raises(LocalError, match="limits are"):
        prepare(Transactions((bytes(BODY_BYTES_MAX),)))
    with pytest.raises(LocalError, match="limits are"):
        prepare(BLOB, bytes(ATTACHMENT_BYTES_MAX + 1))
