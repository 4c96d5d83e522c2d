"""Checks of `proofs.json`."""

from __future__ import annotations

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json, unspell
from deepshard.encoding import decode, encode
from deepshard.ledger.trie import Proof, trie_of, verify_proof

_BYTES_MAX = 1 << 16


def check(case: Fields) -> Json:
    """Compute a root, or verify a proof."""
    if case["operation"] == "root":
        entries = [(unspell(key), unspell(value)) for key, value in case["entries"]]
        trie = trie_of(entries)
        for key, value in entries:
            verify_proof(trie.root, key, value, trie.prove(key))
        return {"root": trie.root}
    proof = decode(case.data("encoded"), Proof, bytes_max=_BYTES_MAX)
    claimed = None if case["value"] is None else case.data("value")
    verify_proof(case.data("root"), case.data("key"), claimed, proof)
    return {"proof": proof, "encoded": encode(proof)}
