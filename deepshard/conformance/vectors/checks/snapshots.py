"""Checks of `snapshots.json`."""

from __future__ import annotations

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json, unspell
from deepshard.encoding import decode, encode
from deepshard.ledger.trie import trie_of
from deepshard.ledger.trie_chunks import StateChunk, chunk_at, cursor_of, verify_chunk
from deepshard.limits import BODY_BYTES_MAX


def check(case: Fields) -> Json:
    """Cut a state, or verify a chunk of one."""
    if case["operation"] == "answer":
        trie = trie_of([(unspell(key), unspell(value)) for key, value in case["entries"]])
        chunk = chunk_at(trie, case.data("cursor"), bytes_max=case["bytes_max"])
        verify_chunk(trie.root, chunk)
        return {"chunk": chunk, "encoded": encode(chunk)}
    chunk = decode(case.data("encoded"), StateChunk, bytes_max=BODY_BYTES_MAX)
    paths = verify_chunk(case.data("root"), chunk)
    ends = {"first": cursor_of(paths[0]), "last": cursor_of(paths.stop - 1)}
    return {"chunk": chunk, "encoded": encode(chunk), **ends}
