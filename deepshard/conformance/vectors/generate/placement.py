"""`placement.json`: which validators hold which shard (chapter 8.10)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from deepshard.conformance.vectors.document import Json, accept, document, key_of
from deepshard.primitives import tagged_hash

_KEY, _LOGARITHM, _HOLDERS = ("8.10/1",), ("8.10/2",), ("8.10/2", "8.10/4")
_ADDRESSES: Final = tuple(sorted(key_of(f"validator {number}").address for number in range(7)))


def make() -> Json:
    """The file."""
    return document(
        "placement",
        "Placement (chapter 8.10): keys of shards, the logarithm in fixed point, and who holds what.",
        [*_keys(), *_logarithms(), *_holders()],
    )


def _key(name: str, row: int, column: int = 0) -> bytes:
    parts = [name.encode(), row.to_bytes(8, "little")]
    if column > 0:
        parts.append(column.to_bytes(8, "little"))
    return tagged_hash("shard position", *parts)


def _keys() -> Iterator[Json]:
    embed = "model.embed_tokens.weight"
    for name, row, column in ((embed, 0, 0), (embed, 1024, 0), (embed, 1024, 288), ("w", 2**31 - 1, 2**31 - 1)):
        fields = {"tensor": name, "row": row, "column": column, "key": _key(name, row, column)}
        yield accept(f"key of {name} from row {row}, column {column}", _KEY, operation="key", **fields)


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


def _rate(key: bytes, address: bytes, weight: int) -> int:
    draw = int.from_bytes(tagged_hash("placement", key, address)[:8], "little")
    return (64 * 2**32 - _logarithm(draw + 1)) * 2**64 // weight


def _held_by(key: bytes, candidates: Sequence[tuple[bytes, int, str, str]], replication: int) -> list[bytes]:
    """The words of 8.10/4."""
    chosen: list[tuple[bytes, int, str, str]] = []

    def badness(candidate: tuple[bytes, int, str, str]) -> tuple[int, int, bytes]:
        address, weight, operator, network = candidate
        with_operator = sum(1 for _, _, other, _ in chosen if other == operator != "")
        with_network = sum(1 for _, _, _, other in chosen if other == network != "")
        return with_operator + with_network, _rate(key, address, weight), address

    left = [candidate for candidate in candidates if candidate[1] > 0]
    while left and len(chosen) < replication:
        best = min(left, key=badness)
        left.remove(best)
        chosen.append(best)
    return [candidate[0] for candidate in chosen]


def _holders() -> Iterator[Json]:
    for weights, operators, networks, replication in (
        ((1, 1, 1, 1), "", "", 3),
        ((1, 1, 1, 1), "", "", 1),
        ((10**12, 2 * 10**12, 3 * 10**12, 4 * 10**12, 5 * 10**12), "", "", 3),
        ((2**61, 1, 0, 2**53 + 1, 7, 0, 9), "", "", 4),
        ((5, 5), "", "", 3),
        ((0, 0, 1), "", "", 2),
        ((), "", "", 2),
        ((1,) * 7, "aabbccd", "", 3),
        ((1,) * 7, "", "aabbccd", 4),
        ((1,) * 7, "aaaaabb", "", 3),
        ((1,) * 7, "aaaaaaa", "", 3),
        ((1,) * 7, "aabbcc-", "adbecfa", 3),
        ((1,) * 7, "aabbaab", "ababbab", 5),
        ((9, 8, 7, 6, 5, 4, 3), "a--b--a", "-b-b-b-", 3),
        ((0, 10**12, 1, 2, 3, 4, 5), "aaabbbb", "abcabca", 3),
    ):
        for row in (0, 512):
            key = _key("model.layers.0.mlp.weight", row)
            labels = [[text[i : i + 1].strip("-") for i in range(len(weights))] for text in (operators, networks)]
            listed = list(zip(_ADDRESSES, weights, *labels, strict=False))
            name = f"{replication} holders among weights {list(weights)}, row {row}"
            name += f", operators {operators}" if operators else ""
            name += f", networks {networks}" if networks else ""
            fields = {"key": key, "candidates": listed, "replication": replication}
            yield accept(name, _HOLDERS, operation="holders", **fields, holders=_held_by(key, listed, replication))
