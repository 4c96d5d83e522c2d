"""Binary Merkle trees over ordered leaves, in the shape of RFC 6962, section 2.1, with BLAKE3.

Leaves and inner nodes are hashed under different tags, and the tree of n leaves splits at the largest power of two
below n, so no leaf can be read as a node and no two lists of leaves share a root.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepshard.encoding import Record
from deepshard.errors import MalformedMessage
from deepshard.primitives import Count, Digest, tagged_hash

EMPTY_ROOT = tagged_hash("merkle empty")


class MerkleProof(Record, frozen=True):
    """Path of one leaf to the root: siblings from the leaf upwards."""

    index: Count
    leaf_count: Count
    siblings: tuple[Digest, ...]


def leaf_hash(leaf: bytes) -> bytes:
    """Hash of one leaf."""
    return tagged_hash("merkle leaf", leaf)


def _node_hash(left: bytes, right: bytes) -> bytes:
    return tagged_hash("merkle node", left, right)


def _split(count: int) -> int:
    return 1 << (count - 1).bit_length() - 1


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Root over `leaves`; `EMPTY_ROOT` for none."""
    if not leaves:
        return EMPTY_ROOT
    return _root_of([leaf_hash(leaf) for leaf in leaves])


def _root_of(hashes: Sequence[bytes]) -> bytes:
    # Pairing neighbours level by level and carrying an odd last node up gives RFC 6962's split.
    level = list(hashes)
    while len(level) > 1:
        paired = [_node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(level) & ~1 :]
    return level[0]


def merkle_prove(leaves: Sequence[bytes], index: int) -> MerkleProof:
    """Proof that `leaves[index]` stands at `index`. The index must be in range: asking otherwise is our bug."""
    assert 0 <= index < len(leaves)
    hashes = [leaf_hash(leaf) for leaf in leaves]
    siblings: list[bytes] = []
    low, high = 0, len(hashes)
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            siblings.append(_root_of(hashes[middle:high]))
            high = middle
        else:
            siblings.append(_root_of(hashes[low:middle]))
            low = middle
    return MerkleProof(index, len(leaves), tuple(reversed(siblings)))


def merkle_verify(root: bytes, leaf: bytes, proof: MerkleProof) -> None:
    """Check that `leaf` stands at `proof.index` among `proof.leaf_count` leaves under `root`.

    Raises:
        MalformedMessage: it doesn't.
    """
    if proof.index >= proof.leaf_count:
        raise MalformedMessage(f"merkle proof for leaf {proof.index} of {proof.leaf_count}")
    directions: list[bool] = []
    low, high = 0, proof.leaf_count
    while high - low > 1:
        middle = low + _split(high - low)
        is_left = proof.index < middle
        directions.append(is_left)
        low, high = (low, middle) if is_left else (middle, high)
    if len(directions) != len(proof.siblings):
        raise MalformedMessage(f"merkle proof has {len(proof.siblings)} siblings, expected {len(directions)}")
    node = leaf_hash(leaf)
    for is_left, sibling in zip(reversed(directions), proof.siblings, strict=True):
        node = _node_hash(node, sibling) if is_left else _node_hash(sibling, node)
    if node != root:
        raise MalformedMessage("merkle proof does not lead to the root")
