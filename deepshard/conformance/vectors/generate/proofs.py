"""`proofs.json`: roots of the state tree, proofs of presence and absence (chapter 10.6).

The tree is hashed here as the chapter words it: from the set of entries, without the code's own tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec.structs import replace

from deepshard.conformance.vectors.document import Json, accept, digest_of, document, refuse
from deepshard.encoding import encode
from deepshard.ledger.trie import Proof, ProofLeaf, ProofStep
from deepshard.primitives import tagged_hash

_ROOT, _PRESENT, _ABSENT = (
    ("10.6/1", "10.6/2", "10.6/3", "10.6/4", "10.6/5"),
    ("10.6/6", "10.6/8", "10.6/10"),
    ("10.6/6", "10.6/9", "10.6/10"),
)
_BITS, _VALUE, _ABSENCE, _LEADS = ("10.6/7",), ("10.6/8",), ("10.6/9",), ("10.6/10",)
_BAD: Final = "MalformedMessage"
Entry = tuple[bytes, bytes]


def make() -> Json:
    """The file."""
    return document(
        "proofs",
        "The state tree (chapter 10.6): roots, and proofs that a key has a value or has none.",
        [*_roots(), *_present(), *_absent(), *_bad_present(), *_bad_absent(), *_shapes()],
    )


def _entries(count: int) -> list[Entry]:
    return [(b"account/" + digest_of(f"key {number}")[:20], b"value %d" % number) for number in range(count)]


def path_of(key: bytes) -> bytes:
    """Path of a key (10.6/1)."""
    return tagged_hash("trie key", key)


def bit_of(path: bytes, bit: int) -> int:
    """Bit of a path (10.6/1)."""
    return path[bit // 8] >> 7 - bit % 8 & 1


def critical(entries: Sequence[Entry]) -> int:
    """The first bit in which the paths of two or more entries aren't all equal."""
    paths = [path_of(key) for key, _ in entries]
    return next(bit for bit in range(256) if len({bit_of(path, bit) for path in paths}) == 2)


def _leaf(key: bytes, value: bytes) -> bytes:
    return tagged_hash("trie leaf", path_of(key), tagged_hash("trie value", value))


def divided(entries: Sequence[Entry], bit: int) -> tuple[list[Entry], list[Entry]]:
    """Entries with a zero at a bit of their paths, and those with a one."""
    left = [entry for entry in entries if not bit_of(path_of(entry[0]), bit)]
    return left, [entry for entry in entries if entry not in left]


def root_of(entries: Sequence[Entry]) -> bytes:
    """The root of a set of entries."""
    if not entries:
        return tagged_hash("trie empty")
    if len(entries) == 1:
        return _leaf(*entries[0])
    bit = critical(entries)
    left, right = divided(entries, bit)
    return tagged_hash("trie branch", bit.to_bytes(2, "big"), root_of(left), root_of(right))


def proof_of(entries: Sequence[Entry], key: bytes) -> Proof:
    """The proof of a key, present or not."""
    steps: list[ProofStep] = []
    rest = list(entries)
    while len(rest) > 1:
        bit = critical(rest)
        sides = divided(rest, bit)
        taken = bit_of(path_of(key), bit)
        steps.append(ProofStep(bit, root_of(sides[1 - taken])))
        rest = sides[taken]
    if not rest or rest[0][0] == key:
        return Proof(tuple(steps), None)
    found, value = rest[0]
    return Proof(tuple(steps), ProofLeaf(path_of(found), tagged_hash("trie value", value)))


def _roots() -> Iterator[Json]:
    for count in (0, 1, 2, 3, 8, 33):
        entries = _entries(count)
        yield accept(f"root of {count} entries", _ROOT, operation="root", entries=entries, root=root_of(entries))
    entries = _entries(8)[::-1]
    yield accept(
        "root of 8 entries, written backwards", _ROOT, operation="root", entries=entries, root=root_of(entries)
    )
    odd = [(b"", b""), (b"\x00", b""), (b"\x00" * 128, b"x" * 300)]
    yield accept("root of odd keys and values", _ROOT, operation="root", entries=odd, root=root_of(odd))


def _fields(entries: Sequence[Entry], key: bytes, value: bytes | None, proof: Proof, *, root: bytes = b"") -> Json:
    shown = {"root": root or root_of(entries), "key": key, "value": value}
    return {"operation": "proof", **shown, "proof": proof, "encoded": encode(proof)}


