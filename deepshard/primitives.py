"""Identifiers, amounts and the one hash.

Every digest is 32 bytes of BLAKE3. `tagged_hash` separates domains by BLAKE3's key-derivation mode, so that a value
hashed for one purpose never equals a value hashed for another. `content_digest` is the root of a tree over blocks of
16 KiB: the address of a blob, a chunk or a manifest, of which any range can be verified.
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
CONTENT_BLOCK_BYTES: Final = 16 * 1024
"""Data has a leaf in its content address's tree for every so many bytes."""
_CONTEXT: Final = "deepshard 2026-11 v1 "
_LEAF_CONTEXT: Final = _CONTEXT + "range leaf"


def tagged_hash(tag: str, *parts: bytes) -> bytes:
    """Hash length-prefixed `parts` under the domain `tag` (BLAKE3 derive_key mode); 32 bytes."""
    hasher = blake3(derive_key_context=_CONTEXT + tag)
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.digest()


class ContentHasher:
    """Content address of data that comes in pieces: the root of a tree over its blocks of `CONTENT_BLOCK_BYTES`.

    A block is one call of the native hash, so a range of blocks can be verified by itself at full speed.
    """

    __slots__ = ("_hashes", "_partial", "_size")

    def __init__(self) -> None:
        self._hashes: list[bytes] = []
        self._partial = bytearray()
        self._size = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next piece, of any size."""
        view = memoryview(data)
        self._size += len(view)
        if self._partial:
            lacking = CONTENT_BLOCK_BYTES - len(self._partial)
            self._partial += view[:lacking]
            view = view[lacking:]
            if len(self._partial) < CONTENT_BLOCK_BYTES:
                return
            self._hashes.append(_leaf_hash(self._partial))
            self._partial = bytearray()
        whole = len(view) - len(view) % CONTENT_BLOCK_BYTES
        for start in range(0, whole, CONTENT_BLOCK_BYTES):
            self._hashes.append(_leaf_hash(view[start : start + CONTENT_BLOCK_BYTES]))
        self._partial += view[whole:]

    @property
    def leaves(self) -> tuple[bytes, ...]:
        """Leaf hashes of all blocks so far; empty data is one empty block."""
        if self._partial or not self._hashes:
            return (*self._hashes, _leaf_hash(self._partial))
        return tuple(self._hashes)

    def digest(self) -> bytes:
        """Content address of what was taken so far, 32 bytes."""
        return content_address(self._size, self.leaves)


def _leaf_hash(block: bytes | bytearray | memoryview) -> bytes:
    return blake3(block, derive_key_context=_LEAF_CONTEXT).digest()


def content_address(size: int, leaves: tuple[bytes, ...]) -> bytes:
    """Content address of `size` bytes whose blocks have these leaf hashes."""
    level = list(leaves)
    while len(level) > 1:
        paired = [tagged_hash("merkle node", level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(level) & ~1 :]
    return tagged_hash("content", size.to_bytes(8, "little"), level[0])


def content_digest(data: bytes | bytearray | memoryview) -> bytes:
    """Content address of `data`, 32 bytes. Releases the GIL for every block."""
    hasher = ContentHasher()
    hasher.update(data)
    return hasher.digest()


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
