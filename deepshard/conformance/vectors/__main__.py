"""`python -m deepshard.conformance.vectors [--out DIR] [--check]`: write the vector files, or compare them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from deepshard.conformance.vectors.files import NAMES, failures_of, text_of

_FOLDER: Final = Path("protocol-spec/vectors")


def main() -> int:
    """Exit code 0 if every file is, or now is, what the code gives."""
    parser = argparse.ArgumentParser(prog="python -m deepshard.conformance.vectors", description=__doc__)
    parser.add_argument("--out", type=Path, default=_FOLDER, help="folder of the files (%(default)s)")
    parser.add_argument("--check", action="store_true", help="write nothing; check the files and compare them")
    options = parser.parse_args()
    wrong = [line for name in NAMES for line in _one(name, options.out / f"{name}.json", check=options.check)]
    sys.stdout.writelines(f"{line}\n" for line in wrong)
    if not options.check and not wrong:
        sys.stdout.write(f"{len(NAMES)} files in {options.out}\n")
    return 1 if wrong else 0


def _one(name: str, path: Path, *, check: bool) -> list[str]:
    """Write or compare one file; what is wrong with it. A file whose cases don't hold is not written."""
    made = text_of(name)
    if not check:
        wrong = failures_of(name, made)
        if not wrong:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(made, encoding="utf-8")
        return wrong
    if not path.exists():
        return [f"{path} is missing: run make vectors"]
    found = path.read_text(encoding="utf-8")
    stale = [] if found == made else [f"{path} isn't what the generator writes: run make vectors"]
    return failures_of(name, found) + stale


if __name__ == "__main__":
    sys.exit(main())
