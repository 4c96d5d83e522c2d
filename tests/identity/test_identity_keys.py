"""Keys, the signature rule and the key file."""

import json
import resource

import pytest
from nacl.pwhash import argon2id

from deepshard.errors import BadSignature, LocalError, UsageError
from deepshard.identity import SecretKey, load_key_file, verify_signature, write_key_file
from deepshard.identity.keyfile import read_key_address
from deepshard.primitives import address_of, format_address

KEY = SecretKey(bytes(range(32)))
QUICK = {"ops": argon2id.OPSLIMIT_MIN, "memory_bytes": argon2id.MEMLIMIT_MIN}


def test_a_signature_is_for_one_purpose_payload_and_key() -> None:
    signature = KEY.sign("vote", b"payload")
    verify_signature(KEY.public, "vote", b"payload", signature)
    for public, tag, payload in [
        (KEY.public, "proposal", b"payload"),
        (KEY.public, "vote", b"Payload"),
        (SecretKey(bytes(32)).public, "vote", b"payload"),
    ]:
        with pytest.raises(BadSignature):
            verify_signature(public, tag, payload, signature)


def test_every_flipped_bit_breaks_a_signature() -> None:
    signature = KEY.sign("vote", b"payload")
    for bit in range(512):
        flipped = bytearray(signature)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadSignature):
            verify_signature(KEY.public, "vote", b"payload", bytes(flipped))


def test_the_scalar_must_be_canonical() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    signature = KEY.sign("vote", b"payload")
    malleated = int.from_bytes(signature[32:], "little") + order
    with pytest.raises(BadSignature):
        verify_signature(KEY.public, "vote", b"payload", signature[:32] + malleated.to_bytes(32, "little"))


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"])
def test_small_order_keys_are_refused(point: bytes) -> None:
    # R = A = a small-order point and S = 0 satisfies the verification equation of lenient verifiers.
    with pytest.raises(BadSignature):
        verify_signature(point, "vote", b"payload", point + bytes(32))


def test_wrong_lengths_are_refused() -> None:
    with pytest.raises(BadSignature):
        verify_signature(KEY.public[:31], "vote", b"", bytes(64))
    with pytest.raises(BadSignature):
        verify_signature(KEY.public, "vote", b"", bytes(63))


def test_the_text_form_hides_the_secret() -> None:
    assert KEY.seed.hex() not in repr(KEY)
    assert KEY.address == address_of(KEY.public)


def test_key_file_round_trip_and_wrong_passphrase() -> None:
    text = write_key_file(KEY, "correct horse", **QUICK)
    assert KEY.seed.hex() not in text
    assert load_key_file(text, "correct horse").seed == KEY.seed
    assert read_key_address(text) == format_address(KEY.address)
    with pytest.raises(UsageError, match="wrong passphrase"):
        load_key_file(text, "battery staple")


def test_a_key_file_with_another_public_part_is_refused() -> None:
    ours = json.loads(write_key_file(KEY, "x", **QUICK))
    theirs = json.loads(write_key_file(SecretKey(bytes(32)), "x", **QUICK))
    with pytest.raises(UsageError, match="damaged"):
        load_key_file(json.dumps(ours | {"public": theirs["public"]}), "x")


@pytest.mark.parametrize("text", ["", "{}", "[]", "no json", '{"format": "deepshard-key-2"}', "\udc84", "[" * 50_000])
def test_other_texts_are_no_key_files(text: str) -> None:
    with pytest.raises(UsageError, match="not a deepshard key file"):
        load_key_file(text, "x")


def test_a_passphrase_of_bytes_that_are_no_text_is_one_all_the_same() -> None:
    from_environment = b"\xff\xfe".decode(errors="surrogateescape")
    text = write_key_file(KEY, from_environment, **QUICK)
    assert load_key_file(text, from_environment).seed == KEY.seed
    with pytest.raises(UsageError, match="wrong passphrase"):
        load_key_file(text, "")


def test_a_key_file_that_asks_for_more_memory_than_there_is_says_so() -> None:
    text = json.dumps(json.loads(write_key_file(KEY, "x", **QUICK)) | {"memory_bytes": 2**31})
    limited = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**31, limited[1]))
    try:
        with pytest.raises(LocalError, match="2147483648 bytes of memory"):
            load_key_file(text, "x")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limited)
