"""Damage, and what may become of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

PAGE_BYTES: Final = 4096


class Outcome(Enum):
    """What became of a damaged home."""

    HARMLESS = "harmless"
    """Every answer is as before, after more was written, too."""
    RECOVERED = "recovered"
    """What is lost was reported, and the state is that of the last block all the same."""
    NEAR = "as a moment away"
    """As if the power had gone a moment earlier or later, with no more told."""
    SPARE = "spare lost"
    """Only what other nodes give again is lost: an older snapshot, part of a state being fetched."""
    ANEW = "begun anew"
    """The file is gone, which was reported, and another takes its place; nothing else has changed."""
    REFUSED = "refused"
    """With one line that names the file."""
    VIOLATION = "VIOLATION"


@dataclass(frozen=True, slots=True)
class Damage:
    """Damage to a file of a home: a `flip` of one bit of the byte at `point`, a `cut` to `point` bytes, or `gone`."""

    home: str
    file: str
    kind: str
    point: int

    def command(self, seed: int) -> str:
        """What runs this damage alone."""
        return (
            f"python -m deepshard.testing.durability --only rot --home {self.home} --file {self.file} "
            f"--variant {self.kind} --point {self.point} --seed {seed}"
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """An outcome, and what was seen."""

    outcome: Outcome
    seen: str = ""


def damages(home: str, file: str, size: int, *, sample: int | None, header: int = 0) -> list[Damage]:
    """Every damage to a file; or about `sample` of each kind, evenly spread, with the header and all page bounds."""
    flips: Iterable[int] = range(size)
    cuts: Iterable[int] = range(size)
    if sample is not None:
        spread = range(0, size, max(1, size // sample))
        flips = sorted({*spread, *range(min(size, header))})
        cuts = sorted({*spread, *range(0, size, PAGE_BYTES)})
    found = [Damage(home, file, "flip", point) for point in flips]
    return found + [Damage(home, file, "cut", point) for point in cuts]
