"""The key on disk: whole or absent, its owner's alone, never replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deepshard.disk.keystore import load_key, load_public_key, read_passphrase, save_key
from deepshard.errors import UsageError
from deepshard.identity import SecretKey, write_key_file

KEY = SecretKey(bytes(range(32)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A key file of least cost to open."""
    path = tmp_path / "key.json"
    path.write_text(write_key_file(KEY, "correct horse", ops=1, memory_bytes=8192))
    path.chmod(0o600)
    return path


def never(message: str) -> None:
    raise AssertionError(message)


def test_a_saved_key_is_complete_private_and_alone_in_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "home" / "key.json"
    save_key(path, KEY, "correct horse")
    assert load_key(path, "correct horse", warn=never).seed == KEY.seed
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert os.listdir(path.parent) == ["key.json"]  # noqa: PTH208


def test_an_existing_file_is_never_overwritten(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(UsageError, match="never overwritten"):
        save_key(path, SecretKey(bytes(32)), "other")
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["key.json"]  # noqa: PTH208


def test_a_dangling_link_counts_as_existing(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="never overwritten"):
        save_key(path, KEY, "x")
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_cannot_be_made_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot make folder"):
        save_key(tmp_path / "file" / "key.json", KEY, "x")


def test_a_wrong_passphrase_is_named_as_such(path: Path) -> None:
    with pytest.raises(UsageError, match="wrong passphrase"):
        load_key(path, "incorrect horse", warn=never)


def test_the_public_key_needs_no_passphrase(path: Path) -> None:
    assert load_public_key(path, warn=never) == KEY.public


def test_an_address_that_is_not_the_keys_is_refused(path: Path) -> None:
    other = write_key_file(SecretKey(bytes(32)), "x", ops=1, memory_bytes=8192)
    address = other.split('"address": "')[1].split('"')[0]
    own = path.read_text().split('"address": "')[1].split('"')[0]
    path.write_text(path.read_text().replace(own, address))
    with pytest.raises(UsageError, match="damaged"):
        load_public_key(path, warn=never)


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_a_key_others_may_read_is_warned_about(path: Path, mode: int, *, warns: bool) -> None:
    path.chmod(mode)
    warnings: list[str] = []
    load_public_key(path, warn=warnings.append)
    assert warnings == (
        [f"key file {path} has permissions {mode:04o}, so others may read it: chmod 600 {path}"] if warns else []
    )


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "no key file at"), (b"{}", "not a deepshard key"), (b"\xff", "not text"), (b" " * 20_000, "larger than")],
    ids=["missing", "other", "binary", "large"],
)
def test_what_is_not_a_key_file_is_refused(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    path = tmp_path / "key.json"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    with pytest.raises(UsageError, match=complaint):
        load_key(path, "x", warn=never)


def test_a_folder_is_no_key_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read key file"):
        load_key(tmp_path, "x", warn=never)


def test_the_file_comes_before_the_variable(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_bytes(b" of the file \r\nsecond line\n")
    env = {"DEEPSHARD_PASSPHRASE": "of the variable"}
    assert read_passphrase(prompt=True, file=file, env=env) == " of the file "
    assert read_passphrase(prompt=True, file=None, env=env) == "of the variable"


def test_a_missing_or_empty_passphrase_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="--passphrase-file or set DEEPSHARD_PASSPHRASE"):
        read_passphrase(prompt=False, file=None, env={})
    with pytest.raises(UsageError, match="is empty"):
        read_passphrase(prompt=False, file=tmp_path / "empty", env={})
    with pytest.raises(UsageError, match="DEEPSHARD_PASSPHRASE is empty"):
        read_passphrase(prompt=False, file=None, env={"DEEPSHARD_PASSPHRASE": ""})
    with pytest.raises(UsageError, match="cannot read"):
        read_passphrase(prompt=False, file=tmp_path / "missing", env={})
    with pytest.raises(UsageError, match="not UTF-8"):
        read_passphrase(prompt=False, file=tmp_path / "binary", env={})
