"""Identifiers and amounts as people type them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deepshard.errors import UsageError
from deepshard.primitives import (
    expand,
    format_address,
    format_amount,
    parse_address,
    parse_amount,
    tagged_hash,
)

addresses = st.binary(min_size=20, max_size=20)


@given(addresses)
def test_addresses_round_trip(address: bytes) -> None:
    text = format_address(address)
    assert text.startswith("ds1")
    assert len(text) == 42
    assert parse_address(text) == address


@example(bytes(20), 41, "j")
@example(bytes(20), 41, "p")
@given(addresses, st.integers(3, 41), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_a_mistyped_letter_is_noticed(address: bytes, place: int, letter: str) -> None:
    text = format_address(address)
    wrong = text[:place] + letter + text[place + 1 :]
    if wrong != text:
        with pytest.raises(UsageError):
            parse_address(wrong)


@pytest.mark.parametrize("text", ["", "ds1", "ds2aaaa", "ds1" + "a" * 38, "ds1" + "!" * 39, "é"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_address(text)


@given(st.integers(0, 2**62))
def test_amounts_round_trip(units: int) -> None:
    assert parse_amount(format_amount(units)) == units


@pytest.mark.parametrize("text", ["", "-1", "1e3", "0.0000000001", "1,5", "٣", "nan", "99999999999"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_amount(text)


def test_amounts_read_as_written() -> None:
    assert parse_amount("12.5") == 12_500_000_000
    assert format_amount(12_500_000_000) == "12.5"
    assert format_amount(-1) == "-0.000000001"


def test_hashes_separate_tags_and_part_boundaries() -> None:
    assert tagged_hash("a", b"xy", b"z") != tagged_hash("a", b"x", b"yz")
    assert tagged_hash("a", b"x") != tagged_hash("b", b"x")
    assert expand(b"seed", "a", 64)[:32] == expand(b"seed", "a", 32)
