"""JSON answers, and the one shape of every error: OpenAI's, so that its clients show our message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from deepshard.errors import LocalError, RemoteError, UsageError

_TYPES: Final = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.INTERNAL_SERVER_ERROR: "internal_error",
    HTTPStatus.BAD_GATEWAY: "peer_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "unavailable",
}


def json_answer(value: object, status: int = HTTPStatus.OK) -> Response:
    """`value` as a JSON response."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def error_body(status: int, message: str) -> dict[str, Any]:
    """`{"error": {...}}` with the keys that clients of OpenAI's API read."""
    kind = _TYPES.get(HTTPStatus(status), "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def error_answer(status: int, message: str) -> Response:
    """An error response; the message is one line for a person."""
    response = json_answer(error_body(status, message), status)
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def status_of(error: Exception) -> tuple[int, str]:
    """HTTP status and message of an error; blame decides."""
    match error:
        case HTTPException():
            return error.status_code, error.detail
        case UsageError():
            missing = str(error).lower().startswith("no such")
            return (HTTPStatus.NOT_FOUND if missing else HTTPStatus.BAD_REQUEST), str(error)
        case LocalError():
            return HTTPStatus.SERVICE_UNAVAILABLE, str(error)
        case RemoteError():
            return HTTPStatus.BAD_GATEWAY, str(error)
        case _:
            # Its text may hold anything, and means nothing to the one who asked: it goes to the log only.
            return HTTPStatus.INTERNAL_SERVER_ERROR, "internal error: see the node's log"


async def _handle(request: Request, error: Exception) -> Response:  # noqa: ARG001  # Starlette's signature
    return error_answer(*status_of(error))


EXCEPTION_HANDLERS: Final[dict[Any, Callable[[Request, Exception], Awaitable[Response]]]] = {
    HTTPException: _handle,
    UsageError: _handle,
    LocalError: _handle,
    RemoteError: _handle,
    Exception: _handle,
}
