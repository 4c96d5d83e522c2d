"""The HTTP API: routes, each a check of the request and one call of the backend."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deepshard.api import requests
from deepshard.api.answers import EXCEPTION_HANDLERS, json_answer
from deepshard.api.backend import Backend, Json
from deepshard.api.chat import ChatCompletion, model_name
from deepshard.api.guard import OPEN_PATH, Guard
from deepshard.api.requests import read_body, read_query
from deepshard.api.serving import serve
from deepshard.errors import UsageError
from deepshard.primitives import parse_address

__all__ = ["create_app", "serve"]


def create_app(backend: Backend, *, token: str, serve_chat: bool) -> Starlette:
    """The API of one node, opened by `token`; with `serve_chat` also its model's."""
    routes = _Routes(backend, serve_chat=serve_chat)
    return Starlette(
        routes=[
            Route(OPEN_PATH, routes.health),
            Route("/metrics", routes.metrics),
            Route("/v1/status", routes.status),
            Route("/v1/accounts/{address}", routes.account),
            Route("/v1/proposals", routes.proposals),
            Route("/v1/rounds", routes.rounds),
            Route("/v1/receipts", routes.receipts),
            Route("/v1/explain/{subject}", routes.explain),
            Route("/v1/blocks/{height}", routes.block),
            Route("/v1/evidence", routes.evidence, methods=["GET"]),
            Route("/v1/evidence", routes.report_evidence, methods=["POST"]),
            Route("/v1/licences", routes.licences),
            Route("/v1/shards", routes.shards),
            Route("/v1/audits", routes.audits),
            Route("/v1/download", routes.download),
            Route("/v1/models", routes.models),
            Route("/v1/propose", routes.propose, methods=["POST"]),
            Route("/v1/vote", routes.vote, methods=["POST"]),
            Route("/v1/transfer", routes.transfer, methods=["POST"]),
            Route("/v1/unjail", routes.unjail, methods=["POST"]),
            Route("/v1/licence", routes.licence, methods=["POST"]),
            Route("/v1/storage", routes.storage, methods=["POST"]),
            Route("/v1/chat/completions", routes.chat, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, token=token)],
        exception_handlers=EXCEPTION_HANDLERS,
    )


class _Routes:
    def __init__(self, backend: Backend, *, serve_chat: bool) -> None:
        self._backend = backend
        self._serve_chat = serve_chat

    async def health(self, _: Request) -> Response:
        return json_answer({"status": "ok"})

    async def metrics(self, _: Request) -> Response:
        return Response(self._backend.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def status(self, _: Request) -> Response:
        return json_answer(await self._backend.status())

    async def account(self, request: Request) -> Response:
        address: str = request.path_params["address"]
        parse_address(address)
        return json_answer(await self._backend.account(address))

    async def proposals(self, _: Request) -> Response:
        return json_answer(await self._backend.proposals())

    async def rounds(self, _: Request) -> Response:
        return json_answer(await self._backend.rounds())

    async def receipts(self, request: Request) -> Response:
        query = read_query(request, requests.Receipts)
        if query.account is not None:
            parse_address(query.account)
        return json_answer(
            await self._backend.receipts(after=query.after, account=query.account, subject=query.subject)
        )

    async def explain(self, request: Request) -> Response:
        try:
            subject = msgspec.convert(request.path_params["subject"], requests.Subject)
        except msgspec.ValidationError as error:
            raise UsageError(f"subject: {error}") from None
        return json_answer(await self._backend.explain(subject))

    async def block(self, request: Request) -> Response:
        try:
            height = msgspec.convert(request.path_params["height"], requests.Positive, strict=False)
        except msgspec.ValidationError as error:
            raise UsageError(f"height: {error}") from None
        return json_answer(await self._backend.block(height))

    async def evidence(self, _: Request) -> Response:
        return json_answer(await self._backend.evidence())

    async def report_evidence(self, request: Request) -> Response:
        body = await read_body(request, requests.Evidence)
        return json_answer(await self._backend.report_evidence(msgspec.to_builtins(body)))

    async def unjail(self, request: Request) -> Response:
        await read_body(request, requests.Nothing)
        return json_answer(await self._backend.unjail())

    async def licences(self, _: Request) -> Response:
        return json_answer(await self._backend.licences())

    async def shards(self, _: Request) -> Response:
        return json_answer(await self._backend.shards())

    async def audits(self, _: Request) -> Response:
        return json_answer(await self._backend.audits())

    async def download(self, _: Request) -> Response:
        return json_answer(await self._backend.download())

    async def models(self, _: Request) -> Response:
        status = await self._backend.status() if self._serve_chat else {}
        models = [_model(model_name(status))] if status.get("model") else []
        return json_answer({"object": "list", "data": models})

    async def propose(self, request: Request) -> Response:
        body = await read_body(request, requests.Propose)
        return json_answer(await self._backend.propose(msgspec.to_builtins(body)))

    async def vote(self, request: Request) -> Response:
        body = await read_body(request, requests.Vote)
        return json_answer(await self._backend.vote(msgspec.to_builtins(body)))

    async def transfer(self, request: Request) -> Response:
        body = await read_body(request, requests.Transfer)
        parse_address(body.to)
        return json_answer(await self._backend.transfer(msgspec.to_builtins(body)))

    async def licence(self, request: Request) -> Response:
        body = await read_body(request, requests.Licence)
        return json_answer(await self._backend.buy_licence(msgspec.to_builtins(body)))

    async def storage(self, request: Request) -> Response:
        body = await read_body(request, requests.Storage)
        return json_answer(await self._backend.offer_storage(msgspec.to_builtins(body)))

    async def chat(self, request: Request) -> Response:
        if not self._serve_chat:
            raise UsageError("no such service here: this node serves no model; start one with --roles inference")
        chat = await read_body(request, requests.Chat)
        return ChatCompletion(self._backend, chat, model=model_name(await self._backend.status()))


def _model(name: str) -> Json:
    model: dict[str, Any] = {"id": name, "object": "model", "created": 0, "owned_by": "deepshard"}
    return model
