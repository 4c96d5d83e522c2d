"""`snapshots.json`: chunks of a state, and what has to be refused of them (chapter 10.8).

The state is cut here as the chapter words it: from the set of entries, without the code's own tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec.structs import replace

from deepshard.conformance.vectors.document import Json, accept, digest_of, document, refuse
from deepshard.conformance.vectors.generate.proofs import Entry, bit_of, critical, divided, path_of, root_of
from deepshard.encoding import encode
from deepshard.ledger.trie import ProofStep
from deepshard.ledger.trie_chunks import StateChunk

_ANSWER, _VERIFY = ("10.8/1", "10.8/2", "10.8/3"), ("10.8/2", "10.8/7")
_ORDER, _EMPTY, _LEADS = ("10.8/5",), ("10.8/6",), ("10.8/7",)
_MALFORMED, _INVALID = "MalformedMessage", "InvalidStateChunk"
_LAST: Final = bytes([255]) * 32


def make() -> Json:
    """The file."""
    return document(
        "snapshots",
        "Chunks of a state (chapter 10.8): which answers for a path, what each is responsible for, and bad ones.",
        [*_answers(), *_verified(), *_bad()],
    )


def _entries(count: int) -> list[Entry]:
    return [(b"account/" + digest_of(f"key {number}")[:20], b"value %d" % number) for number in range(count)]


def _counts(entries: Sequence[Entry]) -> int:
    return sum(len(key) + len(value) + 64 for key, value in entries)


def _divide(entries: Sequence[Entry], bit: int) -> bytes:
    """The lowest path with the bits before `bit` of the entries, and a one there."""
    path = path_of(entries[0][0])
    bits = [bit_of(path, at) for at in range(bit)] + [1] + [0] * (255 - bit)
    return int("".join(map(str, bits)), 2).to_bytes(32, "big")


def _cut(entries: Sequence[Entry], cursor: bytes, bytes_max: int) -> tuple[StateChunk, bytes, bytes]:
    """The chunk that is responsible for a path, and the first and last path that it is responsible for."""
    rest, steps, first, last = list(entries), list[ProofStep](), bytes(32), _LAST
    while len(rest) > 1 and _counts(rest) > bytes_max:
        bit = critical(rest)
        sides, divide = divided(rest, bit), _divide(rest, bit)
        taken = int(cursor >= divide)
        if taken:
            first = divide
        else:
            last = (int.from_bytes(divide, "big") - 1).to_bytes(32, "big")
        steps.append(ProofStep(bit, root_of(sides[1 - taken])))
        rest = sides[taken]
    ordered = sorted(rest, key=lambda entry: path_of(entry[0]))
    return StateChunk(tuple(steps), tuple(ordered)), first, last


def _answers() -> Iterator[Json]:
    large = [*_entries(5), (b"large", bytes(400))]
    cursors = (bytes(32), digest_of("a path"), _LAST)
    for name, entries, bytes_max in (
        ("an empty state", [], 500),
        ("one entry", _entries(1), 500),
        ("20 entries that fit", _entries(20), 4000),
        ("20 entries", _entries(20), 400),
        ("20 entries, one in each chunk", _entries(20), 1),
        ("an entry beyond the bound", large, 300),
    ):
        for number, cursor in enumerate(cursors if len(entries) > 1 else cursors[:1]):
            chunk, _, _ = _cut(entries, cursor, bytes_max)
            shown: Json = {"entries": entries, "cursor": cursor, "bytes_max": bytes_max}
            title = f"{name}, path {number}"
            yield accept(title, _ANSWER, operation="answer", **shown, chunk=chunk, encoded=encode(chunk))


def _verified() -> Iterator[Json]:
    entries = _entries(12)
    cursor, number = bytes(32), 0
    while True:
        chunk, first, last = _cut(entries, cursor, 300)
        fields = _fields(root_of(entries), chunk)
        yield accept(f"chunk {number} of a state", _VERIFY, **fields, first=first, last=last)
        if last == _LAST:
            break
        cursor, number = (int.from_bytes(last, "big") + 1).to_bytes(32, "big"), number + 1
    empty = _fields(root_of([]), StateChunk((), ()))
    yield accept("the chunk of an empty state", (*_VERIFY, "10.8/6"), **empty, first=bytes(32), last=_LAST)


def _fields(root: bytes, chunk: StateChunk) -> Json:
    return {"operation": "verify", "root": root, "chunk": chunk, "encoded": encode(chunk)}


def _bad() -> Iterator[Json]:
    entries = _entries(20)
    root = root_of(entries)
    good, _, last = _cut(entries, bytes(32), 700)
    other, _, _ = _cut(entries, (int.from_bytes(last, "big") + 1).to_bytes(32, "big"), 700)
    assert len(good.entries) > 2
    assert len(good.steps) > 1
    (key, value), step = good.entries[1], good.steps[-1]
    forged = (good.entries[0], (key, value + b"!"), *good.entries[2:])
    wrong: list[tuple[str, tuple[str, ...], str, StateChunk]] = [
        ("another value", _LEADS, _INVALID, replace(good, entries=forged)),
        ("an entry missing", _LEADS, _INVALID, replace(good, entries=good.entries[1:])),
        ("entries of the neighbour", _LEADS, _INVALID, replace(good, entries=other.entries)),
        ("an entry twice", _ORDER, _MALFORMED, replace(good, entries=(good.entries[0], *good.entries))),
        ("entries backwards", _ORDER, _MALFORMED, replace(good, entries=good.entries[::-1])),
        ("steps backwards", _ORDER, _MALFORMED, replace(good, steps=good.steps[::-1])),
        ("a step twice", _ORDER, _MALFORMED, replace(good, steps=(*good.steps, step))),
        ("a step that parts the entries", _ORDER, _MALFORMED, replace(good, steps=(replace(step, bit=255),))),
        ("another sibling", _LEADS, _INVALID, replace(good, steps=(*good.steps[:-1], replace(step, sibling=root)))),
        ("a step too few", _LEADS, _INVALID, replace(good, steps=good.steps[1:])),
        ("no entries", _EMPTY, _MALFORMED, replace(good, entries=())),
        ("nothing, of a state that isn't empty", _EMPTY, _INVALID, StateChunk((), ())),
    ]
    for name, clauses, error, chunk in wrong:
        yield refuse(name, clauses, error, **_fields(root, chunk))
    yield refuse("another root", _LEADS, _INVALID, **_fields(digest_of("root"), good))
    many = StateChunk((step,) * 161, good.entries)
    yield refuse("161 steps", ("10.8/1",), _MALFORMED, **_fields(root, many))
