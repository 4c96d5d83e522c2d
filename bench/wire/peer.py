"""The other process: `python -m bench.wire.peer link|plain|sealed` prints its port and receives."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import trio

from . import link, plain


def silence() -> None:
    """Log errors only: a log line for each run would stand in the table."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


def pin(place: int) -> None:
    """Stay on one core, counted from the first (0) or from the last (-1): two that share one halve every number."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[place]})


@contextmanager
def receiver(kind: str) -> Iterator[int]:
    """A receiving process of a kind, and its port."""
    command = [sys.executable, "-m", "bench.wire.peer", kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


if __name__ == "__main__":
    silence()
    pin(-1)
    if sys.argv[1] == "link":
        trio.run(link.receive)
    else:
        plain.serve(sys.argv[1])
