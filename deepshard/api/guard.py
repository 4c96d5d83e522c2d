"""Who may ask: requests with the node's token, and over loopback only those that name a loopback host.

A page in the browser of the node's owner can make its own name resolve to 127.0.0.1 (DNS rebinding) and then reach this
port as its own origin; its requests still carry its name in the Host header.
"""

from __future__ import annotations

import hmac
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from deepshard.api.answers import error_answer

OPEN_PATH: Final = "/healthz"


def is_loopback(host: str) -> bool:
    """Whether a host name or address, as in a URL, means this machine."""
    name = host.removeprefix("[").removesuffix("]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, section 6.3
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware that checks the Host header, then the bearer token (in constant time)."""

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        assert token, "an empty token would let everyone in"
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http":
            refusal = self._refusal(scope)
            if refusal is not None:
                await error_answer(*refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        server = scope.get("server")
        if server is not None and is_loopback(server[0]) and not is_loopback(_host_name(headers.get("host", ""))):
            return HTTPStatus.FORBIDDEN, "the Host header must name this machine: localhost, 127.0.0.1 or [::1]"
        if scope["path"] == OPEN_PATH:
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
            return HTTPStatus.UNAUTHORIZED, "give the node's token as `Authorization: Bearer TOKEN`; it is in api.json"
        return None


def _host_name(header: str) -> str:
    if header.startswith("["):
        return header.partition("]")[0]
    return header.rpartition(":")[0] if ":" in header else header
