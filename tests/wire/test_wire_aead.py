from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_aegis256_decrypt, crypto_aead_aegis256_encrypt

from deepshard.wire import aead

KEY, NONCE = b"k" * 32, b"n" * 32


@pytest.mark.clause("5.1/2")
@given(plain=st.binary(max_size=3000), associated=st.binary(min_size=4, max_size=4))
def test_boxes_are_those_of_the_public_functions(plain: bytes, associated: bytes) -> None:
    packet = aead.seal(plain, associated, NONCE, KEY)
    assert packet == associated + crypto_aead_aegis256_encrypt(plain, associated, NONCE, KEY)
    assert aead.open_box(memoryview(packet)[4:], associated, NONCE, KEY) == plain
    assert crypto_aead_aegis256_decrypt(bytes(packet[4:]), associated, NONCE, KEY) == plain
    for position in {4, len(packet) - 1}:
        changed = bytearray(packet)
        changed[position] ^= 1
        assert aead.open_box(bytes(changed[4:]), associated, NONCE, KEY) is None
    assert aead.open_box(bytes(packet[4:]), b"else", NONCE, KEY) is None or associated == b"else"


def test_without_the_direct_way_the_public_functions_do_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    direct = aead.seal(b"plain", b"size", NONCE, KEY)
    assert aead.IS_DIRECT, "this PyNaCl's inside is another: boxes cost an extra copy, see deepshard/wire/aead.py"
    monkeypatch.setattr(aead, "IS_DIRECT", False)
    assert aead.seal(b"plain", b"size", NONCE, KEY) == direct
    assert aead.open_box(memoryview(direct)[4:], b"size", NONCE, KEY) == b"plain"
    assert aead.open_box(bytes(direct[4:-1]) + b"x", b"size", NONCE, KEY) is None
