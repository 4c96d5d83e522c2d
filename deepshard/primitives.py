"""Identifiers, amounts and the one hash.

Every digest is 32 bytes of BLAKE3. `tagged_hash` separates domains by BLAKE3's key-derivation mode, so that a value
hashed for one purpose never equals a value hashed for another.

`content_digest` is the address of a blob, a chunk or a manifest: the root of a tree over blocks of 16 KiB, so that
whoever has the address can check any range of blocks by itself (protocol-spec, chapter 1.5; proofs in `ranges`).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
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
# Copying a hasher costs half of deriving it from its context again, which matters at one per block and node.
_LEAF: Final = blake3(derive_key_context=_CONTEXT + "range leaf")
_NODE: Final = blake3(derive_key_context=_CONTEXT + "merkle node")
_DIGEST_LENGTH: Final = (32).to_bytes(8, "little")


def tagged_hash(tag: str, *parts: bytes) -> bytes:
    """Hash length-prefixed `parts` under the domain `tag` (BLAKE3 derive_key mode); 32 bytes."""
    hasher = blake3(derive_key_context=_CONTEXT + tag)
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node of any tree: `tagged_hash("merkle node", left, right)`, both of 32 bytes."""
    hasher = _NODE.copy()
    hasher.update(_DIGEST_LENGTH + left + _DIGEST_LENGTH + right)
    return hasher.digest()


def tree_root(hashes: Sequence[bytes]) -> bytes:
    """Root over the hashes of at least one leaf, in the shape of RFC 6962, section 2.1."""
    # Pairing neighbours level by level and carrying an odd last node up gives RFC 6962's split.
    level = hashes
    while len(level) > 1:
        paired = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        paired.extend(level[len(level) & ~1 :])
        level = paired
    return level[0]


def content_address(size: int, leaves: Sequence[bytes]) -> bytes:
    """Content address of `size` bytes whose blocks have the hashes `leaves`."""
    return tagged_hash("content", size.to_bytes(8, "little"), tree_root(leaves))


def block_hashes(data: bytes | bytearray | memoryview) -> tuple[bytes, ...]:
    """Leaves of the tree over `data`: the hash of each block of `CONTENT_BLOCK_BYTES`, or of one empty block."""
    hasher = ContentHasher()
    hasher.update(data)
    return hasher.leaves


def content_digest(data: bytes | bytearray | memoryview) -> bytes:
    """Content address of `data`, 32 bytes."""
    hasher = ContentHasher()
    hasher.update(data)
    return hasher.digest()


class ContentHasher:
    """Content address of data that comes in pieces; whole blocks are hashed where they lie, without a copy."""

    __slots__ = ("_begun", "_leaves", "_size")

    def __init__(self) -> None:
        self._leaves: list[bytes] = []
        self._size = 0
        self._begun = _LEAF.copy()
        """The block that isn't full yet, of `self._size % CONTENT_BLOCK_BYTES` bytes."""

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes, any number of them."""
        view = memoryview(data).cast("B")
        size, start = len(view), 0
        filled = self._size % CONTENT_BLOCK_BYTES
        self._size += size
        if filled:
            start = min(CONTENT_BLOCK_BYTES - filled, size)
            self._begun.update(view[:start])
            if filled + start < CONTENT_BLOCK_BYTES:
                return
            self._leaves.append(self._begun.digest())
            self._begun = _LEAF.copy()
        whole = start + (size - start) // CONTENT_BLOCK_BYTES * CONTENT_BLOCK_BYTES
        for at in range(start, whole, CONTENT_BLOCK_BYTES):
            hasher = _LEAF.copy()
            hasher.update(view[at : at + CONTENT_BLOCK_BYTES])
            self._leaves.append(hasher.digest())
        if whole < size:
            self._begun.update(view[whole:])

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._size

    @property
    def leaves(self) -> tuple[bytes, ...]:
        """Hash of each block so far, the last one as if the data ended here."""
        if self._leaves and self._size % CONTENT_BLOCK_BYTES == 0:
            return tuple(self._leaves)
        return (*self._leaves, self._begun.digest())

    def digest(self) -> bytes:
        """Content address of the bytes so far."""
        return content_address(self._size, self.leaves)


def expand(seed: bytes, tag: str, length: int, *, start: int = 0) -> bytes:
    """Derive pseudorandom bytes from `seed` under `tag`, `length` from `start` on (BLAKE3's extendable output)."""
    return blake3(seed, derive_key_context=_CONTEXT + tag).digest(length=length, seek=start)


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


def parse_block_reference(text: str) -> tuple[int, bytes]:
    """A block that a person names as HEIGHT:ID, the id as 64 hexadecimal digits.

    Raises:
        UsageError: it isn't one.
    """
    height, _, block_id = text.strip().partition(":")
    is_height = height.isascii() and height.isdigit() and len(height) <= 18 and int(height) >= 1
    if not is_height or len(block_id) != 64 or not set(block_id) <= set("0123456789abcdefABCDEF"):
        raise UsageError(f"{text!r} names no block: give HEIGHT:ID, with the block id as 64 hexadecimal digits")
    return int(height), bytes.fromhex(block_id)


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
