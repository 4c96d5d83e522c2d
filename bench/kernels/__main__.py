"""What the kernels have to reach, as commands: `python -m bench.kernels COMMAND --help`; without one, `gpu`."""

from __future__ import annotations

import sys
from importlib import import_module

COMMANDS = ("cpu", "aot", "gpu")
"""Modules; the `main` of each takes the arguments after its name and returns the exit code. They load torch."""


def main() -> int:
    command, *arguments = sys.argv[1:] or ["gpu"]
    if command not in COMMANDS:
        print(f"usage: python -m bench.kernels {{{','.join(COMMANDS)}}} ...", file=sys.stderr)
        return 2
    return int(import_module(f"bench.kernels.{command}").main(arguments))


if __name__ == "__main__":
    sys.exit(main())
