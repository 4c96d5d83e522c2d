"""Who holds which shard: weighted rendezvous hashing in integers, spread over failure domains.

Every holder i draws a number u_i in (0, 1] for a shard from a hash, and those with the smallest -log(u_i) / weight_i
hold it: then each holder's share is proportional to its weight, and a holder that leaves moves only the shards it held
(Schindelhauer and Schomaker, "Weighted distributed hash tables", SPAA 2005). All nodes must agree on the result, so
the logarithm is computed in fixed point by repeated squaring, with nothing left to a floating-point unit.

Of those, one after the other is taken that shares its operator and network with the fewest taken before. With labels of
one kind this keeps the minimal movement: the holders of a shard are the best of each domain, then the second best, and
so on, so one that comes or goes moves one copy at most. With two kinds that cross a move may push a second one.

A shard is known by its position in the model, not by its content: version z + 1 of a shard lives where version z does,
and a holder updates it with a delta.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from deepshard.primitives import tagged_hash

_FRACTION_BITS: Final = 32
_QUOTIENT_BITS: Final = 64


class Candidate(NamedTuple):
    """One who may hold shards: what it weighs, and what fails together with it. An empty label is shared by nobody."""

    address: bytes
    weight: int
    """Stake or capacity, in any unit; who weighs nothing holds nothing."""
    operator: str = ""
    network: str = ""


def shard_key(tensor_name: str, row_start: int, column_start: int = 0) -> bytes:
    """Identity of the shard that begins at a row and column of a tensor, the same in every version of one layout."""
    start = [row_start, column_start] if column_start else [row_start]
    return tagged_hash("shard position", tensor_name.encode(), *(number.to_bytes(8, "little") for number in start))


def holders(key: bytes, candidates: Sequence[Candidate], replication: int) -> tuple[bytes, ...]:
    """Addresses that hold the shard `key`, best first: `replication` of them, or all if there are fewer.

    The order of `candidates` is irrelevant.
    """
    ranked = [each for _, _, each in sorted(_rated(key, candidates))]
    chosen: list[Candidate] = []
    labels: Counter[tuple[str, str]] = Counter()
    passed: list[Candidate] = []
    for each in ranked:
        if len(chosen) == replication:
            return tuple(holder.address for holder in chosen)
        if _conflicts(each, labels):
            passed.append(each)
        else:
            _take(each, chosen, labels)
    while passed and len(chosen) < replication:
        # Conflicts only grow, so who had one before has one still; `min` takes the first of equals, the best rate.
        best = min(passed, key=lambda each: _conflicts(each, labels))
        passed.remove(best)
        _take(best, chosen, labels)
    return tuple(holder.address for holder in chosen)


def place(keys: Sequence[bytes], candidates: Sequence[Candidate], replication: int) -> list[tuple[bytes, ...]]:
    """Holders of every shard, by its place in `keys`; some 6 us for each pair of shard and candidate."""
    return [holders(key, candidates, replication) for key in keys]


def _rated(key: bytes, candidates: Sequence[Candidate]) -> list[tuple[int, bytes, Candidate]]:
    # The quotient is exact to 2^-64 of a unit, far finer than the cost itself; ties go to the lower address.
    return [
        ((_cost(key, each.address) << _QUOTIENT_BITS) // each.weight, each.address, each)
        for each in candidates
        if each.weight > 0
    ]


def _labels(candidate: Candidate) -> list[tuple[str, str]]:
    both = (("operator", candidate.operator), ("network", candidate.network))
    return [(kind, name) for kind, name in both if name]


def _conflicts(candidate: Candidate, taken: Counter[tuple[str, str]]) -> int:
    return sum(taken[label] for label in _labels(candidate))


def _take(candidate: Candidate, chosen: list[Candidate], labels: Counter[tuple[str, str]]) -> None:
    chosen.append(candidate)
    labels.update(_labels(candidate))


def _cost(key: bytes, address: bytes) -> int:
    """-log2 of the pair's uniform draw, times 2^_FRACTION_BITS."""
    draw = int.from_bytes(tagged_hash("placement", key, address)[:8], "little")
    return (64 << _FRACTION_BITS) - log2_fixed(draw + 1)


def log2_fixed(value: int) -> int:
    """Floor of log2(value) times 2^32 up to the squarings' truncation, for 1 <= value <= 2^64.

    The specified algorithm: with the mantissa in [1, 2) held as 64 fractional bits, square it, truncate to 64
    fractional bits, and where it has reached 2, halve it and emit a 1; 32 times.
    """
    exponent = value.bit_length() - 1
    mantissa = value << (64 - exponent)
    result = exponent
    for _ in range(_FRACTION_BITS):
        mantissa = mantissa * mantissa >> 64
        bit = mantissa >> 65
        mantissa >>= bit
        result = result << 1 | bit
    return result
