"""OpenAI's chat completions over `Backend.chat`: one JSON object, or server-sent events.

Generation is bound to the connection: when the client leaves, the backend's context is cancelled. What goes wrong
before the first piece is an HTTP error; after it, an `error` event in the stream, which then ends without `[DONE]`.
"""

from __future__ import annotations

import secrets
import time
from typing import Any, Final

import msgspec
import structlog
import trio
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from deepshard.api.answers import error_body, json_answer, status_of
from deepshard.api.backend import Backend, Json
from deepshard.api.requests import Chat
from deepshard.errors import DeepshardError, LocalError

MAX_TOKENS_DEFAULT: Final = 256
TEMPERATURE_DEFAULT: Final = 1.0  # OpenAI's
MODEL_NAME: Final = "deepshard"
_EVENT_STREAM: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_log = structlog.get_logger(__name__)


def model_name(status: Json) -> str:
    """Name of the model a node serves, from its status: `deepshard-vN` for the weights of version N."""
    model = status.get("model")
    return f"{MODEL_NAME}-v{model['version']}" if model else MODEL_NAME


class ChatCompletion(Response):
    """The answer to one chat request, made while it is sent."""

    def __init__(self, backend: Backend, chat: Chat, *, model: str) -> None:
        super().__init__()
        self._backend = backend
        self._streams = bool(chat.stream)
        self._with_usage = chat.stream_options is not None and chat.stream_options.include_usage
        self._request = _backend_request(chat)
        self._common = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Generate and send, until done or until the client leaves."""
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on_disconnect, receive, nursery.cancel_scope)
            try:
                if self._streams:
                    await self._stream(send)
                else:
                    await (await self._whole())(scope, receive, send)
            except Exception as error:  # noqa: BLE001  # raised below, outside the nursery that would wrap it
                failure = _sole(error)
            nursery.cancel_scope.cancel()
        if failure is None:
            return
        if not self._started:
            raise failure
        if not isinstance(failure, DeepshardError):
            _log.error("chat.failed", exc_info=failure)
        await send(_event(error_body(*status_of(failure))))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _whole(self) -> Response:
        texts: list[str] = []
        end: Json = {}
        async with self._backend.chat(self._request) as pieces:
            async for piece in pieces:
                if "finish_reason" in piece:
                    end = piece
                else:
                    texts.append(piece["text"])
        if not end:
            raise LocalError("the model stopped without saying why")
        message = {"role": "assistant", "content": "".join(texts)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": end["finish_reason"]}
        return json_answer({**self._common, "object": "chat.completion", "choices": [choice], "usage": _usage(end)})

    async def _stream(self, send: Send) -> None:
        end: Json = {}
        async with self._backend.chat(self._request) as pieces:
            async for piece in pieces:
                if not self._started:
                    self._started = True
                    await send({"type": "http.response.start", "status": 200, "headers": _EVENT_STREAM})
                    await send(self._chunk({"role": "assistant", "content": ""}))
                if "finish_reason" in piece:
                    end = piece
                else:
                    await send(self._chunk({"content": piece["text"]}))
        if not end:
            raise LocalError("the model stopped without saying why")
        await send(self._chunk({}, end["finish_reason"]))
        if self._with_usage:
            await send(_event({**self._common, "object": _CHUNK, "choices": [], "usage": _usage(end)}))
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    def _chunk(self, delta: Json, finish_reason: str | None = None) -> Message:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event({**self._common, "object": _CHUNK, "choices": [choice]})


_CHUNK: Final = "chat.completion.chunk"


def _backend_request(chat: Chat) -> Json:
    tokens = chat.max_completion_tokens or chat.max_tokens or MAX_TOKENS_DEFAULT
    return {
        "messages": [turn.normalised() for turn in chat.messages],
        "max_tokens": tokens,
        "temperature": TEMPERATURE_DEFAULT if chat.temperature is None else chat.temperature,
        "seed": secrets.randbits(31) if chat.seed is None else chat.seed,
        "model": chat.model or MODEL_NAME,
    }


def _usage(end: Json) -> Json:
    prompt, completion = end["prompt_tokens"], end["completion_tokens"]
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _event(value: Any) -> Message:  # noqa: ANN401  # any JSON value
    body = b"data: " + msgspec.json.encode(value) + b"\n\n"
    return {"type": "http.response.body", "body": body, "more_body": True}


async def _cancel_on_disconnect(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _sole(error: Exception) -> Exception:
    """The error inside groups of one, which a nursery in the backend makes."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
