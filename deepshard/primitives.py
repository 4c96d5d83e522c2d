"""Identifiers, amounts and the one hash.

Every digest is 32 bytes of BLAKE3. `tagged_hash` separates domains by BLAKE3's key-derivation mode, so that a value
hashed for one purpose never equals a value hashed for another. `content_digest` is plain BLAKE3 of bytes: the address
of a blob, a chunk or a manifest.
"""

from __future__ import annotations

import base64
from typing import Annotated, Final

import msgspec
from blake3 import blake3

from deepshard.errors import UsageError

Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
PublicKey = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
Address = Annotated[bytes, msgspec.Meta(min_length=20, max_length=20)]
Height = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Amount = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
BasisPoints = Annotated[int, msgspec.Meta(ge=0, le=10_000)]
Millinats = Annotated[int, msgspec.Meta(ge=-(2**40), le=2**40)]

UNITS_PER_TOKEN: Final = 10**9
ZERO_DIGEST: Final = bytes(32)
ADDRESS_PREFIX: Final = "ds1"
_CONTEXT: Final = "deepshard 2026-11 v1 "


def tagged_hash(tag: str, *parts: bytes) -> bytes:
    """Hash length-prefixed `parts` under the domain `tag` (BLAKE3 derive_key mode); 32 bytes."""
    hasher = blake3(derive_key_context=_CONTEXT + tag)
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.digest()


def content_digest(data: bytes | bytearray | memoryview) -> bytes:
    """Content address of `data`: plain BLAKE3, 32 bytes. Releases the GIL for large inputs."""
    return blake3(data).digest()


def expand(seed: bytes, tag: str, length: int) -> bytes:
    """Derive `length` pseudorandom bytes from `seed` under `tag` (BLAKE3 in extendable-output mode)."""
    return blake3(seed, derive_key_context=_CONTEXT + tag).digest(length=length)


def address_of(public_key: bytes) -> bytes:
    """Address of an account: the first 20 bytes of the tagged hash of its Ed25519 key."""
    return tagged_hash("address", public_key)[:20]


def format_address(address: bytes) -> str:
    """Human form of an address: `ds1`, then base32 of the 20 bytes and a 4-byte checksum."""
    checked = address + tagged_hash("address checksum", address)[:4]
    return ADDRESS_PREFIX + base64.b32encode(checked).decode().rstrip("=").lower()


def parse_address(text: str) -> bytes:
    """Invert `format_address`.

    Raises:
        UsageError: the text isn't an address, or its checksum doesn't match (a typing mistake).
    """
    body = text.strip().removeprefix(ADDRESS_PREFIX).upper()
    try:
        raw = base64.b32decode(body + "=" * (-len(body) % 8))
    except ValueError:
        raw = b""
    if not text.startswith(ADDRESS_PREFIX) or len(raw) != 24:
        raise UsageError(f"{text!r} is not an address: expected {ADDRESS_PREFIX} followed by 39 characters")
    # The last letter carries three bits that mean nothing: comparing the text refuses all but one form of them.
    if format_address(raw[:20]) != text.strip():
        raise UsageError(f"address {text} has a wrong checksum: check it for typing mistakes")
    return raw[:20]


def format_amount(units: int) -> str:
    """Human form of an amount in base units: tokens with up to nine decimals, trailing zeros cut."""
    sign = "-" if units < 0 else ""
    whole, part = divmod(abs(units), UNITS_PER_TOKEN)
    decimals = f"{part:09d}".rstrip("0")
    return f"{sign}{whole}.{decimals}" if decimals else f"{sign}{whole}"


def parse_amount(text: str) -> int:
    """Parse tokens (`12`, `0.5`) into base units; exact, no floats.

    Raises:
        UsageError: not a decimal number, negative, or finer than 9 decimals.
    """
    whole, _, part = text.strip().partition(".")
    if not (whole + part).isascii() or not (whole + part).isdigit() or len(part) > 9 or len(whole) > 10:
        raise UsageError(f"{text!r} is not an amount: give tokens as a decimal number with at most 9 decimals")
    return int(whole or "0") * UNITS_PER_TOKEN + int(part.ljust(9, "0"))
