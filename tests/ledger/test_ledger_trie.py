from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from deepshard.encoding import decode, encode
from deepshard.errors import MalformedMessage
from deepshard.ledger.trie import EMPTY_ROOT, KEY_BYTES_MAX, Proof, ProofLeaf, Trie, trie_of, verify_proof
from deepshard.primitives import tagged_hash

KEYS = st.binary(max_size=4) | st.sampled_from(
    [b"a" * KEY_BYTES_MAX, b"a" * (KEY_BYTES_MAX - 1), b"account/" + bytes(20)]
)
Changes = list[tuple[bytes, bytes | None]]
CHANGES = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=3)), max_size=40)


def trie_with(count: int) -> Trie:
    return trie_of((b"key %d" % i, b"value %d" % i) for i in range(count))


@pytest.mark.clause("10.6/5")
@settings(max_examples=100, deadline=None)
@given(CHANGES)
def test_trie_behaves_as_a_dict_and_its_root_depends_on_content_alone(
    changes: Changes,
) -> None:
    trie, model = Trie(), dict[bytes, bytes]()
    for key, value in changes:
        if value is None:
            trie = trie.delete(key)
            model.pop(key, None)
        else:
            trie = trie.set(key, value)
            model[key] = value
    assert list(trie.items()) == sorted(model.items())
    for key, _ in changes:
        assert trie.get(key) == model.get(key)
        assert list(trie.items(key)) == sorted((k, v) for k, v in model.items() if k.startswith(key))
    assert trie.root == trie_of(sorted(model.items(), reverse=True)).root
    assert (trie.root == EMPTY_ROOT) == (not model)


@settings(max_examples=200, deadline=None)
@given(CHANGES, st.dictionaries(KEYS | st.binary(min_size=100, max_size=101), st.binary(max_size=3), max_size=30))
def test_many_entries_at_once_make_the_map_that_they_make_one_by_one(
    before: Changes, entries: dict[bytes, bytes]
) -> None:
    base = trie_of((key, value) for key, value in before if value is not None)
    root = base.root
    expected = base
    for key, value in entries.items():
        expected = expected.set(key, value)
    found = base.update(entries.items())
    assert found.root == expected.root
    assert list(found.items()) == list(expected.items())
    for key in [*entries, *(key for key, _ in before), b"nowhere"]:
        assert found.get(key) == expected.get(key)
        assert found.prove(key) == expected.prove(key)
        assert list(found.items(key[:2])) == list(expected.items(key[:2]))
    assert base.root == root
    assert sorted(base.items()) == sorted({key: value for key, value in before if value is not None}.items())


def test_large_updates_share_nothing_that_changes() -> None:
    base = trie_with(2000)
    entries = [(b"key %d" % number, b"new %d" % number) for number in range(1000, 3000, 3)]
    expected = base
    for key, value in entries:
        expected = expected.set(key, value)
    found = base.update(entries)
    assert found.root == expected.root
    assert list(found.items()) == list(expected.items())
    assert base.root == trie_with(2000).root


@pytest.mark.clause("10.6/8", "10.6/9", "10.6/10")
@settings(max_examples=60, deadline=None)
@given(CHANGES, KEYS)
def test_every_key_has_a_proof_of_exactly_what_it_holds(changes: Changes, asked: bytes) -> None:
    trie = trie_of((key, value) for key, value in changes if value is not None)
    proof = trie.prove(asked)
    value = trie.get(asked)
    verify_proof(trie.root, asked, value, proof)
    assert decode(encode(proof), Proof, bytes_max=1 << 14) == proof
    wrong = b"other" if value is None else None
    with pytest.raises(MalformedMessage):
        verify_proof(trie.root, asked, wrong, proof)
    if value is not None:
        with pytest.raises(MalformedMessage):
            verify_proof(trie.root, asked, value + b"x", proof)


def test_earlier_maps_stay_as_they_were() -> None:
    before = trie_with(50)
    root = before.root
    after = before.set(b"key 7", b"changed").delete(b"key 8")
    assert before.get(b"key 7") == b"value 7"
    assert before.get(b"key 8") == b"value 8"
    assert before.root == root != after.root
    assert after.set(b"key 7", b"value 7").set(b"key 8", b"value 8").root == root
    assert before.delete(b"absent") is before


@pytest.mark.clause("10.6/3", "10.6/4", "10.6/5")
def test_root_is_the_documented_hash() -> None:
    def leaf(key: bytes, value: bytes) -> bytes:
        return tagged_hash("trie leaf", tagged_hash("trie key", key), tagged_hash("trie value", value))

    assert Trie().set(b"a", b"1").root == leaf(b"a", b"1")
    a, b = (int.from_bytes(tagged_hash("trie key", key), "big") for key in (b"a", b"b"))
    bit = 256 - (a ^ b).bit_length()
    left, right = (leaf(b"a", b"1"), leaf(b"b", b"2"))
    if a > b:
        left, right = right, left
    assert trie_of([(b"a", b"1"), (b"b", b"2")]).root == tagged_hash("trie branch", bit.to_bytes(2, "big"), left, right)


def test_proof_depth_is_logarithmic() -> None:
    trie = trie_with(300)
    assert max(len(trie.prove(b"key %d" % i).steps) for i in range(300)) <= 24


@pytest.mark.clause("10.6/7", "10.6/8", "10.6/10")
def test_tampered_proofs_are_refused() -> None:
    trie = trie_with(30)
    present, absent = trie.prove(b"key 3"), trie.prove(b"absent")
    assert present.other is None
    assert isinstance(absent.other, ProofLeaf)
    first = present.steps[0]
    flipped = replace(first, sibling=bytes(31) + b"\x01")
    forged = [
        replace(present, steps=(flipped, *present.steps[1:])),
        replace(present, steps=present.steps[1:]),
        replace(present, steps=present.steps[::-1]),
        replace(present, steps=(replace(first, bit=first.bit + 1), *present.steps[1:])),
        replace(present, other=absent.other),
    ]
    for proof in forged:
        with pytest.raises(MalformedMessage):
            verify_proof(trie.root, b"key 3", b"value 3", proof)


@pytest.mark.clause("10.6/9")
def test_absence_cannot_be_proven_by_a_leaf_elsewhere() -> None:
    trie = trie_with(30)
    present = trie.prove(b"key 3")
    for other in (f"key {i}".encode() for i in range(30)):
        elsewhere = trie.prove(other)
        value_hash = tagged_hash("trie value", b"value" + other[3:])
        claimed = replace(elsewhere, other=ProofLeaf(tagged_hash("trie key", other), value_hash))
        with pytest.raises(MalformedMessage):
            verify_proof(trie.root, b"key 3", None, claimed)
    with pytest.raises(MalformedMessage):
        verify_proof(trie.root, b"key 3", None, present)
    with pytest.raises(MalformedMessage):
        verify_proof(trie.root, b"key 3", None, Proof((), None))
    verify_proof(EMPTY_ROOT, b"key 3", None, Trie().prove(b"key 3"))
