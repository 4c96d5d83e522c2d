"""Chunks of a state: decoded, then checked against a root that is right. What verifies must be whole and true."""

from __future__ import annotations

from typing import Final

from harness import Harness
from samples import small_trie

from deepshard.encoding import decode, encode
from deepshard.ledger.trie import path_of
from deepshard.ledger.trie_chunks import StateChunk, chunk_at, cursor_of, verify_chunk
from deepshard.limits import BODY_BYTES_MAX

TRIE: Final = small_trie()
ENTRIES: Final = dict(TRIE.items())


def check(data: bytes) -> None:
    chunk = decode(data, StateChunk, bytes_max=BODY_BYTES_MAX)
    paths = verify_chunk(TRIE.root, chunk)
    inside = {key: value for key, value in ENTRIES.items() if int.from_bytes(path_of(key), "big") in paths}
    assert dict(chunk.entries) == inside


def seeds() -> dict[str, bytes]:
    found = {}
    for bytes_max in (1, 300, 1 << 20):
        for number in (0, 7, 13):
            chunk = chunk_at(TRIE, cursor_of(number << 252), bytes_max=bytes_max)
            found[f"{bytes_max}-{number}"] = encode(chunk)
    return found


HARNESS: Final = Harness(check, seeds, shape="record")
