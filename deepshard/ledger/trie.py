"""A persistent, authenticated map from bytes to bytes.

Two crit-bit trees (D. J. Bernstein's name for a path-compressed binary radix tree) over the same entries share one
implementation. The *hash tree* is ordered by the tagged hash of the key, so that its depth stays logarithmic whatever
keys an attacker picks; it carries the Merkle hashes. The *key tree* is ordered by the key itself, carries no hashes,
and serves listings by prefix. Nodes are immutable: a change copies one path, so every earlier root stays readable.

Hashes, with `path = tagged_hash("trie key", key)`:

- leaf: `tagged_hash("trie leaf", path, tagged_hash("trie value", value))`;
- branch: `tagged_hash("trie branch", bit as two big-endian bytes, left, right)`, where `bit` counts from the most
  significant bit of the path and keys with a zero there are on the left;
- empty map: `tagged_hash("trie empty")`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Final

import msgspec

from deepshard.encoding import Record
from deepshard.errors import MalformedMessage
from deepshard.primitives import Digest, tagged_hash

KEY_BYTES_MAX: Final = 128
PROOF_STEPS_MAX: Final = 160
"""A longer path would need two keys whose hashes agree in 160 bits."""
ENTRY_OVERHEAD_BYTES: Final = 64
"""What an entry counts for beside its key and value, where subtrees are measured."""
EMPTY_ROOT: Final = tagged_hash("trie empty")


class ProofStep(Record, frozen=True):
    """A branch on the way from the root: the bit it decides by and the hash of the side not taken."""

    bit: Annotated[int, msgspec.Meta(ge=0, le=255)]
    sibling: Digest


class ProofLeaf(Record, frozen=True):
    """The leaf found where an absent key would be."""

    path: Digest
    value_hash: Digest


class Proof(Record, frozen=True):
    """Path of one key from the root downwards; `other` is the leaf met instead where the key is absent.

    An absent key in an empty map has neither steps nor another leaf.
    """

    steps: Annotated[tuple[ProofStep, ...], msgspec.Meta(max_length=PROOF_STEPS_MAX)]
    other: ProofLeaf | None


class _Leaf:
    __slots__ = ("cached", "key", "path", "value")

    def __init__(self, path: bytes, key: bytes, value: bytes) -> None:
        self.path, self.key, self.value = path, key, value
        self.cached: bytes | None = None


class _Branch:
    __slots__ = ("bit", "cached", "left", "right", "size")

    def __init__(self, bit: int, left: _Node, right: _Node) -> None:
        self.bit, self.left, self.right = bit, left, right
        self.cached: bytes | None = None
        self.size: int | None = None


_Node = _Leaf | _Branch


def _bit_of(path: bytes, bit: int) -> int:
    return path[bit >> 3] >> (7 - (bit & 7)) & 1


def path_of(key: bytes) -> bytes:
    """Place of a key in the hash tree; 32 bytes."""
    return tagged_hash("trie key", key)


def _key_path(key: bytes) -> bytes:
    # Padding keeps the order of keys; the length at the end keeps apart what the padding made equal.
    return key.ljust(KEY_BYTES_MAX, b"\x00") + bytes([len(key)])


def _leaf_hash(path: bytes, value_hash: bytes) -> bytes:
    return tagged_hash("trie leaf", path, value_hash)


def _branch_hash(bit: int, left: bytes, right: bytes) -> bytes:
    return tagged_hash("trie branch", bit.to_bytes(2, "big"), left, right)


def _hash_of(node: _Node) -> bytes:
    if node.cached is None:
        if isinstance(node, _Leaf):
            node.cached = _leaf_hash(node.path, tagged_hash("trie value", node.value))
        else:
            node.cached = _branch_hash(node.bit, _hash_of(node.left), _hash_of(node.right))
    return node.cached


def _size_of(node: _Node) -> int:
    if isinstance(node, _Leaf):
        return len(node.key) + len(node.value) + ENTRY_OVERHEAD_BYTES
    if node.size is None:
        node.size = _size_of(node.left) + _size_of(node.right)
    return node.size


def _leaves_of(root: _Node | None) -> Iterator[_Leaf]:
    """Leaves below a node in the order of their paths."""
    pending = [] if root is None else [root]
    while pending:
        node = pending.pop()
        if isinstance(node, _Branch):
            pending += (node.right, node.left)
        else:
            yield node


def _find(root: _Node | None, path: bytes) -> _Leaf | None:
    """The leaf that a search for `path` ends at, whether or not it has that path."""
    node = root
    while isinstance(node, _Branch):
        node = node.right if _bit_of(path, node.bit) else node.left
    return node


def _rebuild(stack: list[_Branch], path: bytes, node: _Node) -> _Node:
    for parent in reversed(stack):
        if _bit_of(path, parent.bit):
            node = _Branch(parent.bit, parent.left, node)
        else:
            node = _Branch(parent.bit, node, parent.right)
    return node


def _first_difference(one: bytes, other: bytes) -> int:
    """The first bit in which two paths of one length differ; their length in bits if none does."""
    return len(one) * 8 - (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_length()


def _join(leaves: Sequence[_Leaf]) -> _Node | None:
    """The tree over leaves in strictly ascending order of their paths: each branch is made once, when it is whole."""
    if not leaves:
        return None
    open_branches: list[tuple[int, _Node]] = []
    node: _Node = leaves[0]
    for before, leaf in pairwise(leaves):
        bit = _first_difference(before.path, leaf.path)
        while open_branches and open_branches[-1][0] > bit:
            node = _Branch(*open_branches.pop(), node)
        open_branches.append((bit, node))
        node = leaf
    while open_branches:
        node = _Branch(*open_branches.pop(), node)
    return node


def _insert(root: _Node | None, leaf: _Leaf) -> _Node:
    met = _find(root, leaf.path)
    if root is None or met is None:
        return leaf
    critical = _first_difference(met.path, leaf.path)
    stack: list[_Branch] = []
    node = root
    while isinstance(node, _Branch) and node.bit < critical:
        stack.append(node)
        node = node.right if _bit_of(leaf.path, node.bit) else node.left
    new: _Node = leaf
    if critical < len(leaf.path) * 8:
        goes_right = _bit_of(leaf.path, critical)
        new = _Branch(critical, node, leaf) if goes_right else _Branch(critical, leaf, node)
    return _rebuild(stack, leaf.path, new)


def _merge(root: _Node | None, leaves: Sequence[_Leaf]) -> _Node | None:
    """`root` with leaves in strictly ascending order of their paths: each branch that changes is made once."""
    if root is None or not leaves:
        return root if root is not None else _join(leaves)
    if isinstance(root, _Branch) and len(leaves) > 1:
        met = _find(root, leaves[0].path)
        assert met is not None
        # All paths below a branch agree in the bits before its own; leaves between two that agree with them do, too.
        if min(_first_difference(met.path, leaf.path) for leaf in (leaves[0], leaves[-1])) >= root.bit:
            middle = bisect_left(leaves, 1, key=lambda leaf: _bit_of(leaf.path, root.bit))
            left, right = _merge(root.left, leaves[:middle]), _merge(root.right, leaves[middle:])
            assert left is not None
            assert right is not None
            return _Branch(root.bit, left, right)
    node = root
    for leaf in leaves:
        node = _insert(node, leaf)
    return node


def _remove(root: _Node, path: bytes) -> _Node | None:
    """`root` without the leaf of `path`, which must be there."""
    stack: list[_Branch] = []
    node = root
    while isinstance(node, _Branch):
        stack.append(node)
        node = node.right if _bit_of(path, node.bit) else node.left
    if not stack:
        return None
    parent = stack.pop()
    sibling = parent.left if _bit_of(path, parent.bit) else parent.right
    return _rebuild(stack, path, sibling)


class Trie:
    """An immutable map with a Merkle root; `set` and `delete` return a new map and leave this one as it is."""

    __slots__ = ("_by_hash", "_by_key")

    def __init__(self, by_hash: _Node | None = None, by_key: _Node | None = None) -> None:
        """Without arguments: the empty map."""
        self._by_hash, self._by_key = by_hash, by_key

    @property
    def root(self) -> bytes:
        """Merkle root; computed once per changed node."""
        return EMPTY_ROOT if self._by_hash is None else _hash_of(self._by_hash)

    def get(self, key: bytes) -> bytes | None:
        """Value of `key`, or None."""
        path = path_of(key)
        leaf = _find(self._by_hash, path)
        return leaf.value if leaf is not None and leaf.path == path else None

    def set(self, key: bytes, value: bytes) -> Trie:
        """The map with `key` at `value`. Keys are our own, at most `KEY_BYTES_MAX` long."""
        assert len(key) <= KEY_BYTES_MAX
        return Trie(
            _insert(self._by_hash, _Leaf(path_of(key), key, value)),
            _insert(self._by_key, _Leaf(_key_path(key), key, value)),
        )

    def update(self, entries: Iterable[tuple[bytes, bytes]]) -> Trie:
        """The map with all these entries, of different keys: what `set` makes of one after the other, made at once."""
        entries = list(entries)
        assert all(len(key) <= KEY_BYTES_MAX for key, _ in entries)
        by_hash = sorted((_Leaf(path_of(key), key, value) for key, value in entries), key=lambda leaf: leaf.path)
        by_key = sorted((_Leaf(_key_path(key), key, value) for key, value in entries), key=lambda leaf: leaf.path)
        return Trie(_merge(self._by_hash, by_hash), _merge(self._by_key, by_key))

    def delete(self, key: bytes) -> Trie:
        """The map without `key`; the same map if it isn't there."""
        if self._by_hash is None or self._by_key is None or self.get(key) is None:
            return self
        return Trie(_remove(self._by_hash, path_of(key)), _remove(self._by_key, _key_path(key)))

    def items(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Entries whose key begins with `prefix`, in the order of their keys."""
        node = self._by_key
        while isinstance(node, _Branch) and node.bit < len(prefix) * 8:
            node = node.right if _bit_of(prefix, node.bit) else node.left
        for leaf in _leaves_of(node):
            if leaf.key.startswith(prefix):
                yield leaf.key, leaf.value

    def prove(self, key: bytes) -> Proof:
        """Proof of the value of `key`, or of its absence, under `root`."""
        path = path_of(key)
        steps: list[ProofStep] = []
        node = self._by_hash
        while isinstance(node, _Branch):
            taken, sibling = (node.right, node.left) if _bit_of(path, node.bit) else (node.left, node.right)
            steps.append(ProofStep(node.bit, _hash_of(sibling)))
            node = taken
        other = None
        if node is not None and node.path != path:
            other = ProofLeaf(node.path, tagged_hash("trie value", node.value))
        return Proof(tuple(steps), other)

    def subtree(self, path: bytes, *, bytes_max: int) -> tuple[tuple[ProofStep, ...], tuple[tuple[bytes, bytes], ...]]:
        """The largest subtree of at most `bytes_max` that is responsible for a path, or the one entry that is.

        A branch divides the paths it is responsible for at the lowest path that shares the bits before `bit` with its
        entries and has a one there. A subtree is measured by its keys and values and `ENTRY_OVERHEAD_BYTES` for each.

        Returns:
            The branches from the root to it, and its entries in the order of their paths.
        """
        steps: list[ProofStep] = []
        node = self._by_hash
        while isinstance(node, _Branch) and _size_of(node) > bytes_max:
            divide = first_with_one(next(_leaves_of(node)).path, node.bit)
            taken, sibling = (node.right, node.left) if path >= divide else (node.left, node.right)
            steps.append(ProofStep(node.bit, _hash_of(sibling)))
            node = taken
        return tuple(steps), tuple((leaf.key, leaf.value) for leaf in _leaves_of(node))


def first_with_one(path: bytes, bit: int) -> bytes:
    """The lowest path that shares the bits before `bit` with `path` and has a one at `bit`."""
    rest = len(path) * 8 - bit
    return ((int.from_bytes(path, "big") >> rest << rest) | 1 << (rest - 1)).to_bytes(len(path), "big")


def trie_of(entries: Iterable[tuple[bytes, bytes]]) -> Trie:
    """The map of `entries`; of entries with one key the last counts."""
    leaves = {}
    for key, value in entries:
        assert len(key) <= KEY_BYTES_MAX
        leaves[key] = _Leaf(path_of(key), key, value), _Leaf(_key_path(key), key, value)
    by_hash = sorted((leaf for leaf, _ in leaves.values()), key=lambda leaf: leaf.path)
    by_key = sorted((leaf for _, leaf in leaves.values()), key=lambda leaf: leaf.path)
    return Trie(_join(by_hash), _join(by_key))


def hash_of_entries(entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Hash of the subtree over entries, which are in strictly ascending order of their paths; at least one."""
    node = _join([_Leaf(path_of(key), key, value) for key, value in entries])
    assert node is not None
    return _hash_of(node)


def climb(path: bytes, node: bytes, steps: Sequence[ProofStep]) -> bytes:
    """The root above a node of hash `node`, through the branches that a search for `path` takes to it."""
    for step in reversed(steps):
        right = _bit_of(path, step.bit)
        node = _branch_hash(step.bit, step.sibling, node) if right else _branch_hash(step.bit, node, step.sibling)
    return node


def verify_proof(root: bytes, key: bytes, value: bytes | None, proof: Proof) -> None:
    """Check that `key` has `value` under `root`, or (None) that it has none.

    A search in a crit-bit tree is decided by the searched key's own bits, so the leaf it ends at is the only place
    where the key could be: another leaf there proves its absence.

    Raises:
        MalformedMessage: the proof doesn't show it.
    """
    path = path_of(key)
    bits = [step.bit for step in proof.steps]
    if any(low >= high for low, high in pairwise(bits)):
        raise MalformedMessage("state proof decides by bits out of order")
    if value is not None:
        if proof.other is not None:
            raise MalformedMessage("state proof names another leaf for a present key")
        node = _leaf_hash(path, tagged_hash("trie value", value))
    elif proof.other is None:
        if proof.steps or root != EMPTY_ROOT:
            raise MalformedMessage("state proof of an absent key names no leaf")
        return
    else:
        other = proof.other
        if other.path == path or any(_bit_of(other.path, bit) != _bit_of(path, bit) for bit in bits):
            raise MalformedMessage("state proof of an absent key ends at a leaf that its search can't reach")
        node = _leaf_hash(other.path, other.value_hash)
    if climb(path, node, proof.steps) != root:
        raise MalformedMessage("state proof does not lead to the root")
