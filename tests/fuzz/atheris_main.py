"""One harness under Atheris: `python tests/fuzz/atheris_main.py NAME [options of libFuzzer]`."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path


def main() -> None:
    atheris = importlib.import_module("atheris")  # on some systems there is none
    sys.path.append(str(Path(__file__).parent))
    with atheris.instrument_imports(include=["deepshard"]):
        harness_module = importlib.import_module("harness")
        harness = harness_module.load(sys.argv[1])
    inputs = list(harness_module.corpus(sys.argv[1]).values())

    def mutator(data: bytes, bytes_max: int, seed: int) -> bytes:
        """LibFuzzer's own changes, or one of the harness's: of this input, or of the corpus, which it forgets in part.

        It sees which lines of ours ran, but not what the decoders in C saw.
        """
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(data, bytes_max))
        source = data if rng.random() < 0.5 else rng.choice(inputs)
        return bytes(harness_module.mutated(harness, source, rng.choice(inputs), rng)[:bytes_max])

    options = [f"-max_len={harness.input_bytes_max}", *sys.argv[2:]]
    atheris.Setup([sys.argv[0], *options], harness.run, custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