def _present() -> Iterator[Json]:
    for count in (1, 2, 3, 8, 33):
        entries = _entries(count)
        for number in sorted({0, count // 2, count - 1}):
            key, value = entries[number]
            fields = _fields(entries, key, value, proof_of(entries, key))
            yield accept(f"entry {number} of {count}", _PRESENT, **fields)


def _absent() -> Iterator[Json]:
    for count in (0, 1, 2, 3, 8, 33):
        entries = _entries(count)
        for name in ("nobody", "nothing"):
            key = b"account/" + digest_of(name)[:20]
            yield accept(f"no {name} among {count}", _ABSENT, **_fields(entries, key, None, proof_of(entries, key)))


def _bad_present() -> Iterator[Json]:
    entries = _entries(8)
    key, value = entries[3]
    good = proof_of(entries, key)
    steps = good.steps
    other, leaf = digest_of("sibling"), ProofLeaf(path_of(key), tagged_hash("trie value", value))
    assert len(steps) > 1
    wrong: list[tuple[str, tuple[str, ...], bytes, bytes, Proof]] = [
        ("another value", _LEADS, key, b"forged", good),
        ("the value of another key", _LEADS, entries[4][0], value, good),
        ("a step too few at the root", _LEADS, key, value, replace(good, steps=steps[1:])),
        ("a step too few at the entry", _LEADS, key, value, replace(good, steps=steps[:-1])),
        ("another sibling", _LEADS, key, value, replace(good, steps=(ProofStep(steps[0].bit, other), *steps[1:]))),
        ("another bit", _LEADS, key, value, replace(good, steps=(*steps[:-1], ProofStep(255, steps[-1].sibling)))),
        ("no steps", _LEADS, key, value, Proof((), None)),
        ("bits in descending order", _BITS, key, value, replace(good, steps=steps[::-1])),
        ("a bit twice", _BITS, key, value, replace(good, steps=(steps[0], *steps))),
        ("another leaf besides", _VALUE, key, value, replace(good, other=leaf)),
    ]
    for name, clauses, asked, claimed, proof in wrong:
        yield refuse(f"presence: {name}", clauses, _BAD, **_fields(entries, asked, claimed, proof))
    fields = _fields(entries, key, value, good, root=digest_of("root"))
    yield refuse("presence: another root", _LEADS, _BAD, **fields)


def _bad_absent() -> Iterator[Json]:
    entries = _entries(8)
    present, value = entries[3]
    there = proof_of(entries, present)
    strangers = (b"account/" + digest_of(f"stranger {number}")[:20] for number in range(16))
    nobody = next(key for key in strangers if len(proof_of(entries, key).steps) > 2)
    good = proof_of(entries, nobody)
    leaf = ProofLeaf(path_of(present), tagged_hash("trie value", value))
    far = next(
        key
        for key, _ in entries
        if bit_of(path_of(key), good.steps[0].bit) != bit_of(path_of(nobody), good.steps[0].bit)
    )
    # The way to a real entry that the search for the absent key doesn't end at.
    elsewhere = proof_of(entries, far)
    far_leaf = ProofLeaf(path_of(far), tagged_hash("trie value", dict(entries)[far]))
    wrong = [
        ("of a key that is there", _ABSENCE, present, replace(there, other=leaf)),
        ("of a key that is there, without a leaf", _ABSENCE, present, there),
        ("of a key that is there, by the leaf of another", _LEADS, present, good),
        ("without a leaf", _ABSENCE, nobody, replace(good, other=None)),
        ("empty, of a map that isn't", _ABSENCE, nobody, Proof((), None)),
        ("by an entry that the search can't reach", _ABSENCE, nobody, replace(elsewhere, other=far_leaf)),
        (
            "by a made-up leaf",
            _LEADS,
            nobody,
            replace(good, other=ProofLeaf(path_of(nobody)[:31] + b"\x00", bytes(32))),
        ),
        ("bits in descending order", _BITS, nobody, replace(good, steps=good.steps[::-1])),
    ]
    for name, clauses, key, proof in wrong:
        yield refuse(f"absence: {name}", clauses, _BAD, **_fields(entries, key, None, proof))
    fields = _fields(entries, nobody, None, good, root=tagged_hash("trie empty"))
    yield refuse("absence: the root of the empty map", _LEADS, _BAD, **fields)


def _shapes() -> Iterator[Json]:
    step = ProofStep(7, digest_of("sibling"))
    many = Proof((step,) * 161, None)
    yield refuse("161 steps", ("10.6/6",), _BAD, **_fields(_entries(2), b"chain", b"", many))
    beyond = Proof((ProofStep(256, digest_of("sibling")),), None)
    yield refuse("a bit of 256", ("10.6/6",), _BAD, **_fields(_entries(2), b"chain", b"", beyond))
