"""The chunk codec. The first byte chooses the shard's spans and codec; the rest is the chunk."""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
from harness import Harness

from deepshard.shards.codec import decode_lora, decode_shard, encode_lora_entry, encode_shard
from deepshard.shards.factors import Factors, merge_shard
from deepshard.shards.manifest import Codec, DType, TensorEntry, TensorSlice

SPANS: Final[tuple[list[tuple[DType, int]], ...]] = (
    [("bf16", 512)],
    [("f32", 400), ("i8", 37), ("f32", 12)],
    [("f16", 64), ("bf16", 0), ("bf16", 128)],
    [("i8", 4096)],
)
CODECS: Final[tuple[Codec, ...]] = ("planes", "xor-planes", "raw", "lora")
TENSORS: Final = (
    TensorEntry("up", "bf16", (16, 8)),
    TensorEntry("norm", "f32", (8,)),
    TensorEntry("down", "f16", (8, 16)),
    TensorEntry("codes", "i8", (4, 4)),
)
SLICES: Final = (
    (TensorSlice(0, 0, 16), TensorSlice(1, 0, 8), TensorSlice(2, 0, 8), TensorSlice(3, 0, 4)),
    (TensorSlice(0, 3, 5),),
    (TensorSlice(2, 0, 8, 2, 7),),
    (TensorSlice(1, 0, 8), TensorSlice(3, 0, 4)),
)
"""What a chunk of factors is for, in the place of spans."""
SIZES: Final = (256 + 32 + 256 + 16, 80, 112, 48)


def content(spans: list[tuple[DType, int]]) -> bytes:
    return (b"\x3f\x80\x3f\x81" * 4096)[: sum(size for _, size in spans)]


def check(data: bytes) -> None:
    if not data:
        return
    place = data[0] % len(SPANS)
    spans, codec = SPANS[place], CODECS[data[0] // len(SPANS) % len(CODECS)]
    if codec == "lora":
        merged = decode_lora(data[1:], TENSORS, SLICES[place], bytes(SIZES[place]), name="fuzzed")
        assert len(merged) == SIZES[place]
        return
    base = bytes(len(content(spans))) if codec == "xor-planes" else None
    decoded = decode_shard(data[1:], spans, codec, base=base, name="fuzzed")
    assert len(decoded) == len(content(spans))


def seeds() -> dict[str, bytes]:
    found = {}
    for number, spans in enumerate(SPANS):
        for place, codec in enumerate(CODECS[:3]):
            base = bytes(len(content(spans))) if codec == "xor-planes" else None
            chunk = encode_shard(content(spans), spans, codec, base=base)
            found[f"spans-{number}-{codec}"] = bytes((place * len(SPANS) + number,)) + chunk
    for number, slices in enumerate(SLICES):
        base = bytes(SIZES[number])
        factors = {
            tensor: Factors(np.ones((TENSORS[tensor].shape[0], 2), np.float32), np.ones((2, columns), np.float32))
            for tensor, columns in ((0, 8), (2, 16))
            if any(part.tensor == tensor for part in slices)
        }
        decoded = merge_shard(np.frombuffer(base, np.uint8), TENSORS, slices, factors)
        _, chunk = encode_lora_entry(slices, decoded.data, base=base, factors=factors)
        found[f"spans-{number}-lora"] = bytes((3 * len(SPANS) + number,)) + chunk
    stored = bytes(range(256)) * 16  # incompressible enough to be stored as it is
    found["stored"] = b"\x03" + struct.pack("<BI", 1, len(stored)) + stored
    return found


HARNESS: Final = Harness(check, seeds)
