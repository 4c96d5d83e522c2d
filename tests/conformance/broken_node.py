"""Starts a node with one rule broken: `python broken_node.py NAME OPTIONS...`, where broken/NAME.py says which."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from patching import patch

from deepshard.compute.client import ComputeClient
from deepshard.node.__main__ import app

FOLDER = Path(__file__).parent / "broken"


def main() -> None:
    name = sys.argv.pop(1)
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.break_rule()
    # The suite asks nothing of a model, and a worker that loads torch costs each node five seconds of processor time.
    patch(ComputeClient, "prewarm", lambda _: lambda _: None)
    app(prog_name=f"{name} node")


if __name__ == "__main__":
    main()
