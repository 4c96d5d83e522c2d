"""Ed25519 keys, domain-separated signatures and the encrypted key file."""

from deepshard.identity.keyfile import load_key_file, write_key_file
from deepshard.identity.keys import SecretKey, verify_signature

__all__ = ["SecretKey", "load_key_file", "verify_signature", "write_key_file"]
