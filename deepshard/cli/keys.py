"""`deepshard keys`: make, show and import the node's encrypted key."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepshard.cli.connection import home_folder
from deepshard.cli.options import AsJson, Home
from deepshard.errors import UsageError

if TYPE_CHECKING:
    from deepshard.identity import SecretKey

app = typer.Typer(name="keys", help="Make, show and import the encrypted key file HOME/key.json.", no_args_is_help=True)

PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="Read the passphrase from this file's first line.", metavar="FILE"),
]
_SEED_CHARACTERS_MAX = 4096


@app.command()
def new(*, home: Home = None, passphrase_file: PassphraseFile = None, as_json: AsJson = False) -> None:
    """Make a new key. The passphrase is asked for, or comes from --passphrase-file or DEEPSHARD_PASSPHRASE."""
    from deepshard.disk.keystore import refuse_existing  # noqa: PLC0415
    from deepshard.identity import SecretKey  # noqa: PLC0415

    refuse_existing(_key_path(home))
    _store(SecretKey(os.urandom(32)), home, passphrase_file, as_json=as_json)


@app.command(name="import")
def import_(
    seed_file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="File of the seed; else read stdin.")
    ] = None,
    *,
    home: Home = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Import an Ed25519 seed of 64 hexadecimal digits."""
    from deepshard.disk.keystore import refuse_existing  # noqa: PLC0415
    from deepshard.identity import SecretKey  # noqa: PLC0415

    refuse_existing(_key_path(home))
    _store(SecretKey(_read_seed(seed_file)), home, passphrase_file, as_json=as_json)


@app.command()
def show(
    *,
    home: Home = None,
    check: Annotated[bool, typer.Option("--check", help="Also check the passphrase.")] = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the address and public key; needs no passphrase unless --check is given."""
    from deepshard.disk.keystore import load_key, load_public_key  # noqa: PLC0415

    path = _key_path(home)
    public = load_public_key(path, warn=_warn)
    if check:
        load_key(path, _passphrase(passphrase_file, confirm=False), warn=lambda _: None)
    _show(path, public, as_json=as_json)


def _store(key: SecretKey, home: Path | None, passphrase_file: Path | None, *, as_json: bool) -> None:
    from deepshard.disk.keystore import save_key  # noqa: PLC0415

    save_key(_key_path(home), key, _passphrase(passphrase_file, confirm=True))
    _show(_key_path(home), key.public, as_json=as_json)


def _show(path: Path, public: bytes, *, as_json: bool) -> None:
    from deepshard.cli.output import show_fields, show_json  # noqa: PLC0415
    from deepshard.primitives import address_of, format_address  # noqa: PLC0415

    value = {"address": format_address(address_of(public)), "public_key": public.hex(), "file": str(path)}
    (show_json if as_json else show_fields)(value)


def _passphrase(file: Path | None, *, confirm: bool) -> str:
    from deepshard.disk.keystore import read_passphrase  # noqa: PLC0415

    return read_passphrase(prompt=sys.stdin.isatty(), file=file, env=os.environ, confirm=confirm)


def _read_seed(file: Path | None) -> bytes:
    try:
        if file is None:
            text = sys.stdin.read(_SEED_CHARACTERS_MAX)
        else:
            with file.open(encoding="utf-8") as lines:
                text = lines.read(_SEED_CHARACTERS_MAX)
    except OSError as error:
        raise UsageError(f"cannot read seed file {file}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        text = ""
    digits = text.strip()
    if len(digits) != 64 or not set(digits) <= set("0123456789abcdefABCDEF"):
        raise UsageError("a seed is 64 hexadecimal digits (32 bytes), and nothing else")
    return bytes.fromhex(digits)


def _key_path(home: Path | None) -> Path:
    return home_folder(home) / "key.json"


def _warn(message: str) -> None:
    sys.stderr.write(f"deepshard: warning: {message}\n")
