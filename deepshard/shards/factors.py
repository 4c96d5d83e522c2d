"""Low-rank updates: a shard as its base plus a product of two thin matrices, the same bytes on every machine.

LoRA (arXiv 2106.09685) trains `B A` beside a frozen matrix W of `rows x columns`, with B of `rows x rank` and A of
`rank x columns`. What is stored of the update is B and A in bf16, any scale being part of B. A holder merges them:

    s = B[:, 0] * A[0, :];  for k = 1 to rank - 1 in this order: s = s + B[:, k] * A[k, :];  W' = round(W + s)

each product and each sum by itself a binary32 operation of IEEE 754, rounded to nearest with ties to even and never
fused, and `round` to the stored type in the same way. Products of bf16 are exact in binary32; no library's order of
summation, no BLAS and no compiler's contraction has a say. Each element depends on its own row of B and column of A
alone, so any rows and columns of a matrix are merged to the bytes that the whole has there.

Form of a `lora` chunk, integers little-endian:

    ranks      u16 for each tensor of the shard, in the order in which its slices first name them; 0: as in the base
    factors    a `planes` chunk (see `codec`) of the bf16 elements of B, then A, row by row, of each tensor of rank > 0

A chunk holds the factors of whole tensors whichever rows and columns of them the shard has, so the shards of one large
tensor share one chunk, and a version's factors are there once.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from deepshard.limits import CHUNK_DECODED_BYTES_MAX, LORA_RANK_MAX
from deepshard.shards.errors import CorruptChunk
from deepshard.shards.layout import ITEM_BYTES, row_elements, tensor_rows
from deepshard.shards.manifest import TensorEntry, TensorSlice
from deepshard.shards.planes import Bytes
from deepshard.shards.rounding import FLOAT_TYPES, Floats, narrow, require_subnormals, to_bf16, widen

_PIECE_ELEMENTS: Final = 1 << 15
"""Elements merged at a time: sum, product and base stay in the second-level cache."""
_ITEM_BYTES: Final = ITEM_BYTES["bf16"]


class Factors(NamedTuple):
    """Factors of one matrix, every value one that bf16 has: B [rows, rank] and A [rank, columns]."""

    b: Floats
    a: Floats


def can_have_factors(tensor: TensorEntry) -> bool:
    """Whether the tensor is a matrix of a floating-point type; no other is stored as factors."""
    return len(tensor.shape) == 2 and tensor.dtype in FLOAT_TYPES


def factor_bytes(tensor: TensorEntry, rank: int) -> int:
    """Bytes of a matrix's factors before they are compressed."""
    return rank * (tensor_rows(tensor) + row_elements(tensor)) * _ITEM_BYTES


def round_factors(b: Floats, a: Floats) -> Factors:
    """Factors of values that bf16 has, to nearest with ties to even."""
    return Factors(*(widen(to_bf16(values).view(np.uint8), "bf16") for values in (b, a)))


