r"""Proofs that some blocks are a part of the data with a given content address (protocol-spec, chapter 1.5).

A proof holds the hashes of the largest subtrees that have no block of the range, from left to right: those that a
walk from the root meets where it needn't look inside. For blocks 1 and 2 of 5:

                 root
               /      \
             *          4         proof = hash(0), hash(3), hash(4)
          /     \
         *       *
        / \     / \
       0  [1] [2]  3

The size of the data is a part of the address, so a wrong size is noticed with any range.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deepshard.errors import MalformedMessage, RemoteError
from deepshard.merkle import split_of
from deepshard.primitives import CONTENT_BLOCK_BYTES, block_hashes, node_hash, tagged_hash, tree_root


class CorruptRange(RemoteError):
    """Blocks, proof or size that don't lead to the content address they were asked for by."""

    penalty = 50


def block_count(size: int) -> int:
    """Blocks of data of `size` bytes: at least one, which is empty for no data."""
    return max(1, -(-size // CONTENT_BLOCK_BYTES))


def range_bytes(size: int, first: int, count: int) -> int:
    """Bytes of the blocks `first` to `first + count - 1` of data of `size` bytes, all of which must exist."""
    assert 0 <= first < first + count <= block_count(size)
    return min(size, (first + count) * CONTENT_BLOCK_BYTES) - first * CONTENT_BLOCK_BYTES


def range_proof(leaves: Sequence[bytes], first: int, count: int) -> tuple[bytes, ...]:
    """Proof of the blocks `first` to `first + count - 1` of the data with these leaves, all of which must exist."""
    assert 0 <= first < first + count <= len(leaves)
    return tuple(tree_root(leaves[low:high]) for low, high in _outside(0, len(leaves), first, first + count))


def proof_length(blocks: int, first: int, count: int) -> int:
    """How many hashes the proof of a range has; the range must exist."""
    assert 0 <= first < first + count <= blocks
    return sum(1 for _ in _outside(0, blocks, first, first + count))


def verify_range(
    address: bytes, *, size: int, first: int, count: int, data: bytes | bytearray | memoryview, proof: Sequence[bytes]
) -> None:
    """Check that `data` is `count` blocks, from block `first` on, of the `size` bytes with this content address.

    Nothing is hashed before all lengths are found right.

    Raises:
        MalformedMessage: there is no such range, or `data` or `proof` hasn't the length it must have.
        CorruptRange: the blocks, the proof or the size are wrong.
    """
    _check_bounds(size, first, count, proof)
    expected = range_bytes(size, first, count)
    if len(data) != expected:
        raise MalformedMessage(f"range of {len(data)} bytes, blocks {first} to {first + count - 1} have {expected}")
    verify_leaves(address, size=size, first=first, leaves=block_hashes(data), proof=proof)


def verify_leaves(address: bytes, *, size: int, first: int, leaves: Sequence[bytes], proof: Sequence[bytes]) -> None:
    """Check the hashes of blocks as `verify_range` checks blocks, where the blocks were hashed already.

    The caller has seen to it that those blocks have as many bytes as `range_bytes` says.

    Raises:
        MalformedMessage: there is no such range, or `proof` hasn't the length it must have.
        CorruptRange: the hashes, the proof or the size are wrong.
    """
    _check_bounds(size, first, len(leaves), proof)
    root = _root(0, block_count(size), first, leaves, iter(proof))
    if tagged_hash("content", size.to_bytes(8, "little"), root) != address:
        raise CorruptRange(f"blocks {first} to {first + len(leaves) - 1} of {size} bytes are not of {address.hex()}")


def _check_bounds(size: int, first: int, count: int, proof: Sequence[bytes]) -> None:
    if not 0 <= size < 2**63:
        raise MalformedMessage(f"range of data of {size} bytes")
    blocks = block_count(size)
    if not 0 <= first < first + count <= blocks:
        raise MalformedMessage(f"range of {count} blocks from block {first} on, there are {blocks}")
    expected = proof_length(blocks, first, count)
    if len(proof) != expected or any(len(digest) != 32 for digest in proof):
        raise MalformedMessage(f"range proof of {len(proof)} hashes, {expected} of 32 bytes are needed")


def _outside(low: int, high: int, first: int, end: int) -> Iterator[tuple[int, int]]:
    """Spans of the largest subtrees of the tree over [low, high) that have no leaf of [first, end)."""
    if end <= low or high <= first:
        yield low, high
    elif low < first or end < high:
        middle = low + split_of(high - low)
        yield from _outside(low, middle, first, end)
        yield from _outside(middle, high, first, end)


def _root(low: int, high: int, first: int, leaves: Sequence[bytes], proof: Iterator[bytes]) -> bytes:
    end = first + len(leaves)
    if end <= low or high <= first:
        return next(proof)
    if first <= low and high <= end:
        return tree_root(leaves[low - first : high - first])
    middle = low + split_of(high - low)
    left = _root(low, middle, first, leaves, proof)
    return node_hash(left, _root(middle, high, first, leaves, proof))
