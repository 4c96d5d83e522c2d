"""Binary Merkle trees over ordered leaves, in the shape of RFC 6962, section 2.1, with BLAKE3.

Leaves and inner nodes are hashed under different tags, and the tree of n leaves splits at the largest power of two
below n, so no leaf can be read as a node and no two lists of leaves share a root.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepshard.encoding import Record
from deepshard.errors import MalformedMessage
from deepshard.primitives import Count, Digest, node_hash, tagged_hash, tree_root

EMPTY_ROOT = tagged_hash("merkle empty")


class MerkleProof(Record, frozen=True):
    """Path of one leaf to the root: siblings from the leaf upwards."""

    index: Count
    leaf_count: Count
    siblings: tuple[Digest, ...]


def leaf_hash(leaf: bytes) -> bytes:
    """Hash of one leaf."""
    return tagged_hash("merkle leaf", leaf)


def split_of(count: int) -> int:
    """Leaves of the left subtree of a tree of `count` > 1 leaves: the largest power of two below."""
    return 1 << (count - 1).bit_length() - 1


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Root over `leaves`; `EMPTY_ROOT` for none."""
    if not leaves:
        return EMPTY_ROOT
    return tree_root([leaf_hash(leaf) for leaf in leaves])


def merkle_prove(leaves: Sequence[bytes], index: int) -> MerkleProof:
    """Proof that `leaves[index]` stands at `index`. The index must be in range: asking otherwise is our bug."""
    assert 0 <= index < len(leaves)
    hashes = [leaf_hash(leaf) for leaf in leaves]
    siblings: list[bytes] = []
    low, high = 0, len(hashes)
    while high - low > 1:
        middle = low + split_of(high - low)
        if index < middle:
            siblings.append(tree_root(hashes[middle:high]))
            high = middle
        else:
            siblings.append(tree_root(hashes[low:middle]))
            low = middle
    return MerkleProof(index, len(leaves), tuple(reversed(siblings)))


def merkle_verify(root: bytes, leaf: bytes, proof: MerkleProof, *, leaf_count: int) -> None:
    """Check that `leaf` stands at `proof.index` among `leaf_count` leaves under `root`.

    The count must be known from elsewhere: the root doesn't bind it, and leaf 6 of 7 is also leaf 5 of 6.

    Raises:
        MalformedMessage: it doesn't.
    """
    if proof.leaf_count != leaf_count:
        raise MalformedMessage(f"merkle proof of {proof.leaf_count} leaves, there are {leaf_count}")
    if proof.index >= proof.leaf_count:
        raise MalformedMessage(f"merkle proof for leaf {proof.index} of {proof.leaf_count}")
    directions: list[bool] = []
    low, high = 0, proof.leaf_count
    while high - low > 1:
        middle = low + split_of(high - low)
        is_left = proof.index < middle
        directions.append(is_left)
        low, high = (low, middle) if is_left else (middle, high)
    if len(directions) != len(proof.siblings):
        raise MalformedMessage(f"merkle proof has {len(proof.siblings)} siblings, expected {len(directions)}")
    node = leaf_hash(leaf)
    for is_left, sibling in zip(reversed(directions), proof.siblings, strict=True):
        node = node_hash(node, sibling) if is_left else node_hash(sibling, node)
    if node != root:
        raise MalformedMessage("merkle proof does not lead to the root")
