"""Chat completions in OpenAI's shapes, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from deepshard.api.app import create_app, serve
from deepshard.errors import LocalError, UsageError
from deepshard.testing.backend import ScriptedBackend

TOKEN = "s3cret"
CHAT = "/v1/chat/completions"
QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": "What turns?"}]}


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend()


@pytest.fixture
async def http(nursery: trio.Nursery, backend: ScriptedBackend) -> AsyncIterator[httpx.AsyncClient]:
    address = await nursery.start(serve, create_app(backend, token=TOKEN, serve_chat=True), "127.0.0.1:0")
    async with httpx.AsyncClient(
        base_url=f"http://{address}", headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False
    ) as client:
        yield client


def events(text: str) -> list[Any]:
    """Data of each server-sent event; JSON but for the last."""
    assert text.endswith("\n\n")
    lines = text.removesuffix("\n\n").split("\n\n")
    assert all(line.startswith("data: ") for line in lines)
    data = [line.removeprefix("data: ") for line in lines]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


async def test_a_whole_answer(http: httpx.AsyncClient, backend: ScriptedBackend) -> None:
    answer = (await http.post(CHAT, json={**QUESTION, "logit_bias": {}, "top_p": 1})).json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "deepshard-v3"
    assert answer["id"].startswith("chatcmpl-")
    assert isinstance(answer["created"], int)
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "The moon turns."}
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    name, request = backend.calls[-1]
    assert name == "chat"
    assert request["messages"] == [{"role": "user", "content": "What turns?"}]
    assert (request["max_tokens"], request["temperature"]) == (256, 1.0)
    assert 0 <= request["seed"] < 2**31


async def test_settings_and_parts_reach_the_model(http: httpx.AsyncClient, backend: ScriptedBackend) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What "}, {"type": "text", "text": "turns?"}]},
    ]
    body = {
        "messages": messages,
        "max_tokens": 9,
        "max_completion_tokens": 7,
        "temperature": 0,
        "seed": 0,
        "model": "x",
    }
    assert (await http.post(CHAT, json=body)).status_code == 200
    assert backend.calls[-1][1] == {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What turns?"}],
        "max_tokens": 7,
        "temperature": 0.0,
        "seed": 0,
        "model": "x",
    }


async def test_a_streamed_answer(http: httpx.AsyncClient) -> None:
    response = await http.post(CHAT, json={**QUESTION, "stream": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, done = events(response.text)
    assert done == "[DONE]"
    assert {(chunk["object"], chunk["id"], chunk["model"]) for chunk in chunks} == {
        ("chat.completion.chunk", chunks[0]["id"], "deepshard-v3")
    }
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "The moon "},
        {"content": "turns."},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]


async def test_usage_comes_last_where_it_is_asked_for(http: httpx.AsyncClient) -> None:
    body = {**QUESTION, "stream": True, "stream_options": {"include_usage": True}}
    *_, usage, done = events((await http.post(CHAT, json=body)).text)
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 9


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [(LocalError("the worker died"), 503, "unavailable"), (UsageError("too long"), 400, "invalid_request_error")],
)
async def test_an_error_before_the_first_piece_is_an_http_error(
    http: httpx.AsyncClient, backend: ScriptedBackend, failure: Exception, status: int, kind: str, *, stream: bool
) -> None:
    backend.pieces = [failure]
    response = await http.post(CHAT, json={**QUESTION, "stream": stream})
    assert response.status_code == status
    assert response.json() == {"error": {"message": str(failure), "type": kind, "param": None, "code": None}}


async def test_an_error_in_the_stream_is_an_event_and_no_done(
    http: httpx.AsyncClient, backend: ScriptedBackend
) -> None:
    backend.pieces[1] = LocalError("the worker died")
    *_, last = events((await http.post(CHAT, json={**QUESTION, "stream": True})).text)
    assert last["error"]["message"] == "the worker died"


async def test_a_bug_in_the_stream_stays_in_our_log(http: httpx.AsyncClient, backend: ScriptedBackend) -> None:
    backend.pieces[1] = KeyError("/home/secret")
    with capture_logs() as logs:
        *_, last = events((await http.post(CHAT, json={**QUESTION, "stream": True})).text)
    assert last["error"]["type"] == "internal_error"
    assert "secret" not in last["error"]["message"]
    assert ["/home/secret" in repr(log["exc_info"]) for log in logs if log["event"] == "chat.failed"] == [True]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_without_an_end_is_an_error(
    http: httpx.AsyncClient, backend: ScriptedBackend, *, stream: bool
) -> None:
    backend.pieces.pop()
    response = await http.post(CHAT, json={**QUESTION, "stream": stream})
    assert "stopped without saying why" in response.text
    assert "[DONE]" not in response.text


@pytest.mark.parametrize("stream", [False, True])
async def test_generation_ends_when_the_client_leaves(
    http: httpx.AsyncClient, backend: ScriptedBackend, *, stream: bool
) -> None:
    backend.gate = trio.Event()  # never set: the model is stuck
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: http.post(CHAT, json={**QUESTION, "stream": stream}))
        while not backend.chat_open:
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with trio.fail_after(60):
        while backend.chat_open:
            await wait_all_tasks_blocked()


async def test_a_stream_that_is_left_in_the_middle_is_closed(backend: ScriptedBackend) -> None:
    async with backend.chat({}) as pieces:
        assert await anext(pieces) == {"text": "The moon "}
    with pytest.raises(StopAsyncIteration):
        await anext(pieces)
    assert backend.chat_open == 0


async def test_models(http: httpx.AsyncClient, backend: ScriptedBackend) -> None:
    listed = (await http.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["deepshard-v3"]


async def test_a_node_that_serves_no_model_says_so(nursery: trio.Nursery, backend: ScriptedBackend) -> None:
    address = await nursery.start(serve, create_app(backend, token=TOKEN, serve_chat=False), "127.0.0.1:0")
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False) as client:
        response = await client.post(f"http://{address}{CHAT}", json=QUESTION)
        assert response.status_code == 404
        assert "--roles inference" in response.json()["error"]["message"]
        assert (await client.get(f"http://{address}/v1/models")).json() == {"object": "list", "data": []}
    assert backend.calls == []
