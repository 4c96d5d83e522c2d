"""`deepshard keys` in its own process: what is on disk afterwards, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from deepshard.identity import SecretKey, write_key_file
from deepshard.primitives import format_address

SEED = bytes(range(32))
KEY = SecretKey(SEED)


def keys(home: Path, *arguments: str, stdin: str = "", passphrase: str | None = None) -> tuple[int, str, str]:
    variables = {} if passphrase is None else {"DEEPSHARD_PASSPHRASE": passphrase}
    done = subprocess.run(
        [sys.executable, "-m", "deepshard.cli.main", "keys", *arguments, "--home", str(home)],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], **variables},
    )
    return done.returncode, done.stdout, done.stderr


def stored(home: Path) -> Path:
    path = home / "key.json"
    path.write_text(write_key_file(KEY, "correct horse", ops=1, memory_bytes=8192))
    path.chmod(0o600)
    return path


def test_a_new_key_is_private_and_never_overwritten(tmp_path: Path) -> None:
    home = tmp_path / "home"
    code, out, err = keys(home, "new", "--json", passphrase="correct horse")
    assert (code, err) == (0, "")
    made = json.loads(out)
    path = home / "key.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert made["file"] == str(path)
    assert made["address"] in path.read_text()
    before = path.read_bytes()
    code, out, err = keys(home, "new", passphrase="other")
    assert (code, out) == (2, "")
    assert "never overwritten" in err
    assert err.count("\n") == 1
    assert path.read_bytes() == before


def test_a_seed_is_imported_from_stdin_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "seed").write_text(SEED.hex() + "\n")
    (tmp_path / "passphrase").write_text("correct horse\n")
    given = ("--passphrase-file", str(tmp_path / "passphrase"))
    code, out, err = keys(tmp_path / "a", "import", str(tmp_path / "seed"), *given)
    assert (code, err) == (0, "")
    assert format_address(KEY.address) in out
    code, out, _ = keys(tmp_path / "b", "import", *given, stdin=SEED.hex().upper())
    assert code == 0
    assert KEY.public.hex() in out
    code, _, err = keys(tmp_path / "c", "import", *given, stdin="abc")
    assert (code, err) == (2, "deepshard: a seed is 64 hexadecimal digits (32 bytes), and nothing else\n")
    assert not (tmp_path / "c").exists()


def test_show_needs_no_passphrase(tmp_path: Path) -> None:
    path = stored(tmp_path)
    assert keys(tmp_path, "show") == (
        0,
        f"address     {format_address(KEY.address)}\npublic_key  {KEY.public.hex()}\nfile        {path}\n",
        "",
    )


def test_a_wrong_passphrase_is_one_line(tmp_path: Path) -> None:
    path = stored(tmp_path)
    code, out, err = keys(tmp_path, "show", "--check", passphrase="incorrect horse")
    assert (code, out) == (2, "")
    assert err.startswith(f"deepshard: {path}: wrong passphrase for key {format_address(KEY.address)}")
    assert err.count("\n") == 1
    assert keys(tmp_path, "show", "--check", passphrase="correct horse")[0] == 0


def test_a_missing_key_and_a_missing_passphrase_say_what_to_do(tmp_path: Path) -> None:
    code, _, err = keys(tmp_path, "show")
    assert (code, err) == (2, f"deepshard: no key file at {tmp_path}/key.json: make one with `deepshard keys new`\n")
    code, _, err = keys(tmp_path, "new")
    assert code == 2
    assert "--passphrase-file or set DEEPSHARD_PASSPHRASE" in err
    assert not (tmp_path / "key.json").exists()


def test_a_key_others_may_read_is_warned_about(tmp_path: Path) -> None:
    path = stored(tmp_path)
    path.chmod(0o644)
    code, _, err = keys(tmp_path, "show")
    assert (code, err) == (
        0,
        f"deepshard: warning: key file {path} has permissions 0644, so others may read it: chmod 600 {path}\n",
    )
