from __future__ import annotations

import importlib.util
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshard.shards.codec import decode_shard, encode_shard
from deepshard.shards.manifest import DType
from kernels.plane_codec import ITEM_BYTES, _join, _split, join_planes, split_planes
from kernels.reference.plane_codec import planes_reference

NAMES: dict[torch.dtype, DType] = {
    torch.bfloat16: "bf16",
    torch.float16: "f16",
    torch.float32: "f32",
    torch.int8: "i8",
}


def weights(dtype: torch.dtype, elements: int, seed: int = 0) -> torch.Tensor:
    """Every pattern of bits, NaN and infinities among them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (elements * ITEM_BYTES[dtype],), generator=generator, dtype=torch.uint8).view(dtype)


def data(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def planes_of_chunk(chunk: bytes, count: int) -> list[bytes]:
    version, *table = struct.unpack_from(f"<B{count}I", chunk)
    assert version == 1
    start, planes = 1 + 4 * count, []
    for word in table:
        size = word & ~(1 << 31)
        piece = chunk[start : start + size]
        planes.append(zstandard.ZstdDecompressor().decompress(piece) if word >> 31 else piece)
        start += size
    return planes


@pytest.mark.parametrize("dtype", list(ITEM_BYTES))
@pytest.mark.parametrize("has_base", [False, True])
def test_planes_are_those_of_the_chunk_codec(dtype: torch.dtype, has_base: bool) -> None:  # noqa: FBT001
    weight = weights(dtype, 1000)
    base = weight.clone() if has_base else None
    if base is not None:
        base[::7] = weights(dtype, 143, seed=1)
    raw, name = data(weight), NAMES[dtype]
    spans = [(name, len(raw))]
    codec = "xor-planes" if has_base else "planes"
    chunk = encode_shard(raw, spans, codec, base=None if base is None else data(base))  # type: ignore[arg-type]
    found = split_planes(weight, base)
    assert (
        [data(plane) for plane in found] == planes_of_chunk(chunk, ITEM_BYTES[dtype]) == planes_reference(weight, base)
    )
    decoded = decode_shard(chunk, spans, codec, base=None if base is None else data(base))  # type: ignore[arg-type]
    assert data(join_planes(found, weight.shape, dtype, base)) == decoded == raw


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(ITEM_BYTES)), st.integers(0, 5), st.integers(0, 50), st.booleans())
def test_any_weight_comes_back(dtype: torch.dtype, rows: int, columns: int, has_base: bool) -> None:  # noqa: FBT001
    weight = weights(dtype, rows * columns).reshape(rows, columns)
    base = weights(dtype, rows * columns, seed=1).reshape(rows, columns) if has_base else None
    planes = split_planes(weight, base)
    assert [data(plane) for plane in planes] == planes_reference(weight, base)
    assert data(join_planes(planes, (rows, columns), dtype, base)) == data(weight)


def test_blocks_meet_without_a_seam() -> None:
    weight = weights(torch.bfloat16, (1 << 16) + 3)
    planes = split_planes(weight)
    assert [data(plane)[-9:] for plane in planes] == planes_reference(weight[-9:])
    assert data(join_planes(planes, weight.shape, weight.dtype)) == data(weight)


def test_views_are_taken_in_row_major_order() -> None:
    weight = weights(torch.bfloat16, 60).reshape(6, 10)
    assert torch.equal(split_planes(weight.T), split_planes(weight.T.contiguous()))
    assert torch.equal(split_planes(weight, weight.T.contiguous().T), torch.zeros(2, 60, dtype=torch.uint8))
    planes = torch.stack([split_planes(weight)] * 2, 2)[:, :, 0]
    assert data(join_planes(planes, (6, 10), torch.bfloat16)) == data(weight)


def test_the_operators_pass_opcheck() -> None:
    weight, base = torch.randn(3, 4).bfloat16(), torch.randn(3, 4).bfloat16()
    torch.library.opcheck(_split, (weight, base))
    torch.library.opcheck(_join, (split_planes(weight), [3, 4], torch.bfloat16, None))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3, dtype=torch.int64),), r"weight must be bf16, fp16, fp32 or int8, got torch.int64 \[3\]"),
        ((torch.zeros(3), torch.zeros(4)), r"base must be torch.float32 \[3\], got torch.float32 \[4\]"),
        ((torch.zeros(3), torch.zeros(3).half()), "base must be torch.float32"),
        ((torch.zeros(3), torch.zeros(3, device="meta")), "base is on meta, the weight on cpu"),
    ],
)
def test_wrong_weights_are_refused(arguments: tuple[torch.Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_planes(*arguments)


def test_wrong_planes_are_refused() -> None:
    planes = torch.zeros(2, 6, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"planes must be torch.uint8 \[2, 5\], got torch.uint8 \[2, 6\]"):
        join_planes(planes, (5,), torch.bfloat16)
    with pytest.raises(ValueError, match=r"planes must be torch.uint8 \[4, 6\]"):
        join_planes(planes, (6,), torch.float32)
    with pytest.raises(ValueError, match=r"planes must be torch\.uint8"):
        join_planes(planes.to(torch.int8), (6,), torch.bfloat16)
    with pytest.raises(ValueError, match=r"dtype must be .*, got torch\.int64"):
        join_planes(planes, (6,), torch.int64)
    with pytest.raises(ValueError, match=r"base must be torch.bfloat16 \[2, 3\]"):
        join_planes(planes, (2, 3), torch.bfloat16, torch.zeros(6).bfloat16())


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed on this platform")
def test_the_triton_kernels_agree_under_their_interpreter() -> None:
    # In a process of its own: the variable is read when Triton is imported.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("interpret_plane_codec.py")
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["agrees"] * 4
