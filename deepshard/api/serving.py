"""Hypercorn on Trio: one listening socket, its address known, its log ours, its end graceful."""

from __future__ import annotations

import logging
import socket
from functools import partial
from typing import Final, cast

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve
from hypercorn.typing import Framework
from starlette.applications import Starlette

from deepshard.api.guard import is_loopback
from deepshard.errors import UsageError

GRACEFUL_TIMEOUT_S: Final = 2.0
"""How long requests may go on after the server was told to stop."""
UNSENT_TIMEOUT_MS: Final = 30_000
"""How long a client may leave our data unread before its connection is dropped."""
BACKLOG: Final = 100
_log = structlog.get_logger(__name__)


class _IntoOurLog(logging.Handler):
    """Hypercorn's messages in our log. What it says all day (`Running on ...`) is debug there."""

    def emit(self, record: logging.LogRecord) -> None:
        level = logging.DEBUG if record.levelno <= logging.INFO else record.levelno
        _log.log(level, "http.server", message=record.getMessage(), exc_info=record.exc_info)


def _hypercorn_log() -> logging.Logger:
    logger = logging.getLogger("deepshard.api.hypercorn")
    logger.handlers = [_IntoOurLog()]
    logger.propagate = False
    logger.setLevel(logging.INFO)
    return logger


async def serve(
    app: Starlette, host_port: str, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve `app` on `host_port` (`127.0.0.1:8001`, `[::1]:0`) until cancelled.

    Reports the actual HOST:PORT through `task_status`. When cancelled it stops listening and lets requests in progress
    finish for at most `GRACEFUL_TIMEOUT_S`.

    Raises:
        UsageError: not an address, a busy port, or one this process may not use.
    """
    listener = _listen(host_port)
    host, port = listener.getsockname()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if not is_loopback(host):
        _log.warning(
            "api.exposed", address=address, message="the API is reachable from other machines, without encryption"
        )
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]  # Hypercorn closes it
    config.errorlog = _hypercorn_log()
    config.graceful_timeout = GRACEFUL_TIMEOUT_S
    config.include_server_header = False
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_set_when_cancelled, stop)
        with trio.CancelScope(shield=True):  # our cancellation reaches Hypercorn as its trigger
            async with trio.open_nursery() as server:
                framework = cast("Framework", app)  # Starlette types scopes and messages as plain maps
                await server.start(partial(hypercorn_serve, framework, config, shutdown_trigger=stop.wait))
                task_status.started(address)
        nursery.cancel_scope.cancel()


async def _set_when_cancelled(stop: trio.Event) -> None:
    try:
        await trio.sleep_forever()
    finally:
        stop.set()


def _listen(host_port: str) -> socket.socket:
    host, separator, port = host_port.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"{host_port!r} is not an address to listen on: give HOST:PORT, such as 127.0.0.1:8001")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host_port} for HTTP: {error.strerror or error}; choose another address with --http"
        ) from None
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Hypercorn's writes can't be cancelled, so without this a client that stops reading could hold up our end.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNSENT_TIMEOUT_MS)
    return listener
