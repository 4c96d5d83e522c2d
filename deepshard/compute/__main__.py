"""`python -m deepshard.compute --socket FD-or-PATH --threads N --lease FILE ...`: the compute worker's process."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import socket
import sys


def main() -> None:
    """Read the arguments, prepare the environment before torch is imported, and serve."""
    parser = argparse.ArgumentParser(prog="python -m deepshard.compute", description="Deepshard's compute worker.")
    parser.add_argument("--socket", required=True, help="number of an inherited Unix socket, or the path of one")
    parser.add_argument("--threads", type=int, default=2, help="threads for matrix products")
    parser.add_argument("--lease", action="append", default=[], help="lock file that heavy jobs share; may be repeated")
    parser.add_argument("--online", action="store_true", help="allow fetching a model from the hub")
    arguments = parser.parse_args()
    _environment(arguments.threads, online=arguments.online)
    _log_to_stderr()

    gc.disable()  # while torch and transformers load, it takes half a second of three to find nothing
    from deepshard.compute.worker import Worker, configure  # noqa: PLC0415  # the environment comes first

    gc.freeze()
    gc.enable()
    configure(arguments.threads)
    Worker(_connect(arguments.socket), arguments.lease).serve()


def _environment(threads: int, *, online: bool) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    # Threads that spin while they wait take the cores from the other workers of this machine.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["TQDM_DISABLE"] = "1"
    if not online:
        os.environ["HF_HUB_OFFLINE"] = "1"


def _log_to_stderr() -> None:
    import structlog  # noqa: PLC0415  # imported after the environment, like all else

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _connect(place: str) -> socket.socket:
    if place.isdigit():
        return socket.socket(fileno=int(place))
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(place)
    return connection


if __name__ == "__main__":
    main()
