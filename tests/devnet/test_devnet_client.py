"""The client against an httpx transport in memory: what it asks, and what it makes of every kind of answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import trio

from deepshard.devnet.client import NodeClient, NodeRefused, NodeUnreachable

Handler = Callable[[httpx.Request], httpx.Response]


def write_access(home: Path) -> None:
    (home / "api.json").write_text(json.dumps({"http": "127.0.0.1:9", "token": "secret"}))


async def connected(tmp_path: Path, handler: Handler) -> NodeClient:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/status":
            return httpx.Response(200, json={"height": 3})
        return handler(request)

    write_access(tmp_path)
    client = NodeClient("validator-1", tmp_path, transport=httpx.MockTransport(answer))
    await client.connect()
    return client


async def test_connect_waits_for_the_api_file_and_for_an_answer(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    attempts: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        attempts.append(request.headers["Authorization"])
        if len(attempts) < 3:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(200, json={"height": 0})

    client = NodeClient("n", tmp_path, transport=httpx.MockTransport(handler))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.connect)
        await trio.testing.wait_all_tasks_blocked()
        assert attempts == []
        write_access(tmp_path)
    assert attempts == ["Bearer secret"] * 3
    assert client.is_open
    await client.close()
    with pytest.raises(NodeUnreachable, match="n doesn't answer: not connected"):
        await client.status()


async def test_a_refusal_carries_the_nodes_own_words(tmp_path: Path) -> None:
    client = await connected(
        tmp_path, lambda _: httpx.Response(400, json={"error": {"message": "the stake is too small", "type": "usage"}})
    )
    with pytest.raises(NodeRefused) as caught:
        await client.propose("text", title="title", stake=5)
    assert (caught.value.node, caught.value.status) == ("validator-1", 400)
    assert caught.value.message == "the stake is too small"
    await client.close()


async def test_an_answer_that_is_no_json_is_a_refusal(tmp_path: Path) -> None:
    client = await connected(tmp_path, lambda _: httpx.Response(200, text="<html>"))
    with pytest.raises(NodeRefused, match="not JSON"):
        await client.rounds()
    await client.close()


async def test_requests_say_what_is_meant(tmp_path: Path) -> None:
    seen: list[tuple[str, str, bytes]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.raw_path.decode(), request.content))
        return httpx.Response(200, json={})

    client = await connected(tmp_path, handler)
    await client.receipts(17)
    await client.explain("round-1")
    await client.account("ds1abc")
    await client.block(9)
    await client.buy_licence(1000)
    await client.chat("why?", tokens_max=8)
    await client.close()
    assert [path for _, path, _ in seen] == [
        "/v1/receipts?after=17",
        "/v1/explain/round-1",
        "/v1/accounts/ds1abc",
        "/v1/blocks/9",
        "/v1/licence",
        "/v1/chat/completions",
    ]
    assert json.loads(seen[4][2]) == {"price_max": 1000}
    question = json.loads(seen[5][2])
    assert question["messages"] == [{"role": "user", "content": "why?"}]
    assert (question["max_tokens"], question["temperature"], question["stream"]) == (8, 0, False)


def sse(*lines: str) -> Handler:
    return lambda _: httpx.Response(200, text="".join(f"{line}\n\n" for line in lines))


def chunk(text: str) -> str:
    return "data: " + json.dumps({"choices": [{"delta": {"content": text}}]})


async def test_a_stream_gives_its_pieces_until_done(tmp_path: Path) -> None:
    client = await connected(
        tmp_path,
        sse('data: {"choices": [{"delta": {"role": "assistant"}}]}', chunk("An "), chunk("informant"), "data: [DONE]"),
    )
    assert await client.chat_streamed("?", tokens_max=4) == ["", "An ", "informant"]
    await client.close()


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (sse(chunk("cut ")), r"ended without \[DONE\]"),
        (sse("data: {", "data: [DONE]"), "not JSON"),
        (sse('data: {"error": {"message": "worker died"}}'), "worker died"),
        (lambda _: httpx.Response(503, json={"error": {"message": "no weights"}}), "503: no weights"),
    ],
)
async def test_a_broken_stream_is_a_refusal(tmp_path: Path, handler: Handler, message: str) -> None:
    client = await connected(tmp_path, handler)
    with pytest.raises(NodeRefused, match=message):
        await client.chat_streamed("?", tokens_max=4)
    await client.close()
