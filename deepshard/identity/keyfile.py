"""The encrypted key file: a JSON text holding the public key, Argon2id parameters and a SecretBox of the seed."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from nacl.exceptions import CryptoError
from nacl.exceptions import RuntimeError as SodiumError
from nacl.pwhash import argon2id
from nacl.secret import SecretBox
from nacl.utils import random

from deepshard.errors import LocalError, UsageError
from deepshard.identity.keys import SecretKey
from deepshard.primitives import address_of, format_address


class _KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["deepshard-key-1"]
    address: str
    public: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    kdf: Literal["argon2id"]
    ops: Annotated[int, msgspec.Meta(ge=1, le=64)]
    memory_bytes: Annotated[int, msgspec.Meta(ge=8192, le=2**31)]
    salt: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    box: Annotated[bytes, msgspec.Meta(min_length=72, max_length=72)]


def _box(passphrase: str, salt: bytes, ops: int, memory_bytes: int) -> SecretBox:
    # Bytes of the environment that aren't UTF-8 come as surrogates: they are the passphrase all the same.
    secret = passphrase.encode(errors="surrogateescape")
    try:
        return SecretBox(argon2id.kdf(SecretBox.KEY_SIZE, secret, salt, ops, memory_bytes))
    except SodiumError:
        raise LocalError(
            f"this machine refuses the {memory_bytes} bytes of memory that the key file asks for"
        ) from None


def write_key_file(
    key: SecretKey,
    passphrase: str,
    *,
    ops: int = argon2id.OPSLIMIT_INTERACTIVE,
    memory_bytes: int = argon2id.MEMLIMIT_INTERACTIVE,
) -> str:
    """Text of the key file for `key`; the caller stores it with permissions 0600."""
    salt = random(argon2id.SALTBYTES)
    box = bytes(_box(passphrase, salt, ops, memory_bytes).encrypt(key.seed))
    record = _KeyFile(
        "deepshard-key-1", format_address(key.address), key.public, "argon2id", ops, memory_bytes, salt, box
    )
    return msgspec.json.format(msgspec.json.encode(record), indent=2).decode() + "\n"


def read_key_address(text: str) -> str:
    """Address in a key file, without its passphrase.

    Raises:
        UsageError: the text is not a key file.
    """
    return _parse(text).address


def read_key_public(text: str) -> bytes:
    """Ed25519 public key (32 bytes) in a key file, without its passphrase.

    Raises:
        UsageError: the text is not a key file, or its address isn't that of its public key.
    """
    record = _parse(text)
    if format_address(address_of(record.public)) != record.address:
        raise UsageError(f"key file {record.address} is damaged: its address is not the one of its public key")
    return record.public


def load_key_file(text: str, passphrase: str) -> SecretKey:
    """Decrypt a key file.

    Raises:
        UsageError: not a key file, a wrong passphrase, or a file whose public part doesn't match its secret.
        LocalError: there isn't as much memory as the file's parameters ask for.
    """
    record = _parse(text)
    try:
        seed = _box(passphrase, record.salt, record.ops, record.memory_bytes).decrypt(record.box)
    except CryptoError:
        raise UsageError(f"wrong passphrase for key {record.address}, or the key file is damaged") from None
    key = SecretKey(seed)
    if key.public != record.public or format_address(key.address) != record.address:
        raise UsageError(f"key file {record.address} is damaged: its public key is not the one of its secret")
    return key


def _parse(text: str) -> _KeyFile:
    try:
        return msgspec.json.decode(text, type=_KeyFile)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise UsageError(f"not a deepshard key file: {error}") from None
