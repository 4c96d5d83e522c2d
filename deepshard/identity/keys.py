"""Ed25519 signing keys with the network's one signature rule.

A signature is over `tagged_hash("signature " + tag, payload)`, never over the payload itself: 32 bytes whatever the
payload's size (Ed25519 hashes its input twice with SHA-512), and no signature made for one purpose is valid for
another. Verification is exactly libsodium's `crypto_sign_verify_detached`; no second backend may be used where its
answer reaches consensus, since backends disagree on edge cases.
"""

from __future__ import annotations

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from deepshard.errors import BadSignature
from deepshard.primitives import address_of, tagged_hash


class SecretKey:
    """An Ed25519 key pair. Its text form never shows the secret."""

    __slots__ = ("_secret", "address", "public", "seed")

    def __init__(self, seed: bytes) -> None:
        """Derive the pair from a 32-byte seed."""
        self.public, self._secret = crypto_sign_seed_keypair(seed)
        self.seed = seed
        self.address = address_of(self.public)

    def __repr__(self) -> str:
        return f"SecretKey(address={self.address.hex()})"

    def sign(self, tag: str, payload: bytes) -> bytes:
        """Sign `payload` for the purpose `tag`; 64 bytes."""
        return crypto_sign(tagged_hash("signature " + tag, payload), self._secret)[:64]


def verify_signature(public_key: bytes, tag: str, payload: bytes, signature: bytes) -> None:
    """Check a signature made by `SecretKey.sign`.

    Raises:
        BadSignature: libsodium refuses it (also for small-order keys and non-canonical scalars).
    """
    if len(public_key) != 32 or len(signature) != 64:
        raise BadSignature(f"key of {len(public_key)} and signature of {len(signature)} bytes, expected 32 and 64")
    try:
        crypto_sign_open(signature + tagged_hash("signature " + tag, payload), public_key)
    except BadSignatureError:
        raise BadSignature(f"signature for {tag!r} by {public_key.hex()[:16]} does not verify") from None
