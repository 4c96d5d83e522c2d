"""The small files of a model's directory that are kept beside its weights. No torch here: the command imports it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from deepshard.errors import UsageError
from deepshard.limits import MIB

KEPT_FILES: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "vocab.json",
)
"""The files a model is built from; others in a manifest are ignored."""
FILE_BYTES_MAX: Final = 64 * MIB


def read_files(directory: Path) -> dict[str, bytes]:
    """The kept files of a directory, byte for byte.

    Raises:
        UsageError: one can't be read, or is larger than `FILE_BYTES_MAX`.
    """
    found: dict[str, bytes] = {}
    for name in KEPT_FILES:
        path = directory / name
        try:
            if not path.is_file():
                continue
            size = path.stat().st_size
            if size > FILE_BYTES_MAX:
                raise UsageError(f"{path} is {size} bytes, the limit of such a file is {FILE_BYTES_MAX}")
            found[name] = path.read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from None
    return found
