"""`placement.json`: which validators hold which shard (chapter 8.10)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from deepshard.conformance.vectors.document import Json, accept, document, key_of
from deepshard.primitives import tagged_hash

_KEY, _LOGARITHM, _HOLDERS = ("8.10/1",), ("8.10/2",), ("8.10/2", "8.10/3")
_ADDRESSES: Final = tuple(sorted(key_of(f"validator {number}").address for number in range(7)))


def make() -> Json:
    """The file."""
    return document(
        "placement",
        "Placement (chapter 8.10): keys of shards, the logarithm in fixed point, and who holds what.",
        [*_keys(), *_logarithms(), *_holders()],
    )


def _key(name: str, row: int) -> bytes:
    return tagged_hash("shard position", name.encode(), row.to_bytes(8, "little"))


def _keys() -> Iterator[Json]:
    for name, row in (("model.embed_tokens.weight", 0), ("model.embed_tokens.weight", 1024), ("w", 2**31 - 1)):
        fields = {"tensor": name, "row": row, "key": _key(name, row)}
        yield accept(f"key of {name} from row {row}", _KEY, operation="key", **fields)


def _logarithm(argument: int) -> int:
    """The words of 8.10/2."""
    e = argument.bit_length() - 1
    m, r = argument * 2 ** (64 - e), e
    for _ in range(32):
        m = m * m // 2**64
        b = m // 2**65
        m, r = m // 2**b, 2 * r + b
    return r


def _logarithms() -> Iterator[Json]:
    for argument in (1, 2, 3, 10, 2**32 - 1, 2**32, 2**53 + 1, 0x9E3779B97F4A7C15, 2**64 - 1, 2**64):
        fields = {"argument": argument, "logarithm": _logarithm(argument)}
        yield accept(f"logarithm of {argument}", _LOGARITHM, operation="logarithm", **fields)


def _held_by(key: bytes, weights: Sequence[int], replication: int) -> list[bytes]:
    ranked = []
    for address, weight in zip(_ADDRESSES, weights, strict=False):
        draw = int.from_bytes(tagged_hash("placement", key, address)[:8], "little")
        cost = 64 * 2**32 - _logarithm(draw + 1)
        if weight:
            ranked.append((cost * 2**64 // weight, address))
    return [address for _, address in sorted(ranked)[:replication]]


def _holders() -> Iterator[Json]:
    for weights, replication in (
        ((1, 1, 1, 1), 3),
        ((1, 1, 1, 1), 1),
        ((10**12, 2 * 10**12, 3 * 10**12, 4 * 10**12, 5 * 10**12), 3),
        ((2**61, 1, 0, 2**53 + 1, 7, 0, 9), 4),
        ((5, 5), 3),
        ((0, 0, 1), 2),
        ((), 2),
    ):
        for row in (0, 512):
            key = _key("model.layers.0.mlp.weight", row)
            listed = [list(pair) for pair in zip(_ADDRESSES, weights, strict=False)]
            fields = {"key": key, "validators": listed, "replication": replication}
            held = _held_by(key, weights, replication)
            name = f"{replication} holders among weights {list(weights)}, row {row}"
            yield accept(name, _HOLDERS, operation="holders", **fields, holders=held)
