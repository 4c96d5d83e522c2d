"""Opening the listening socket, with an error a person can act on."""

from __future__ import annotations

import errno

import trio

from deepshard.errors import UsageError
from deepshard.net.endpoints import Endpoint

_REASONS = {
    errno.EADDRINUSE: "already in use; stop the other program or choose another port",
    errno.EACCES: "this user may not; choose a port above 1023",
    errno.EADDRNOTAVAIL: "this machine has no such address",
}


async def open_listeners(endpoint: Endpoint) -> list[trio.SocketListener]:
    """Listen on every address the host stands for.

    Raises:
        UsageError: the port is taken, not allowed, or the host isn't this machine's.
    """
    host = None if endpoint.is_wildcard and endpoint.host == "::" else endpoint.host
    try:
        return await trio.open_tcp_listeners(endpoint.port, host=host)
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise UsageError(f"cannot listen on {endpoint}: {reason}") from None
    except UnicodeError:
        raise UsageError(f"cannot listen on {endpoint}: no such host") from None


def bound_endpoint(listener: trio.SocketListener) -> Endpoint:
    """Where a listener really listens, the port chosen by the system included."""
    host, port = listener.socket.getsockname()[:2]
    return Endpoint(host, port)
