"""A folder of evidence: each piece in a file of its own, as `deepshard evidence verify` and chapter 9.5 read it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from deepshard.consensus.forensics import Accusation, ConflictingCommits
from deepshard.encoding import encode
from deepshard.errors import LocalError
from deepshard.evidence import offence_of
from deepshard.primitives import tagged_hash

FILES_MAX: Final = 256
"""Whoever has a third of the power could make evidence against itself without end; this much shows it well enough."""


class EvidenceFolder:
    """Keeps evidence durably; the folder appears with the first piece."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path_of(self, accusation: Accusation) -> Path:
        """Where a piece is kept: its kind, its height and the beginning of its hash."""
        config = type(accusation).__struct_config__
        height = (
            accusation.first.header.height
            if isinstance(accusation, ConflictingCommits)
            else offence_of(accusation).height
        )
        name = tagged_hash("evidence file", encode(accusation)).hex()[:16]
        return self.folder / f"{config.tag}-{height}-{name}.evidence"

    def save(self, accusation: Accusation) -> Path | None:
        """Write a piece, whole or not at all, unless it is there; None if there is no more room.

        Raises:
            LocalError: the disk refuses.
        """
        path = self.path_of(accusation)
        try:
            if path.exists():
                return path
            self.folder.mkdir(parents=True, exist_ok=True)
            if sum(1 for _ in self.folder.glob("*.evidence")) >= FILES_MAX:
                return None
            temporary = path.with_suffix(".tmp")
            with temporary.open("wb") as file:
                file.write(encode(accusation))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            descriptor = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise LocalError(f"cannot keep evidence in {self.folder}: {error.strerror or error}") from error
        return path
