"""State proofs (present and absent keys) and Merkle proofs: decoded, then checked against a root that is right or not.

The input chooses the key or the leaf. A proof that verifies must tell the truth.
"""

from __future__ import annotations

from typing import Final

import msgspec
from harness import Harness, Reader, chunked
from samples import LEAVES, small_trie

from deepshard.encoding import decode, encode
from deepshard.ledger.trie import Proof, verify_proof
from deepshard.limits import MIB
from deepshard.merkle import MerkleProof, merkle_prove, merkle_root, merkle_verify

TRIE: Final = small_trie()
ROOT: Final = merkle_root(LEAVES)


def check(data: bytes) -> None:
    reader = Reader(data)
    kind = reader.number()
    if kind & 1:
        leaf = reader.chunk()
        proof = decode(reader.chunk(), MerkleProof, bytes_max=MIB)
        merkle_verify(ROOT, leaf, proof, leaf_count=len(LEAVES))
        assert LEAVES[proof.index] == leaf
        return
    key, value = reader.chunk(), reader.chunk()
    claimed = None if kind & 2 else value
    verify_proof(TRIE.root, key, claimed, decode(reader.chunk(), Proof, bytes_max=MIB))
    assert TRIE.get(key) == claimed


def seeds() -> dict[str, bytes]:
    found = {}
    for number in (0, 7, 19):
        key = f"key {number}".encode()
        found[f"present-{number}"] = b"\x00" + chunked(key, TRIE.get(key) or b"", encode(TRIE.prove(key)))
    for key in (b"", b"key 20"):
        found[f"absent-{len(key)}"] = b"\x02" + chunked(key, b"", encode(TRIE.prove(key)))
    for index in (0, 4, 6):
        found[f"leaf-{index}"] = b"\x01" + chunked(LEAVES[index], encode(merkle_prove(LEAVES, index)))
    # Found by fuzzing: the last of seven leaves passed as the last of six, while the count was taken from the proof.
    other_count = msgspec.structs.replace(merkle_prove(LEAVES, 6), index=5, leaf_count=6)
    found["leaf-of-another-count"] = b"\x01" + chunked(LEAVES[6], encode(other_count))
    return found


HARNESS: Final = Harness(check, seeds, prefix_bytes=1, shape="chunks")
