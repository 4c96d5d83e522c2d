"""Who holds which shard: weighted rendezvous hashing in integers.

Every holder i draws a number u_i in (0, 1] for a shard from a hash, and those with the smallest -log(u_i) / weight_i
hold it: then each holder's share is proportional to its weight, and a holder that leaves moves only the shards it held
(Schindelhauer and Schomaker, "Weighted distributed hash tables", SPAA 2005). All nodes must agree on the result, so
the logarithm is computed in fixed point by repeated squaring, with nothing left to a floating-point unit.

A shard is known by its position in the model, not by its content: version z + 1 of a shard lives where version z does,
and a holder updates it with a delta.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from deepshard.primitives import tagged_hash
from deepshard.shards.manifest import Manifest

_FRACTION_BITS: Final = 32
_QUOTIENT_BITS: Final = 64


def shard_key(tensor_name: str, row_start: int) -> bytes:
    """Identity of the shard that begins at a row of a tensor, the same in every version of one layout; 32 bytes."""
    return tagged_hash("shard position", tensor_name.encode(), row_start.to_bytes(8, "little"))


def shard_identity(manifest: Manifest, index: int) -> bytes:
    """Key of shard number `index` of a checked manifest."""
    first = manifest.shards[index].slices[0]
    return shard_key(manifest.tensors[first.tensor].name, first.row_start)


def shard_keys(manifest: Manifest) -> list[bytes]:
    """Keys of all shards of a checked manifest, in their order."""
    return [shard_identity(manifest, index) for index in range(len(manifest.shards))]


def holders(key: bytes, validators: Sequence[tuple[bytes, int]], replication: int) -> tuple[bytes, ...]:
    """Addresses that hold the shard `key`, best first: `replication` of them, or all if there are fewer.

    Args:
        validators: address and weight (stake, or capacity) of each; a weight of 0 holds nothing. Their order is
            irrelevant.
    """
    ranked = sorted(
        # The quotient is exact to 2^-64 of a unit, far finer than the cost itself; ties go to the lower address.
        ((_cost(key, address) << _QUOTIENT_BITS) // weight, address)
        for address, weight in validators
        if weight > 0
    )
    return tuple(address for _, address in ranked[:replication])


def shards_of(
    address: bytes, keys: Sequence[bytes], validators: Sequence[tuple[bytes, int]], replication: int
) -> tuple[int, ...]:
    """Numbers of the shards, by their place in `keys`, that `address` holds."""
    return tuple(number for number, key in enumerate(keys) if address in holders(key, validators, replication))


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
