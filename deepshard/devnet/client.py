"""HTTP client of one node: exactly what any user of the node's API can do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import trio

from deepshard.errors import LocalError

Json = dict[str, Any]
REQUEST_TIMEOUT_S = 30.0
CHAT_TIMEOUT_S = 300.0
POLL_INTERVAL_S = 0.2


class NodeUnreachable(LocalError):
    """A node's HTTP API doesn't answer."""

    def __init__(self, node: str, facts: str) -> None:
        super().__init__(f"{node} doesn't answer: {facts}")
        self.node = node


class NodeRefused(LocalError):
    """A node answered a request with an error."""

    def __init__(self, node: str, path: str, status: int, message: str) -> None:
        super().__init__(f"{node} answered {path} with {status}: {message}")
        self.node, self.path, self.status, self.message = node, path, status, message


class NodeClient:
    """Speaks to the node whose home is `home`, once that node has written its api.json there.

    `transport` replaces the network in tests of this class's callers.
    """

    def __init__(self, name: str, home: Path, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.name, self.home = name, home
        self._transport = transport
        self._http: httpx.AsyncClient | None = None
        self._answered = False

    async def connect(self) -> None:
        """Wait for api.json and for an answer of /v1/status; the caller bounds the time."""
        while True:
            try:
                access = json.loads((self.home / "api.json").read_text())
                await self._open(access["http"], access["token"])
                await self.status()
                self._answered = True
            except (FileNotFoundError, json.JSONDecodeError, KeyError, NodeUnreachable):
                await trio.sleep(POLL_INTERVAL_S)  # not written yet, or still an older run's
            else:
                return

    async def _open(self, address: str, token: str) -> None:
        await self.close()
        self._http = httpx.AsyncClient(
            base_url=address if "://" in address else f"http://{address}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=REQUEST_TIMEOUT_S,
            transport=self._transport,
            trust_env=False,  # loopback must not go through a proxy
        )

    async def close(self) -> None:
        """Close the connection; `connect` opens a new one."""
        if self._http is not None:
            self._answered = False
            await self._http.aclose()
            self._http = None

    @property
    def is_open(self) -> bool:
        """Whether the node has answered since the last `close`."""
        return self._answered

    async def status(self) -> Json:
        """The node's status."""
        answer: Json = await self._get("/v1/status")
        return answer

    async def account(self, address: str) -> Json:
        """An account, as the node sees it."""
        answer: Json = await self._get(f"/v1/accounts/{address}")
        return answer

    async def proposals(self) -> list[Json]:
        """Data proposals, newest first."""
        answer: list[Json] = await self._get("/v1/proposals")
        return answer

    async def rounds(self) -> list[Json]:
        """Training rounds, newest first."""
        answer: list[Json] = await self._get("/v1/rounds")
        return answer

    async def receipts(self, after: int) -> list[Json]:
        """Receipts numbered above `after`."""
        answer: list[Json] = await self._get("/v1/receipts", after=str(after))
        return answer

    async def audits(self) -> list[Json]:
        """Storage audits of the latest epochs."""
        answer: list[Json] = await self._get("/v1/audits")
        return answer

    async def block(self, height: int) -> Json:
        """A decided block, and who signed for it."""
        answer: Json = await self._get(f"/v1/blocks/{height}")
        return answer

    async def explain(self, subject: str) -> Json:
        """Why the subject was decided so."""
        answer: Json = await self._get(f"/v1/explain/{subject}")
        return answer

    async def download(self) -> Json:
        """State of the weights' download."""
        answer: Json = await self._get("/v1/download")
        return answer

    async def buy_licence(self, price_max: int) -> Json:
        """Buy a licence for at most `price_max` base units."""
        answer: Json = await self._post("/v1/licence", {"price_max": price_max})
        return answer

    async def propose(self, text: str, *, title: str, stake: int) -> Json:
        """Propose English text for training, with `stake` base units behind it."""
        request = {"text": text, "title": title, "language": "en", "licence": "CC0-1.0", "stake": stake}
        answer: Json = await self._post("/v1/propose", request)
        return answer

    async def chat(self, prompt: str, *, tokens_max: int) -> Json:
        """One OpenAI chat completion, whole."""
        answer: Json = await self._post("/v1/chat/completions", _chat_request(prompt, tokens_max, stream=False))
        return answer

    async def chat_streamed(self, prompt: str, *, tokens_max: int) -> list[str]:
        """Pieces of a streamed chat completion, in order.

        Raises:
            NodeRefused: an error status, an error inside the stream, or a stream that ends without [DONE].
            NodeUnreachable: the connection broke.
        """
        path = "/v1/chat/completions"
        body = _chat_request(prompt, tokens_max, stream=True)
        try:
            async with self._connected().stream("POST", path, json=body, timeout=CHAT_TIMEOUT_S) as response:
                if response.is_error:
                    await response.aread()
                    raise self._refusal(path, response)
                # Read to the end first: leaving httpx's nested generators half-way would leak them.
                lines = [line async for line in response.aiter_lines()]
        except httpx.HTTPError as error:
            raise NodeUnreachable(self.name, f"{path}: {type(error).__name__} {error}") from error
        events = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
        pieces = [_piece(self.name, path, event) for event in events if event != "[DONE]"]
        if not events or events[-1] != "[DONE]":
            raise NodeRefused(self.name, path, response.status_code, "the stream ended without [DONE]")
        return pieces

    def _connected(self) -> httpx.AsyncClient:
        if self._http is None:
            raise NodeUnreachable(self.name, "not connected")
        return self._http

    async def _get(self, path: str, **query: str) -> Any:  # noqa: ANN401 # JSON; the callers give it a type
        return await self._request("GET", path, params=query)

    async def _post(self, path: str, body: Json) -> Any:  # noqa: ANN401 # JSON; the callers give it a type
        return await self._request("POST", path, json=body, timeout=CHAT_TIMEOUT_S)

    async def _request(self, method: str, path: str, **options: Any) -> Any:  # noqa: ANN401 # httpx's options
        try:
            response = await self._connected().request(method, path, **options)
        except httpx.HTTPError as error:
            raise NodeUnreachable(self.name, f"{path}: {type(error).__name__} {error}") from error
        if response.is_error:
            raise self._refusal(path, response)
        try:
            return response.json()
        except json.JSONDecodeError:
            raise NodeRefused(self.name, path, response.status_code, "the answer is not JSON") from None

    def _refusal(self, path: str, response: httpx.Response) -> NodeRefused:
        try:
            message = str(response.json()["error"]["message"])
        except (json.JSONDecodeError, KeyError, TypeError):
            message = response.text[:200]
        return NodeRefused(self.name, path, response.status_code, message)


def _chat_request(prompt: str, tokens_max: int, *, stream: bool) -> Json:
    return {
        "model": "deepshard",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens_max,
        "temperature": 0,
        "stream": stream,
    }


def _piece(node: str, path: str, data: str) -> str:
    try:
        chunk = json.loads(data)
    except json.JSONDecodeError:
        raise NodeRefused(node, path, httpx.codes.OK, f"an event of the stream is not JSON: {data[:80]}") from None
    if "error" in chunk:
        raise NodeRefused(node, path, httpx.codes.OK, str(chunk["error"].get("message", chunk["error"])))
    # The last chunk may carry usage and no choice.
    return "".join(str(choice.get("delta", {}).get("content") or "") for choice in chunk["choices"])
