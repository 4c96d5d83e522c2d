"""A state in pieces, each proven on its own against the state root (protocol-spec, chapter 10.8).

A chunk is a whole subtree of the state tree: its entries, and the branches from the root to it. The branches also say
for which paths it is responsible: for all between those of its neighbours. So the subtrees that a tree is cut into are
responsible for all paths without gap or overlap, and whoever holds verified chunks for all paths holds the state, with
no list of chunks that would have to be trusted. Servers may cut the tree differently; chunks of theirs fit together.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Final

import msgspec

from deepshard.encoding import Record
from deepshard.errors import MalformedMessage, RemoteError
from deepshard.ledger.trie import (
    EMPTY_ROOT,
    KEY_BYTES_MAX,
    PROOF_STEPS_MAX,
    ProofStep,
    Trie,
    climb,
    first_with_one,
    hash_of_entries,
    path_of,
    trie_of,
)
from deepshard.limits import SNAPSHOT_CHUNK_BYTES_MAX, SNAPSHOT_CHUNK_ENTRIES_MAX

PATHS: Final = 1 << 256
"""How many paths there are; they are numbered as big-endian integers."""


class InvalidStateChunk(RemoteError):
    """A chunk of a state that doesn't lead to its root, or isn't about the path that was asked for."""

    penalty = 50


class StateChunk(Record, frozen=True):
    """A subtree: the branches from the root down to it, and its entries in the order of their paths."""

    steps: Annotated[tuple[ProofStep, ...], msgspec.Meta(max_length=PROOF_STEPS_MAX)]
    entries: Annotated[
        tuple[tuple[Annotated[bytes, msgspec.Meta(max_length=KEY_BYTES_MAX)], bytes], ...],
        msgspec.Meta(max_length=SNAPSHOT_CHUNK_ENTRIES_MAX),
    ]


def chunk_at(trie: Trie, cursor: bytes, *, bytes_max: int = SNAPSHOT_CHUNK_BYTES_MAX) -> StateChunk:
    """The chunk that is responsible for the path `cursor`.

    Args:
        trie: the whole state.
        cursor: 32 bytes.
        bytes_max: see `Trie.subtree`; an entry larger than that is a chunk of its own.
    """
    return StateChunk(*trie.subtree(cursor, bytes_max=bytes_max))


def verify_chunk(root: bytes, chunk: StateChunk) -> range:
    """Check that a chunk is a whole subtree under `root`; the paths it is responsible for.

    Raises:
        MalformedMessage: no entries, entries or branches out of order, or entries that the branches part.
        InvalidStateChunk: it isn't of the state with this root.
    """
    if not chunk.entries:
        if chunk.steps:
            raise MalformedMessage("a chunk of a state has branches and no entries")
        if root != EMPTY_ROOT:
            raise InvalidStateChunk(f"a chunk without entries, the state has root {root.hex()}")
        return range(PATHS)
    paths = [path_of(key) for key, _ in chunk.entries]
    if any(low >= high for low, high in pairwise(paths)):
        raise MalformedMessage("entries of a state chunk are not in the order of their paths")
    bits = [step.bit for step in chunk.steps]
    if any(low >= high for low, high in pairwise(bits)):
        raise MalformedMessage("a state chunk decides by bits out of order")
    first = int.from_bytes(paths[0], "big")
    if bits and (first ^ int.from_bytes(paths[-1], "big")).bit_length() > 255 - bits[-1]:
        raise MalformedMessage("a branch above a state chunk parts its entries")
    found = climb(paths[0], hash_of_entries(chunk.entries), chunk.steps)
    if found != root:
        raise InvalidStateChunk(f"a chunk of {len(paths)} entries leads to root {found.hex()}, not {root.hex()}")
    # The last branch that has the chunk on its right is where its neighbour on the left ends; likewise on the right.
    low, high = 0, PATHS
    for bit in bits:
        divide = int.from_bytes(first_with_one(paths[0], bit), "big")
        if first >= divide:
            low = divide
        else:
            high = divide
    return range(low, high)


class Coverage:
    """For which paths chunks have been verified."""

    def __init__(self) -> None:
        """For none."""
        self._covered: list[range] = []
        """Ascending, neither overlapping nor adjoining."""

    def add(self, paths: range) -> bool:
        """Note that these are covered; whether any of them wasn't."""
        if any(paths.start >= known.start and paths.stop <= known.stop for known in self._covered):
            return False
        apart = [known for known in self._covered if known.stop < paths.start or known.start > paths.stop]
        joined = [paths, *(known for known in self._covered if known not in apart)]
        apart.append(range(min(one.start for one in joined), max(one.stop for one in joined)))
        self._covered = sorted(apart, key=lambda known: known.start)
        return True

    def gaps(self) -> list[range]:
        """What isn't covered, ascending."""
        edges = [0, *(edge for known in self._covered for edge in (known.start, known.stop)), PATHS]
        return [range(low, high) for low, high in zip(edges[::2], edges[1::2], strict=True) if low < high]

    @property
    def is_complete(self) -> bool:
        """Whether all paths are covered: the chunks are the whole state."""
        return self._covered == [range(PATHS)]


def cursor_of(path: int) -> bytes:
    """A numbered path as a request names it; 32 bytes."""
    return path.to_bytes(32, "big")


def assemble(chunks: Iterable[StateChunk]) -> Trie:
    """The state of verified chunks that cover all paths."""
    return trie_of(entry for chunk in chunks for entry in chunk.entries)
