"""Bodies of frames: zstd within its declared size. The first four bytes are what the frame's header declares."""

from __future__ import annotations

from typing import Final

import zstandard
from harness import Harness

from deepshard.limits import BODY_BYTES_MAX, MIB
from deepshard.wire.frames import decompress_body

CONTENT: Final = b"deepshard " * 100


def check(data: bytes) -> None:
    declared = int.from_bytes(data[:4], "little")
    body = decompress_body(data[4:], declared)
    assert len(body) == declared <= BODY_BYTES_MAX


def seeds() -> dict[str, bytes]:
    def sized(data: bytes, declared: int) -> bytes:
        return declared.to_bytes(4, "little") + data

    compressor = zstandard.ZstdCompressor(level=1)
    bomb = compressor.compress(bytes(BODY_BYTES_MAX))
    unsized = zstandard.ZstdCompressor(level=1, write_content_size=False).compress(CONTENT)
    checked = zstandard.ZstdCompressor(level=1, write_checksum=True).compress(CONTENT)
    return {
        "text": sized(compressor.compress(CONTENT), len(CONTENT)),
        "bomb": sized(bomb, BODY_BYTES_MAX),
        "bomb-denied": sized(bomb, 100),
        "without-size": sized(unsized, len(CONTENT)),
        "with-checksum": sized(checked, len(CONTENT)),
        "two-frames": sized(compressor.compress(CONTENT) * 2, len(CONTENT)),
        "skippable": sized(b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd", 4),
    }


HARNESS: Final = Harness(check, seeds, memory_bytes_max=BODY_BYTES_MAX + MIB)
