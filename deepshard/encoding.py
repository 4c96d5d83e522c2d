"""Canonical encoding: MessagePack through msgspec's array-like structs, one byte form per value.

A decoder that accepts two encodings of one value lets an attacker change a hash without changing a meaning, so
`decode` re-encodes what it read and compares. That refuses longer integer forms, trailing bytes, unknown fields and
unordered maps with one rule.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from deepshard.errors import MalformedMessage, OversizedMessage

T = TypeVar("T")
_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of every value that is hashed, signed, stored or sent: an immutable, positional struct."""


def encode(value: object) -> bytes:
    """Canonical bytes of `value`."""
    return _encoder.encode(value)


def decode(data: bytes | memoryview, expected: type[T], *, bytes_max: int) -> T:
    """Decode canonical bytes into `expected`.

    Raises:
        OversizedMessage: `data` is longer than `bytes_max`; checked before anything is decoded.
        MalformedMessage: not MessagePack, not of the type, out of a field's bounds, or not canonical.
    """
    if len(data) > bytes_max:
        raise OversizedMessage("encoded value", len(data), bytes_max)
    decoder = _decoders.get(expected)
    if decoder is None:
        decoder = _decoders[expected] = msgspec.msgpack.Decoder(expected, strict=True)
    try:
        value: T = decoder.decode(data)
        canonical = _encoder.encode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise MalformedMessage(f"cannot decode {getattr(expected, '__name__', expected)}: {error}") from None
    if canonical != data:
        raise MalformedMessage(f"{getattr(expected, '__name__', expected)} is not in canonical form")
    return value
