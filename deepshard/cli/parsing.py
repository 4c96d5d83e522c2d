"""What people type, as the values the node takes."""

from __future__ import annotations

import re
from pathlib import Path

from deepshard.errors import UsageError
from deepshard.services.segmentation import TEXT_BYTES_MAX, split_segments

AXES_HELP = "novelty,reproducibility,alignment,truthfulness,objectivity"


def read_text(path: Path) -> str:
    """The text of a proposal, checked by the very rule the node will apply.

    Raises:
        UsageError: missing, unreadable, too large, binary, not UTF-8, or without words.
    """
    try:
        with path.open("rb") as file:
            data = file.read(TEXT_BYTES_MAX + 4)  # room for a byte order mark
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    if b"\0" in data:
        raise UsageError(f"{path} is binary: a proposal is a text file in UTF-8")
    if len(data) > TEXT_BYTES_MAX + 3:
        raise UsageError(f"{path} is larger than {TEXT_BYTES_MAX} bytes: propose it in parts")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (byte {error.start}): convert it first") from None
    try:
        split_segments(text)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    return text


def parse_share(text: str) -> int:
    """A share such as `60%`, `62.5%` or `0.6`, in basis points.

    Raises:
        UsageError: not a share between 0 and 1 of at most two decimals of a percent.
    """
    number = text.strip().removesuffix("%")
    places = 2 if text.strip().endswith("%") else 4
    whole, _, part = number.partition(".")
    part = part.rstrip("0")
    if (whole + part).isascii() and (whole + part).isdigit() and len(part) <= places and len(whole) <= 3:
        basis_points = int((whole or "0") + part.ljust(places, "0"))
        if basis_points <= 10_000:
            return basis_points
    raise UsageError(f"{text!r} is not a share: give a percentage such as 60%, from 0% to 100%")


def parse_scores(text: str) -> list[list[int]]:
    """Scores such as `0.9,1,0.5,80%,1`, in basis points; segments are separated by semicolons.

    Raises:
        UsageError: not five shares a segment.
    """
    segments = [[parse_share(score) for score in part.split(",")] for part in text.split(";")]
    if any(len(scores) != len(AXES_HELP.split(",")) for scores in segments):
        raise UsageError(f"{text!r} are not five scores a segment: give {AXES_HELP}, each as 80% or 0.8")
    return segments


_SIZE = re.compile(r"(\d{1,12})(?:\.(\d{1,12}))?\s*(?:([kMGTP]?)(i?)B)?", re.ASCII)
_SIZE_MAX = 2**62


def parse_size(text: str) -> int:
    """A size such as `500GB`, `1.5 TiB` or `0`, in bytes, rounded down.

    Raises:
        UsageError: not a size, or more than 2^62 bytes.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is not None:
        whole, part, prefix, binary = match.group(1), match.group(2) or "", match.group(3) or "", match.group(4)
        unit = (1024 if binary else 1000) ** " kMGTP".index(prefix or " ")
        size: int = int(whole + part) * unit // 10 ** len(part)
        if size <= _SIZE_MAX and (prefix or not binary):
            return size
    raise UsageError(f"{text!r} is not a size: give bytes such as 500GB or 1.5TiB, at most 4EiB")
