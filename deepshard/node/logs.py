"""structlog for the node: one event a line, as JSON for machines or coloured for people, on standard error."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.tracebacks import ExceptionDictTransformer

from deepshard.node.settings import LogFormat


def configure_logs(log_format: LogFormat, level: str) -> None:
    """Set up structlog for this process."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if log_format == "json":
        shared += [
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False, max_frames=12)),
            structlog.processors.JSONRenderer(sort_keys=False),
        ]
    else:
        shared.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
    structlog.configure(
        processors=shared,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
