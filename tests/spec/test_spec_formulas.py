"""Formulas of the chapters, written out from their text with nothing of ours but plain values, against the code."""

from __future__ import annotations

import struct
from math import isqrt

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from nacl.bindings import crypto_aead_aegis256_decrypt, crypto_scalarmult

from deepshard.consensus.types import Validator
from deepshard.consensus.validators import ValidatorSet, proposer
from deepshard.encoding import decode, encode
from deepshard.identity.keys import SecretKey, verify_signature
from deepshard.ledger.market import licence_price
from deepshard.ledger.sampling import Draws
from deepshard.ledger.similarity import profile_distance, update_distance
from deepshard.ledger.transactions import ProbeScore
from deepshard.ledger.trie import EMPTY_ROOT, trie_of
from deepshard.primitives import content_digest
from deepshard.testing.builders import SMALL_PARAMS
from deepshard.wire.handshake import (
    Claims,
    DiallerHandshake,
    Finish,
    ListenerHandshake,
    LocalNode,
    Reply,
    SignedClaims,
    admit_all,
)

CONTEXT = "deepshard 2026-11 v1 "


def tagged(tag: str, *parts: bytes) -> bytes:
    material = b"".join(struct.pack("<Q", len(part)) + part for part in parts)
    return blake3(material, derive_key_context=CONTEXT + tag).digest()


def expanded(seed: bytes, tag: str, length: int) -> bytes:
    return blake3(seed, derive_key_context=CONTEXT + tag).digest(length=length)


def stream_below(seed: bytes, tag: str, bounds: list[int]) -> list[int]:
    """Draws of 1.4/3, each from its bound."""
    stream = b"".join(expanded(seed + struct.pack("<Q", block), tag, 1024) for block in range(8))
    position, drawn = 0, []
    for bound in bounds:
        while True:
            x = int.from_bytes(stream[position : position + 8], "little")
            position += 8
            if x < 2**64 - 2**64 % bound:
                break
        drawn.append(x % bound)
    return drawn


def block_tree(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    left = 1
    while left * 2 < len(leaves):
        left *= 2
    return tagged("merkle node", block_tree(leaves[:left]), block_tree(leaves[left:]))


@pytest.mark.clause("1.5/1", "1.5/2", "1.5/3", "1.5/4")
@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 16_385, 3 * 16_384, 5 * 16_384 - 7, 100_000])
def test_a_content_address_is_the_root_of_its_blocks(size: int) -> None:
    data = bytes(i * 7 % 251 for i in range(size))
    blocks = [data[start : start + 16_384] for start in range(0, size, 16_384)] or [b""]
    leaves = [blake3(block, derive_key_context=CONTEXT + "range leaf").digest() for block in blocks]
    assert content_digest(data) == tagged("content", struct.pack("<Q", size), block_tree(leaves))


@pytest.mark.clause("4.3/2", "4.3/3", "4.4/1", "4.4/2", "4.4/3")
def test_the_key_schedule_of_a_handshake() -> None:
    dialler_key, listener_key = SecretKey(b"d" * 32), SecretKey(b"l" * 32)
    dialler = DiallerHandshake(
        LocalNode(dialler_key, "devnet", bytes(32), ("trainer",), "", ("a", "b")),
        ephemeral_secret=b"\x01" * 32,
        nonce=b"\x02" * 32,
        expected_key=listener_key.public,
    )
    listener = ListenerHandshake(
        LocalNode(listener_key, "devnet", bytes(32), ("validator",), "[::1]:9000", ("b",)),
        ephemeral_secret=b"\x03" * 32,
        nonce=b"\x04" * 32,
    )
    hello = dialler.hello()
    reply_message = listener.receive_hello(hello[2:])
    finish_message, agreement = dialler.receive_reply(reply_message[2:], admit_all)
    other_side = listener.receive_finish(finish_message[2:])

    reply = decode(reply_message[4:], Reply, bytes_max=1024)
    finish = decode(finish_message[4:], Finish, bytes_max=1024)
    shared = crypto_scalarmult(b"\x01" * 32, reply.hello.ephemeral)
    t0 = tagged("handshake hellos", hello, encode(reply.hello))
    boxes = expanded(shared + t0, "handshake boxes", 64)
    t1 = tagged("handshake reply", t0, reply.box)
    for key, transcript, box, tag, owner in (
        (boxes[:32], t0, reply.box, "handshake listener", listener_key),
        (boxes[32:], t1, finish.box, "handshake dialler", dialler_key),
    ):
        plain = crypto_aead_aegis256_decrypt(box, transcript, bytes(32), key)
        signed = decode(plain, SignedClaims, bytes_max=1024)
        assert signed.claims.public_key == owner.public
        verify_signature(owner.public, tag, transcript + encode(signed.claims), signed.signature)
        assert isinstance(signed.claims, Claims)
    keys = expanded(shared + tagged("handshake end", t1, finish.box), "link keys", 96)
    assert (agreement.send_key, agreement.receive_key, agreement.session_id) == (keys[:32], keys[32:64], keys[64:])
    assert (other_side.receive_key, other_side.send_key, other_side.session_id) == (keys[:32], keys[32:64], keys[64:])
    assert (agreement.features, other_side.features) == (("b",), ("b",))


