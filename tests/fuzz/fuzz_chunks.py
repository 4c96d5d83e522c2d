"""The chunk codec. The first byte chooses the shard's spans and codec; the rest is the chunk."""

from __future__ import annotations

import struct
from typing import Final

from harness import Harness

from deepshard.shards.codec import decode_shard, encode_shard
from deepshard.shards.manifest import Codec, DType

SPANS: Final[tuple[list[tuple[DType, int]], ...]] = (
    [("bf16", 512)],
    [("f32", 400), ("i8", 37), ("f32", 12)],
    [("f16", 64), ("bf16", 0), ("bf16", 128)],
    [("i8", 4096)],
)
CODECS: Final[tuple[Codec, ...]] = ("planes", "xor-planes", "raw")


def content(spans: list[tuple[DType, int]]) -> bytes:
    return (b"\x3f\x80\x3f\x81" * 4096)[: sum(size for _, size in spans)]


def check(data: bytes) -> None:
    if not data:
        return
    spans, codec = SPANS[data[0] % len(SPANS)], CODECS[data[0] // len(SPANS) % len(CODECS)]
    base = bytes(len(content(spans))) if codec == "xor-planes" else None
    decoded = decode_shard(data[1:], spans, codec, base=base, name="fuzzed")
    assert len(decoded) == len(content(spans))


def seeds() -> dict[str, bytes]:
    found = {}
    for number, spans in enumerate(SPANS):
        for place, codec in enumerate(CODECS):
            base = bytes(len(content(spans))) if codec == "xor-planes" else None
            chunk = encode_shard(content(spans), spans, codec, base=base)
            found[f"spans-{number}-{codec}"] = bytes((place * len(SPANS) + number,)) + chunk
    stored = bytes(range(256)) * 16  # incompressible enough to be stored as it is
    found["stored"] = b"\x03" + struct.pack("<BI", 1, len(stored)) + stored
    return found


HARNESS: Final = Harness(check, seeds)
