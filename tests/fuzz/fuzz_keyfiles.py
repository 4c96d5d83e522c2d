"""Key files. The derivation of the key takes the memory that the file names, so only small ones are decrypted here."""

from __future__ import annotations

from typing import Final

import msgspec
from harness import Harness

from deepshard.errors import UsageError
from deepshard.identity.keyfile import load_key_file, read_key_address, read_key_public
from deepshard.limits import MIB

PASSPHRASE: Final = "correct horse"
WORK_MAX: Final = 16 * 1024


KEY_FILE: Final = """\
{
  "format": "deepshard-key-1",
  "address": "ds1zb2h2t4udupqj6v7jvqxiwijua3xjvwpo5sttfy",
  "public": "O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik=",
  "kdf": "argon2id",
  "ops": 1,
  "memory_bytes": 8192,
  "salt": "CB2IrWt7/GQ4sNKc5e/gyg==",
  "box": "PMYMyVrbkfzfXnHNmCF6W9eVg8wfvBj5j+HYiwW3G4TueZ61CIT1upu/o8EMp+bZCe1dbpJbpdeu1b8wmfh05SLJqkhh7Lu8"
}
"""


def check(data: bytes) -> None:
    text = data.decode(errors="surrogateescape")
    read_key_address(text)
    read_key_public(text)
    parameters = msgspec.json.decode(text)
    if parameters["ops"] * parameters["memory_bytes"] <= WORK_MAX:
        load_key_file(text, PASSPHRASE)


def seeds() -> dict[str, bytes]:
    # A file of `write_key_file` with the least work; written down, since its salt and nonce are drawn anew every time.
    return {"key": KEY_FILE.encode()}


HARNESS: Final = Harness(check, seeds, refuses=UsageError, input_bytes_max=2048, memory_bytes_max=MIB)
