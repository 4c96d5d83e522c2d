"""`merkle.json`: roots over lists and proofs of their leaves (chapter 1.6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec.structs import replace

from deepshard.conformance.vectors.document import Json, accept, digest_of, document, refuse
from deepshard.merkle import MerkleProof, merkle_prove
from deepshard.primitives import tagged_hash

_ROOT, _PROOF, _REFUSED = ("1.6/1", "1.5/3"), ("1.6/2",), ("1.6/3",)
_BAD: Final = "MalformedMessage"
_SIZES: Final = (1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 33)


def make() -> Json:
    """The file."""
    return document(
        "merkle",
        "Merkle trees over lists (chapter 1.6): roots, and proofs that hold or have to be refused.",
        [*_roots(), *_proofs(), *_bad_proofs()],
    )


def _leaves(count: int) -> list[bytes]:
    return [b"leaf %d" % index for index in range(count)]


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The tree by its definition: split at the largest power of two below the count."""
    if not leaves:
        return tagged_hash("merkle empty")
    if len(leaves) == 1:
        return tagged_hash("merkle leaf", leaves[0])
    middle = 1
    while 2 * middle < len(leaves):
        middle *= 2
    return tagged_hash("merkle node", root_of(leaves[:middle]), root_of(leaves[middle:]))


def _roots() -> Iterator[Json]:
    for count in (0, *_SIZES):
        leaves = _leaves(count)
        yield accept(f"root of {count} leaves", _ROOT, leaves=leaves, root=root_of(leaves))
    odd = {"an empty leaf": [b""], "equal leaves": [b"a", b"a"], "a leaf that looks like a node": [bytes(64)]}
    for name, leaves in odd.items():
        yield accept(f"root of {name}", _ROOT, leaves=leaves, root=root_of(leaves))


def _fields(leaves: list[bytes], proof: MerkleProof, *, root: bytes = b"", leaf: bytes | None = None) -> Json:
    shown = leaves[proof.index % len(leaves)] if leaf is None else leaf
    return {"root": root or root_of(leaves), "leaf": shown, "proof": proof}


def _proofs() -> Iterator[Json]:
    for count in (1, 2, 3, 5, 7, 8, 13):
        leaves = _leaves(count)
        for index in sorted({0, 1, count // 2, count - 2, count - 1} & set(range(count))):
            proof = merkle_prove(leaves, index)
            yield accept(f"leaf {index} of {count}", _PROOF, **_fields(leaves, proof))
    leaves = _leaves(7)
    alike = replace(merkle_prove(leaves, 4), leaf_count=8)
    note = "in a tree of eight the way to leaf 4 is the same: a proof alone doesn't tell how many leaves there are"
    yield accept("leaf 4 of 7, said to be of 8", _PROOF, note=note, **_fields(leaves, alike))


def _bad_proofs() -> Iterator[Json]:
    leaves = _leaves(7)
    good = merkle_prove(leaves, 4)
    other, stranger = digest_of("sibling"), digest_of("root")
    bent = [
        ("an index that isn't below the count", replace(good, index=7)),
        ("no leaves", replace(good, index=0, leaf_count=0)),
        ("another index", replace(good, index=5)),
        ("an index of the same depth on the other side", replace(good, index=3)),
        ("a smaller count", replace(good, leaf_count=5)),
        ("a sibling too few", replace(good, siblings=good.siblings[:-1])),
        ("a sibling too many", replace(good, siblings=(*good.siblings, other))),
        ("no siblings", replace(good, siblings=())),
        ("another sibling", replace(good, siblings=(other, *good.siblings[1:]))),
        ("siblings in the other order", replace(good, siblings=good.siblings[::-1])),
        ("a count near its bound, with the siblings of seven", replace(good, leaf_count=2**31 - 1)),
    ]
    for name, proof in bent:
        yield refuse(name, _REFUSED, _BAD, **_fields(leaves, proof, leaf=leaves[4]))
    yield refuse("another leaf", _REFUSED, _BAD, **_fields(leaves, good, leaf=leaves[5]))
    yield refuse("another root", _REFUSED, _BAD, **_fields(leaves, good, root=stranger))
    node = tagged_hash("merkle leaf", leaves[4]) + tagged_hash("merkle leaf", leaves[5])
    above = MerkleProof(2, 4, good.siblings[1:])
    yield refuse("a node for a leaf", _REFUSED, _BAD, **_fields(leaves, above, leaf=node))
    alone = MerkleProof(0, 1, ())
    yield refuse("the leaf for the root", _REFUSED, _BAD, **_fields(leaves, alone, leaf=root_of(leaves)))
