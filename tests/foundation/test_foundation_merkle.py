"""Merkle trees: proofs hold for the leaf they are made for, and for nothing else."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepshard.errors import MalformedMessage
from deepshard.merkle import EMPTY_ROOT, leaf_hash, merkle_prove, merkle_root, merkle_verify

leaf_lists = st.lists(st.binary(max_size=8), min_size=1, max_size=40)


@given(leaf_lists, st.data())
def test_every_leaf_proves_and_no_other_does(leaves: list[bytes], data: st.DataObject) -> None:
    root = merkle_root(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof = merkle_prove(leaves, index)
    count = len(leaves)
    merkle_verify(root, leaves[index], proof, leaf_count=count)
    with pytest.raises(MalformedMessage):
        merkle_verify(root, leaves[index] + b"!", proof, leaf_count=count)
    other = data.draw(st.integers(0, len(leaves) - 1))
    if leaves[other] != leaves[index]:
        with pytest.raises(MalformedMessage):
            merkle_verify(root, leaves[index], msgspec.structs.replace(proof, index=other), leaf_count=count)
    for other_count in (count - 1, count + 1, 2 * count + 1):
        wrong = msgspec.structs.replace(proof, leaf_count=other_count)
        with pytest.raises(MalformedMessage):
            merkle_verify(root, leaves[index], wrong, leaf_count=count)
    with pytest.raises(MalformedMessage):
        merkle_verify(root, leaves[index], msgspec.structs.replace(proof, index=count), leaf_count=count)


def test_the_count_of_leaves_has_to_be_known() -> None:
    """A root doesn't bind it: the last of seven leaves would pass as the last of six."""
    leaves = [bytes([number]) for number in range(7)]
    as_of_six = msgspec.structs.replace(merkle_prove(leaves, 6), index=5, leaf_count=6)
    with pytest.raises(MalformedMessage, match="there are 7"):
        merkle_verify(merkle_root(leaves), leaves[6], as_of_six, leaf_count=7)


@given(leaf_lists, leaf_lists)
def test_different_lists_have_different_roots(a: list[bytes], b: list[bytes]) -> None:
    assert (merkle_root(a) == merkle_root(b)) == (a == b)


def test_roots_of_small_trees() -> None:
    assert merkle_root([]) == EMPTY_ROOT
    assert merkle_root([b"x"]) == leaf_hash(b"x")
    # An inner node passed off as a leaf doesn't have the inner node's hash.
    assert merkle_root([merkle_root([b"a", b"b"]), b"c"]) != merkle_root([b"a", b"b", b"c"])