def merge(base: Bytes, tensor: TensorEntry, factors: Factors) -> Bytes:
    """The bytes [rows, bytes of a row] of a block of a matrix, merged with its rows of B and columns of A.

    Raises:
        FlushedSubnormals: this thread doesn't compute as IEEE 754 says.
    """
    require_subnormals()
    (rows, rank), columns = factors.b.shape, factors.a.shape[1]
    assert factors.a.shape[0] == rank > 0
    assert base.shape == (rows, columns * ITEM_BYTES[tensor.dtype])
    merged = np.empty_like(base)
    height = max(1, _PIECE_ELEMENTS // max(1, columns))
    products = np.empty((height, columns), np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for top in range(0, rows, height):
            b = factors.b[top : top + height]
            product = products[: len(b)]
            total = b[:, :1] * factors.a[:1]
            for k in range(1, rank):
                # Two calls, so that no compiler makes one fused operation of them.
                np.multiply(b[:, k : k + 1], factors.a[k : k + 1], out=product)
                np.add(total, product, out=total)
            np.add(widen(base[top : top + height], tensor.dtype), total, out=total)
            merged[top : top + height] = narrow(total, tensor.dtype)
    return merged


def merge_shard(
    base: Bytes, tensors: Sequence[TensorEntry], slices: Sequence[TensorSlice], factors: Mapping[int, Factors]
) -> Bytes:
    """Decoded bytes of a shard: `base`, its parent's, merged with the factors of its tensors, by their numbers."""
    merged = base.copy()
    start = 0
    for part in slices:
        tensor = tensors[part.tensor]
        columns = part.column_count or row_elements(tensor)
        size = part.row_count * columns * ITEM_BYTES[tensor.dtype]
        found = factors.get(part.tensor)
        if found is not None and size:
            b = found.b[part.row_start : part.row_start + part.row_count]
            a = found.a[:, part.column_start : part.column_start + columns]
            block = base[start : start + size].reshape(part.row_count, -1)
            merged[start : start + size] = merge(block, tensor, Factors(b, a)).reshape(-1)
        start += size
    return merged


def pack_factors(slices: Sequence[TensorSlice], factors: Mapping[int, Factors]) -> tuple[bytes, bytes]:
    """The ranks of a shard's tensors, and the elements of their factors, as a chunk has them."""
    numbers = _tensors_of(slices)
    ranks = [factors[number].b.shape[1] if number in factors else 0 for number in numbers]
    parts = [part for number in numbers if number in factors for part in factors[number]]
    return struct.pack(f"<{len(ranks)}H", *ranks), b"".join(to_bf16(part).tobytes() for part in parts)


def read_ranks(
    chunk: bytes, tensors: Sequence[TensorEntry], slices: Sequence[TensorSlice], name: str
) -> tuple[dict[int, int], int, int]:
    """Ranks by number of the tensor where they aren't 0, the bytes they take, and those of all the factors.

    Nothing is allocated for a rank that the chunk declares.

    Raises:
        CorruptChunk: the chunk ends here, or declares a rank that its tensor can't have.
    """
    numbers = _tensors_of(slices)
    if len(chunk) < 2 * len(numbers):
        raise CorruptChunk(name, f"chunk of {len(chunk)} bytes ends in its {len(numbers)} ranks")
    declared = zip(numbers, struct.unpack_from(f"<{len(numbers)}H", chunk), strict=True)
    ranks = {number: rank for number, rank in declared if rank}
    for number, rank in ranks.items():
        tensor = tensors[number]
        if not can_have_factors(tensor):
            raise CorruptChunk(name, f"{tensor.name} is no matrix of floating-point numbers, and has factors")
        if rank > LORA_RANK_MAX:
            raise CorruptChunk(name, f"the factors of {tensor.name} have rank {rank}, the limit is {LORA_RANK_MAX}")
    size = sum(factor_bytes(tensors[number], rank) for number, rank in ranks.items())
    if size > CHUNK_DECODED_BYTES_MAX:
        raise CorruptChunk(name, f"its factors are {size} bytes, the limit is {CHUNK_DECODED_BYTES_MAX}")
    return ranks, 2 * len(numbers), size


def unpack_factors(
    elements: Bytes, ranks: Mapping[int, int], tensors: Sequence[TensorEntry], name: str
) -> dict[int, Factors]:
    """Factors by number of their tensor, from the elements of all of them.

    Raises:
        CorruptChunk: one isn't finite.
    """
    values = widen(elements, "bf16")
    if not np.isfinite(values).all():
        raise CorruptChunk(name, "its factors hold values that are not finite")
    factors: dict[int, Factors] = {}
    start = 0
    for number, rank in ranks.items():
        rows, columns = tensor_rows(tensors[number]), row_elements(tensors[number])
        middle, end = start + rows * rank, start + (rows + columns) * rank
        factors[number] = Factors(values[start:middle].reshape(rows, rank), values[middle:end].reshape(rank, columns))
        start = end
    return factors


def _tensors_of(slices: Sequence[TensorSlice]) -> list[int]:
    return list(dict.fromkeys(part.tensor for part in slices))
