"""What the kernels have to reach, as commands: `python -m bench.kernels COMMAND --help`; without one, `gpu`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from . import aot, cpu, gpu

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"cpu": cpu.main, "aot": aot.main, "gpu": gpu.main}
"""Each takes the arguments after its name and returns the exit code."""


def main() -> int:
    command, *arguments = sys.argv[1:] or ["gpu"]
    if command not in COMMANDS:
        print(f"usage: python -m bench.kernels {{{','.join(COMMANDS)}}} ...", file=sys.stderr)
        return 2
    return COMMANDS[command](arguments)


if __name__ == "__main__":
    sys.exit(main())
