"""Chapter 5.2/7: compressed bodies, and what can be hidden in them."""

from __future__ import annotations

import struct
from typing import Any

import zstandard

from deepshard.conformance import expect
from deepshard.conformance import packets as wire
from deepshard.conformance.harness import Harness
from deepshard.conformance.registry import case
from deepshard.encoding import encode
from deepshard.limits import BODY_BYTES_MAX, MIB
from deepshard.wire.messages import Transactions

UNKNOWN_KIND = 60_000
MAGIC = 0xFD2FB528
BODY = encode(Transactions((bytes(100),) * 10))
"""A body that would be understood, so that what is refused is its compression."""


def zstd(body: bytes, *, level: int = 1, **options: Any) -> bytes:  # noqa: ANN401
    """One frame that declares its size."""
    parameters = zstandard.ZstdCompressionParameters.from_level(level, write_content_size=True, **options)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(body)


def by_hand(
    declared: int | None, blocks: list[bytes], *, window: int | None = None, dictionary: int | None = None
) -> bytes:
    """A zstd frame (RFC 8878, 3.1.1) built by hand: what no compressor makes."""
    descriptor, fields = 0, b""
    if window is not None:
        fields += bytes((window,))
    else:
        descriptor |= 0x20
    if dictionary is not None:
        descriptor |= 0x01
        fields += bytes((dictionary,))
    if declared is not None:
        descriptor |= 0xC0
        fields += struct.pack("<Q", declared)
    last = len(blocks) - 1
    body = b"".join(_last(block) if at == last else block for at, block in enumerate(blocks))
    return struct.pack("<I", MAGIC) + bytes((descriptor,)) + fields + body


def raw_block(data: bytes) -> bytes:
    """A block that holds its bytes as they are."""
    return (len(data) << 3).to_bytes(3, "little") + data


def rle_block(size: int) -> bytes:
    """Four bytes that stand for up to 128 KiB."""
    return (1 << 1 | size << 3).to_bytes(3, "little") + b"\x00"


def _last(block: bytes) -> bytes:
    return bytes((block[0] | 1,)) + block[1:]


def _without_size(body: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, write_content_size=False)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(body)


_SKIPPABLE = struct.pack("<II", 0x184D2A50, 4) + b"skip"
_BOMB_BLOCKS = [rle_block(128 * 1024)] * 8192
MALFORMED: dict[str, tuple[bytes, int]] = {
    "no bytes": (b"", len(BODY)),
    "no zstd": (b"\x00" * 50, len(BODY)),
    "plain under the flag": (BODY, len(BODY)),
    "no content size": (_without_size(BODY), len(BODY)),
    "content size one less than body_bytes": (zstd(BODY), len(BODY) + 1),
    "content size one more than body_bytes": (zstd(BODY), len(BODY) - 1),
    "content size beyond what it holds": (by_hand(len(BODY) + 1, [raw_block(BODY)]), len(BODY) + 1),
    "content size short of what it holds": (by_hand(len(BODY) - 1, [raw_block(BODY)]), len(BODY) - 1),
    "content size 2^40": (by_hand(1 << 40, [raw_block(BODY)]), len(BODY)),
    "content size 2^64 - 1": (by_hand(2**64 - 1, [raw_block(BODY)]), len(BODY)),
    "two frames": (zstd(BODY[:500]) + zstd(BODY[500:]), len(BODY)),
    "a byte after it": (zstd(BODY) + b"\x00", len(BODY)),
    "a skippable frame before it": (_SKIPPABLE + zstd(BODY), len(BODY)),
    "a skippable frame after it": (zstd(BODY) + _SKIPPABLE, len(BODY)),
    "a skippable frame alone": (_SKIPPABLE, len(BODY)),
    "its end missing": (zstd(BODY)[:-4], len(BODY)),
    "a wrong checksum": (zstd(BODY, write_checksum=True)[:-1] + b"\x00", len(BODY)),
    "a dictionary": (by_hand(len(BODY), [raw_block(BODY)], dictionary=7), len(BODY)),
    "a window of 8 MiB": (by_hand(len(BODY), [raw_block(BODY)], window=13 << 3), len(BODY)),
    "a window of 2 GiB": (by_hand(len(BODY), [raw_block(BODY)], window=21 << 3), len(BODY)),
    "the reserved bit": (zstd(BODY)[:4] + bytes((zstd(BODY)[4] | 8,)) + zstd(BODY)[5:], len(BODY)),
    "1 GiB in 32 KiB, declared as 1000 bytes": (by_hand(1000, _BOMB_BLOCKS), 1000),
    "1 GiB in 32 KiB, honestly declared": (by_hand(1024 * MIB, _BOMB_BLOCKS), BODY_BYTES_MAX),
    "a block of a reserved type": (by_hand(len(BODY), [b"\x06\x00\x00"]), len(BODY)),
}


@case("5.2/7", title="a compressed body with {} is refused", each=MALFORMED)
async def malformed(harness: Harness, entry: tuple[bytes, int]) -> None:
    sent, declared = entry
    peer = await harness.link()
    frame = peer.frame((UNKNOWN_KIND, BODY), sent=sent, header={"flags": wire.COMPRESSED, "body_bytes": declared})
    await peer.send_frame(frame, f"a compressed body of {len(sent)} bytes, body_bytes {declared}")
    await harness.refused(peer, "MalformedMessage")


@case(
    "5.2/7",
    title="a compressed body is taken: {}",
    each={
        "level 1": zstd(BODY),
        "level 19": zstd(BODY, level=19),
        "with a checksum": zstd(BODY, write_checksum=True),
        "in a block as it is": by_hand(len(BODY), [raw_block(BODY)]),
        "with a window of 4 MiB": by_hand(len(BODY), [raw_block(BODY)], window=12 << 3),
        "in many blocks": by_hand(len(BODY), [raw_block(BODY[at : at + 100]) for at in range(0, len(BODY), 100)]),
    },
)
async def taken(harness: Harness, sent: bytes) -> None:
    peer = await harness.link()
    frame = peer.frame((UNKNOWN_KIND, BODY), sent=sent, header={"flags": wire.COMPRESSED, "body_bytes": len(BODY)})
    await peer.send_frame(frame, f"a compressed body of {len(sent)} bytes")
    await expect.alive(peer)


@case("5.2/7", "5.2/9", title="a compressed body is signed as it was before compression")
async def signed_before(harness: Harness) -> None:
    peer = await harness.link()
    sent = zstd(BODY)
    frame = peer.frame((UNKNOWN_KIND, sent), sent=sent, header={"flags": wire.COMPRESSED, "body_bytes": len(BODY)})
    await peer.send_frame(frame, "a compressed body, signed after compression")
    await harness.refused(peer, "BadSignature")


@case("5.2/7", title="the largest body, of zeros, compressed to a few hundred bytes, is unpacked and no more")
async def largest(harness: Harness) -> None:
    peer = await harness.link()
    body = bytes(BODY_BYTES_MAX)
    frame = peer.frame(
        (UNKNOWN_KIND, body), sent=zstd(body), header={"flags": wire.COMPRESSED, "body_bytes": len(body)}
    )
    await peer.send_frame(frame, "4 MiB of zeros, compressed")
    await expect.alive(peer)
