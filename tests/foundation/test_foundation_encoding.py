"""Canonical encoding: one byte form per value, everything else refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepshard.encoding import Record, decode, encode
from deepshard.errors import MalformedMessage, OversizedMessage


class Point(Record, frozen=True):
    x: int
    name: str
    parts: tuple[bytes, ...]


points = st.builds(
    Point,
    x=st.integers(-(2**63), 2**63 - 1),
    name=st.text(max_size=20),
    parts=st.lists(st.binary(max_size=20), max_size=5).map(tuple),
)


@given(points)
def test_a_value_survives_the_round_trip(point: Point) -> None:
    assert decode(encode(point), Point, bytes_max=10_000) == point


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x93\xcc\x05\xa1a\x90", "5 as uint8 instead of a fixint"),
        (b"\x93\x05\xd9\x01a\x90", "a one-letter string with a length byte"),
        (b"\x93\x05\xa1a\x90\x00", "a trailing byte"),
        (b"\x94\x05\xa1a\x90\x00", "a fourth field"),
        (b"\x92\x05\xa1a", "a missing field"),
        (b"\x93\xcb\x40\x14\x00\x00\x00\x00\x00\x00\xa1a\x90", "5 as a float"),
        (b"\x83\xa1x\x05\xa4name\xa1a\xa5parts\x90", "a map instead of an array"),
        (b"\x93\x05\xa1\xff\x90", "a string that isn't UTF-8"),
        (b"", "nothing"),
    ],
)
def test_other_forms_are_refused(data: bytes, why: str) -> None:
    assert decode(b"\x93\x05\xa1a\x90", Point, bytes_max=100) == Point(5, "a", ())
    with pytest.raises(MalformedMessage):
        decode(data, Point, bytes_max=100)


def test_the_bound_is_checked_before_decoding() -> None:
    with pytest.raises(OversizedMessage) as caught:
        decode(b"\xff" * 11, Point, bytes_max=10)
    assert (caught.value.size, caught.value.limit) == (11, 10)


@pytest.mark.clause("13.1/3")
@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    try:
        value = decode(data, Point, bytes_max=1000)
    except MalformedMessage:
        return
    assert encode(value) == data


def test_maps_are_ordered() -> None:
    assert encode({"b": 1, "a": 2}) == encode({"a": 2, "b": 1}) == msgspec.msgpack.encode({"a": 2, "b": 1})