@pytest.mark.clause("9.4/1")
@given(st.lists(st.integers(1, 2**40), min_size=1, max_size=9), st.integers(0, 2**40), st.integers(0, 2**20))
def test_who_proposes(powers: list[int], height: int, round_: int) -> None:
    keys = [SecretKey(bytes([number]) * 32).public for number in range(len(powers))]
    validators = ValidatorSet.of(zip(keys, powers, strict=True))
    total = sum(powers)
    point = ((height + round_) * 0x9E3779B97F4A7C15 % 2**64) * total // 2**64
    ends = 0
    expected: Validator | None = None
    for validator in validators.validators:
        ends += validator.power
        if expected is None and ends > point:
            expected = validator
    assert proposer(validators, height, round_) == expected


def set_hash(entries: dict[bytes, tuple[bytes, bytes]]) -> bytes:
    """10.6/3 and 10.6/4: the hash of a set of entries, by path."""
    if len(entries) == 1:
        [(path, (_, value))] = entries.items()
        return tagged("trie leaf", path, tagged("trie value", value))
    bit = next(bit for bit in range(256) if len({path[bit // 8] >> (7 - bit % 8) & 1 for path in entries}) > 1)
    sides: tuple[dict[bytes, tuple[bytes, bytes]], dict[bytes, tuple[bytes, bytes]]] = ({}, {})
    for path, entry in entries.items():
        sides[path[bit // 8] >> (7 - bit % 8) & 1][path] = entry
    return tagged("trie branch", bit.to_bytes(2, "big"), set_hash(sides[0]), set_hash(sides[1]))


@pytest.mark.clause("10.6/1", "10.6/2", "10.6/3", "10.6/4", "10.6/5")
@given(st.dictionaries(st.binary(max_size=128), st.binary(max_size=40), max_size=30))
def test_the_state_root_is_the_hash_of_the_set(entries: dict[bytes, bytes]) -> None:
    by_path = {tagged("trie key", key): (key, value) for key, value in entries.items()}
    assert tagged("trie empty") == EMPTY_ROOT
    assert trie_of(entries.items()).root == (set_hash(by_path) if by_path else EMPTY_ROOT)


@pytest.mark.clause("1.4/3", "11.5/9", "11.5/10")
@given(st.binary(max_size=40), st.integers(1, 60), st.integers(0, 60))
def test_permutations_and_samples(seed: bytes, size: int, count: int) -> None:
    order = list(range(size))
    draws = stream_below(seed, "tag", list(range(size, 1, -1)))
    for place, draw in zip(range(size - 1, 0, -1), draws, strict=True):
        order[place], order[draw] = order[draw], order[place]
    assert Draws(seed, "tag").permutation(size) == tuple(order)

    places = list(range(size))
    draws = stream_below(seed, "tag", [size - i for i in range(min(size, count))])
    for i, draw in enumerate(draws):
        places[i], places[i + draw] = places[i + draw], places[i]
    assert Draws(seed, "tag").sample(size, count) == tuple(places[: min(size, count)])


@pytest.mark.clause("11.4/4")
@given(st.binary(max_size=40), st.lists(st.integers(0, 2**60), min_size=1, max_size=20), st.integers(1, 20))
def test_a_weighted_sample(seed: bytes, weights: list[int], count: int) -> None:
    left = list(weights)
    drawn: list[int] = []
    bounds: list[int] = []
    while sum(left) > 0 and len(drawn) < count:
        bounds.append(sum(left))
        x = stream_below(seed, "tag", bounds)[-1]
        index = next(i for i in range(len(left)) if x < sum(left[: i + 1]))
        drawn.append(index)
        left[index] = 0
    assert Draws(seed, "tag").weighted_sample(weights, count) == tuple(drawn)


@pytest.mark.clause("11.6/2")
@given(st.integers(0, 2**60), st.integers(0, 2**31 - 1), st.integers(1, 2**61))
def test_the_price_of_a_licence(value: int, kappa: int, base: int) -> None:
    ln2 = 12786308645202655659
    n, r = divmod(kappa * value * 2**64 // 10**9, ln2)
    terms = [2**64]
    for k in range(1, 25):
        terms.append(terms[-1] * r // 2**64 // k)
    expected = 2**61 if n > 62 else min(2**61, base * sum(terms) * 2**n // 2**64)
    assert licence_price(replace(SMALL_PARAMS, price_kappa_nano=kappa, price_base=base), value) == expected


MILLINATS = st.integers(-(2**40), 2**40)
SCORES = st.tuples(MILLINATS, MILLINATS, MILLINATS)


@pytest.mark.clause("11.5/16")
@given(st.lists(st.tuples(SCORES, SCORES), max_size=6))
def test_profile_distances(pairs: list[tuple[tuple[int, int, int], tuple[int, int, int]]]) -> None:
    total = sum(16 * (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2 for a, b in pairs)
    expected = isqrt(total // (16 * len(pairs))) if pairs else 0
    one, other = [ProbeScore(*a) for a, _ in pairs], [ProbeScore(*b) for _, b in pairs]
    assert profile_distance(one, other) == expected


@pytest.mark.clause("11.5/16")
@given(st.lists(st.tuples(st.integers(-(2**62), 2**62), st.integers(-(2**62), 2**62)), min_size=1, max_size=8))
def test_update_distances(pairs: list[tuple[int, int]]) -> None:
    norm = max(sum(a * a for a, _ in pairs), sum(b * b for _, b in pairs))
    expected = 10_000 * sum((a - b) ** 2 for a, b in pairs) // norm if norm else 0
    assert update_distance([a for a, _ in pairs], [b for _, b in pairs]) == expected
