"""Checks of `merkle.json`."""

from __future__ import annotations

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json, unspell
from deepshard.merkle import MerkleProof, merkle_prove, merkle_root, merkle_verify


def check(case: Fields) -> Json:
    """Compute a root, or verify a proof."""
    if "leaves" in case:
        leaves = [unspell(leaf) for leaf in case["leaves"]]
        for index, leaf in enumerate(leaves):
            merkle_verify(case.data("root"), leaf, merkle_prove(leaves, index), leaf_count=len(leaves))
        return {"root": merkle_root(leaves)}
    listed = case["proof"]
    siblings = tuple(unspell(sibling) for sibling in listed["siblings"])
    proof = MerkleProof(listed["index"], listed["leaf_count"], siblings)
    merkle_verify(case.data("root"), case.data("leaf"), proof, leaf_count=proof.leaf_count)
    return {}
