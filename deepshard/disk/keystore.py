"""The encrypted key on disk: one file, readable by its owner only, never overwritten; and where its passphrase is from.

The format is `identity.keyfile`'s. A key file is written whole under another name and then linked to its own, so that a
crash leaves either no key or a complete one, and an existing key is never replaced.
"""

from __future__ import annotations

import getpass
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import structlog

from deepshard.errors import UsageError
from deepshard.identity.keyfile import load_key_file, read_key_public, write_key_file
from deepshard.identity.keys import SecretKey
from deepshard.limits import KEY_FILE_BYTES_MAX

KEY_FILE_NAME: Final = "key.json"
PASSPHRASE_VARIABLE: Final = "DEEPSHARD_PASSPHRASE"  # noqa: S105  # the name of a variable, not a secret
_OWNER_ONLY: Final = 0o600
_log = structlog.get_logger(__name__)


def _warn_in_log(message: str) -> None:
    _log.warning("key.exposed", message=message)


def save_key(path: Path, key: SecretKey, passphrase: str) -> None:
    """Encrypt `key` and store it at `path` with permissions 0600, making missing folders (0700).

    Raises:
        UsageError: `path` exists, or can't be written.
    """
    refuse_existing(path)
    text = write_key_file(key, passphrase)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make folder {path.parent}: {error.strerror or error}") from None
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OWNER_ONLY)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), _OWNER_ONLY)  # whatever the umask took away
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)  # unlike a rename, fails if another process made the key meanwhile
        finally:
            draft.unlink()
        _sync_folder(path.parent)
    except FileExistsError:
        raise UsageError(f"{path} already exists or is being written: a key is never overwritten") from None
    except OSError as error:
        raise UsageError(f"cannot write key file {path}: {error.strerror or error}") from None


def refuse_existing(path: Path) -> None:
    """Refuse early, before a person types a passphrase for a key that can't be stored.

    Raises:
        UsageError: something exists at `path`.
    """
    if os.path.lexists(path):
        raise UsageError(f"{path} already exists: a key is never overwritten; move it away or choose another --home")


def load_key(path: Path, passphrase: str, *, warn: Callable[[str], None] = _warn_in_log) -> SecretKey:
    """Decrypt the key at `path`; `warn` is told, in one line, when others may read the file.

    Raises:
        UsageError: missing, unreadable, not a key file, damaged, or a wrong passphrase.
    """
    text = _read(path, warn)
    try:
        return load_key_file(text, passphrase)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def load_public_key(path: Path, *, warn: Callable[[str], None] = _warn_in_log) -> bytes:
    """Ed25519 public key (32 bytes) of the key at `path`; needs no passphrase.

    Raises:
        UsageError: missing, unreadable or not a key file.
    """
    text = _read(path, warn)
    try:
        return read_key_public(text)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def read_passphrase(*, prompt: bool, file: Path | None, env: Mapping[str, str], confirm: bool = False) -> str:
    """Passphrase from `file` (its first line), else `env`'s DEEPSHARD_PASSPHRASE, else asked for if `prompt`.

    With `confirm` a person is asked twice, as for a new key.

    Raises:
        UsageError: none given, an empty one, two that differ, or an unreadable file.
    """
    if file is not None:
        passphrase, source = _first_line(file), f"passphrase file {file}"
    elif PASSPHRASE_VARIABLE in env:
        passphrase, source = env[PASSPHRASE_VARIABLE], PASSPHRASE_VARIABLE
    elif prompt:
        passphrase, source = _ask(confirm=confirm), "the passphrase"
    else:
        raise UsageError(f"the key needs its passphrase: give --passphrase-file or set {PASSPHRASE_VARIABLE}")
    if not passphrase:
        raise UsageError(f"{source} is empty")
    return passphrase


def _ask(*, confirm: bool) -> str:
    try:
        passphrase = getpass.getpass("Passphrase: ")
        if confirm and getpass.getpass("Passphrase again: ") != passphrase:
            raise UsageError("the two passphrases differ; nothing was written")
    except EOFError:
        raise UsageError("no passphrase was given") from None
    return passphrase


def _first_line(file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as lines:
            return lines.readline(KEY_FILE_BYTES_MAX).rstrip("\r\n")
    except OSError as error:
        raise UsageError(f"cannot read passphrase file {file}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"passphrase file {file} is not UTF-8 text") from None


def _read(path: Path, warn: Callable[[str], None]) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(KEY_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise UsageError(f"no key file at {path}: make one with `deepshard keys new`") from None
    except OSError as error:
        raise UsageError(f"cannot read key file {path}: {error.strerror or error}") from None
    if len(data) > KEY_FILE_BYTES_MAX:
        raise UsageError(f"{path} is not a deepshard key file: it is larger than {KEY_FILE_BYTES_MAX} bytes")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        warn(f"key file {path} has permissions {stat.S_IMODE(mode):04o}, so others may read it: chmod 600 {path}")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a deepshard key file: it is not text") from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
