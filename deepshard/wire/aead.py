"""AEGIS-256 without copies.

PyNaCl's public functions take and give `bytes`: a box has to be cut out of the receive buffer before it is opened, and
what was opened is copied once more. Calling the same libsodium functions on buffers takes 8 us for 64 KiB instead of 13
to open, and 0.7 us instead of 2.9 for 300 bytes (Xeon with AVX-512, PyNaCl 1.6.2). Where PyNaCl's inside is another,
the public functions do it.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

from nacl.bindings import crypto_aead_aegis256_ABYTES, crypto_aead_aegis256_decrypt, crypto_aead_aegis256_encrypt
from nacl.exceptions import CryptoError

TAG_BYTES: Final = crypto_aead_aegis256_ABYTES
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 32

try:
    _sodium: Any = importlib.import_module("nacl._sodium")
except ImportError:
    _sodium = None
IS_DIRECT: Final = all(
    hasattr(getattr(_sodium, "lib", None), f"crypto_aead_aegis256_{name}") for name in ("encrypt", "decrypt")
)


def seal(plain: bytes, associated: bytes, nonce: bytes, key: bytes) -> bytes | bytearray:
    """`associated`, and the box of `plain` behind it: a packet, if the associated data is its size."""
    assert len(nonce) == NONCE_BYTES
    assert len(key) == KEY_BYTES
    if not IS_DIRECT:
        return associated + crypto_aead_aegis256_encrypt(plain, associated, nonce, key)
    begin = len(associated)
    packet = bytearray(begin + len(plain) + TAG_BYTES)
    packet[:begin] = associated
    ffi = _sodium.ffi
    box = ffi.from_buffer(memoryview(packet)[begin:])
    _sodium.lib.crypto_aead_aegis256_encrypt(box, ffi.NULL, plain, len(plain), associated, begin, ffi.NULL, nonce, key)
    return packet


def open_box(box: bytes | memoryview, associated: bytes, nonce: bytes, key: bytes) -> bytes | bytearray | None:
    """Plain text of `box`; None if it doesn't open."""
    assert len(nonce) == NONCE_BYTES
    assert len(key) == KEY_BYTES
    assert len(box) >= TAG_BYTES
    if not IS_DIRECT:
        try:
            plain: bytes = crypto_aead_aegis256_decrypt(bytes(box), associated, nonce, key)
        except CryptoError:
            return None
        return plain
    ffi = _sodium.ffi
    opened = bytearray(len(box) - TAG_BYTES)
    failed = _sodium.lib.crypto_aead_aegis256_decrypt(
        ffi.from_buffer(opened),
        ffi.NULL,
        ffi.NULL,
        ffi.from_buffer(box),
        len(box),
        associated,
        len(associated),
        nonce,
        key,
    )
    return None if failed else opened
