"""What the kernels have to reach, as commands: `python -m bench.kernels COMMAND --help`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from . import cpu

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"cpu": cpu.main}
"""Each takes the arguments after its name and returns the exit code."""


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(f"usage: python -m bench.kernels {{{','.join(COMMANDS)}}} ...", file=sys.stderr)
        return 2
    return COMMANDS[sys.argv[1]](sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
