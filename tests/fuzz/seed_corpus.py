"""Write every harness's corpus from its valid objects: `python tests/fuzz/seed_corpus.py [NAME ...]`."""

from __future__ import annotations

import shutil
import sys

import harness


def main() -> None:
    for name in sys.argv[1:] or harness.names():
        folder = harness.CORPUS / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for label, data in harness.load(name).seeds().items():
            (folder / label).write_bytes(data)


if __name__ == "__main__":
    main()
