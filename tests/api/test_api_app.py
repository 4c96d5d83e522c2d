"""The API over a real socket: who may ask, what is refused and how, and what comes back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import trio
from structlog.testing import capture_logs

from deepshard.api.app import create_app, serve
from deepshard.api.backend import Backend
from deepshard.api.guard import is_loopback
from deepshard.errors import InvalidTransaction, LocalError, UsageError
from deepshard.limits import HTTP_BODY_BYTES_MAX
from deepshard.testing.backend import ALICE, PROPOSAL, ScriptedBackend

TOKEN = "s3cret"


@dataclass
class Served:
    backend: ScriptedBackend
    http: httpx.AsyncClient
    address: str


@pytest.fixture
async def served(nursery: trio.Nursery) -> AsyncIterator[Served]:
    backend = ScriptedBackend()
    implemented: Backend = backend
    address = await nursery.start(serve, create_app(implemented, token=TOKEN, serve_chat=True), "127.0.0.1:0")
    async with httpx.AsyncClient(
        base_url=f"http://{address}", headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False
    ) as http:
        yield Served(backend, http, address)


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    error = response.json()["error"]
    return response.status_code, error["type"], error["message"]


@pytest.mark.parametrize(
    ("path", "call"),
    [
        ("/v1/status", ("status", None)),
        (f"/v1/accounts/{ALICE}", ("account", ALICE)),
        ("/v1/proposals", ("proposals", None)),
        ("/v1/rounds", ("rounds", None)),
        (f"/v1/receipts?after=7&account={ALICE}&subject=x", ("receipts", (7, ALICE, "x"))),
        ("/v1/receipts", ("receipts", (0, None, None))),
        ("/v1/explain/round-1", ("explain", "round-1")),
        ("/v1/blocks/7", ("block", 7)),
        ("/v1/licences", ("licences", None)),
        ("/v1/evidence", ("evidence", None)),
        ("/v1/download", ("download", None)),
        ("/v1/shards", ("shards", None)),
        ("/v1/audits", ("audits", None)),
    ],
)
async def test_reading_asks_the_backend_once(served: Served, path: str, call: tuple[str, Any]) -> None:
    response = await served.http.get(path)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json() is not None
    assert served.backend.calls == [call]


@pytest.mark.parametrize(
    ("path", "body", "call"),
    [
        (
            "propose",
            {"text": "Facts.", "stake": 5},
            ("propose", {"text": "Facts.", "stake": 5, "title": "", "language": "en", "licence": ""}),
        ),
        (
            "vote",
            {"proposal": PROPOSAL, "accept": True, "scores": [[1, 2, 3, 4, 10_000]], "predicted_accept_bp": 6000},
            (
                "vote",
                {
                    "proposal": PROPOSAL,
                    "accept": True,
                    "harmful": False,
                    "scores": [[1, 2, 3, 4, 10_000]],
                    "predicted_accept_bp": 6000,
                },
            ),
        ),
        ("transfer", {"to": ALICE, "amount": 1}, ("transfer", {"to": ALICE, "amount": 1})),
        ("storage", {"capacity": 0}, ("offer_storage", {"capacity": 0, "operator": "", "network": ""})),
        (
            "storage",
            {"capacity": 5, "operator": "o", "network": "n"},
            ("offer_storage", {"capacity": 5, "operator": "o", "network": "n"}),
        ),
        ("evidence", {"evidence": "00ff"}, ("report_evidence", {"evidence": "00ff"})),
        ("unjail", {}, ("unjail", None)),
        ("licence", {}, ("buy_licence", {"price_max": None})),
        ("licence", {"price_max": 9}, ("buy_licence", {"price_max": 9})),
    ],
)
async def test_acting_hands_the_checked_request_on(
    served: Served, path: str, body: dict[str, Any], call: tuple[str, Any]
) -> None:
    response = await served.http.post(f"/v1/{path}", json=body)
    assert response.status_code == 200, response.text
    (name, request), expected = served.backend.calls[0], call
    assert (name, json.loads(json.dumps(request))) == expected


async def test_metrics_are_prometheus_text(served: Served) -> None:
    response = await served.http.get("/metrics")
    assert response.text == "deepshard_height 12.0\n"
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    "header", [b"", b"Bearer", b"Bearer s3cre", b"Bearer s3crets", b"Basic s3cret", b"Bearer s\xe9"]
)
async def test_without_the_token_only_health_answers(served: Served, header: bytes) -> None:
    headers = {b"Authorization": header}
    for path in ("/v1/status", "/metrics", "/v1/models", "/nothing"):
        response = await served.http.get(path, headers=headers)
        assert error_of(response)[:2] == (401, "authentication_error")
        assert response.headers["www-authenticate"] == "Bearer"
    assert (await served.http.get("/healthz", headers=headers)).json() == {"status": "ok"}
    assert served.backend.calls == []


async def test_the_scheme_is_read_in_any_case(served: Served) -> None:
    assert (await served.http.get("/v1/status", headers={"Authorization": f"bearer {TOKEN}"})).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 403),
        ("localhost.evil.example:80", 403),
        ("127.0.0.1.evil.example", 403),
        ("10.0.0.1", 403),
        ("localhost", 200),
        ("LOCALHOST:1234", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:80", 200),
    ],
)
async def test_over_loopback_only_loopback_names_are_served(served: Served, host: str, status: int) -> None:
    assert (await served.http.get("/v1/status", headers={"Host": host})).status_code == status
    assert (await served.http.get("/healthz", headers={"Host": host})).status_code == status


def test_loopback_names() -> None:
    assert [is_loopback(host) for host in ("127.9.9.9", "::1", "a.localhost", "localhost.")] == [True] * 4
    assert [is_loopback(host) for host in ("", "0.0.0.0", "::", "localhosts", "128.0.0.1")] == [False] * 5


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (UsageError("the stake is too low"), (400, "invalid_request_error", "the stake is too low")),
        (UsageError("no such round: round-9"), (404, "not_found_error", "no such round: round-9")),
        (LocalError("the disk is full"), (503, "unavailable", "the disk is full")),
        (InvalidTransaction("nonce 4, not 5"), (502, "peer_error", "nonce 4, not 5")),
    ],
)
async def test_blame_decides_the_status(served: Served, failure: Exception, expected: tuple[int, str, str]) -> None:
    served.backend.failure = failure
    assert error_of(await served.http.get("/v1/explain/round-9")) == expected


async def test_a_bug_is_an_internal_error_without_its_text(served: Served) -> None:
    served.backend.failure = KeyError("/home/secret")
    with capture_logs() as logs:
        status, kind, message = error_of(await served.http.get("/v1/status"))
        served.backend.failure = None
        assert (await served.http.get("/v1/status")).status_code == 200
    assert (status, kind) == (500, "internal_error")
    assert "secret" not in message
    (entry,) = [log for log in logs if log["log_level"] == "error"]
    assert "/home/secret" in repr(entry["exc_info"])  # but in our log


@pytest.mark.parametrize(
    ("method", "path", "status", "complaint"),
    [
        ("GET", "/v1/nothing", 404, "Not Found"),
        ("POST", "/v1/status", 405, "Method Not Allowed"),
        ("GET", "/v1/accounts/ds1xyz", 400, "is not an address"),
        ("GET", "/v1/receipts?after=-1", 400, "$.after"),
        ("GET", "/v1/receipts?after=x", 400, "$.after"),
        ("GET", "/v1/receipts?upto=3", 400, "unknown field `upto`"),
        ("GET", "/v1/receipts?after=1&after=2", 400, "given twice"),
        ("GET", f"/v1/receipts?account={ALICE[:-1]}x", 400, "wrong checksum"),
        ("GET", "/v1/explain/" + "a" * 65, 400, "length <= 64"),
        ("GET", "/v1/blocks/0", 400, "height: Expected `int` >= 1"),
        ("GET", "/v1/blocks/last", 400, "height: Expected `int`"),
    ],
)
async def test_bad_requests_are_one_clear_line(
    served: Served, method: str, path: str, status: int, complaint: str
) -> None:
    response = await served.http.request(method, path)
    assert error_of(response)[0] == status
    assert complaint in error_of(response)[2]
    assert served.backend.calls == []


@pytest.mark.parametrize(
    ("path", "body", "complaint"),
    [
        ("propose", b"{", "request body"),
        ("propose", b"\xff", "request body"),
        ("propose", b"[" * 100_000, "request body"),
        ("propose", b'{"stake": 1}', "missing required field `text`"),
        ("propose", b'{"text": "a", "stake": 1.5}', "$.stake"),
        ("propose", b'{"text": "a", "stake": -1}', "$.stake"),
        ("propose", b'{"text": "a", "stake": 1, "tip": 2}', "unknown field `tip`"),
        ("propose", b'{"text": "a", "stake": 1, "title": "' + b"t" * 65 + b'"}', "$.title"),
        ("vote", b'{"proposal": "zz", "accept": true}', "$.proposal"),
        ("vote", b'{"proposal": "' + PROPOSAL.encode() + b'", "accept": true, "scores": [[1, 2]]}', "$.scores[0]"),
        ("transfer", b'{"to": "' + ALICE.encode() + b'", "amount": 0}', "$.amount"),
        ("storage", b'{"capacity": -1}', "$.capacity"),
        ("storage", b'{"capacity": 1, "network": "' + b"n" * 65 + b'"}', "$.network"),
        ("transfer", b'{"to": "bob", "amount": 1}', "is not an address"),
        ("chat/completions", b'{"messages": []}', "$.messages"),
        ("chat/completions", b'{"messages": [{"role": "tool", "content": "x"}]}', "$.messages[0].role"),
        ("chat/completions", b'{"messages": [{"role": "user", "content": "x"}], "n": 2}', "$.n"),
        ("chat/completions", b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}', "$.max_tokens"),
    ],
)
async def test_bad_bodies_never_reach_the_backend(served: Served, path: str, body: bytes, complaint: str) -> None:
    response = await served.http.post(f"/v1/{path}", content=body)
    assert error_of(response)[:2] == (400, "invalid_request_error")
    assert complaint in error_of(response)[2]
    assert served.backend.calls == []


async def posted(address: str, framing: str, pieces: list[bytes]) -> bytes:
    """The status line of the answer to a request whose body may be refused while it is still sent."""
    host, port = address.split(":")
    head = f"POST /v1/propose HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n{framing}\r\n\r\n"
    async with await trio.open_tcp_stream(host, int(port)) as stream, trio.open_nursery() as nursery:

        async def send() -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                for piece in [head.encode(), *pieces]:
                    await stream.send_all(piece)

        nursery.start_soon(send)
        answer = bytes(await stream.receive_some(4096))
        nursery.cancel_scope.cancel()
    return answer.splitlines()[0]


async def test_a_body_over_the_bound_is_refused_while_it_comes(served: Served) -> None:
    piece = b" " * (HTTP_BODY_BYTES_MAX // 16)
    chunked = [b"%x\r\n%s\r\n" % (len(piece), piece)] * 17
    assert b" 413 " in await posted(served.address, "Transfer-Encoding: chunked", chunked)
    assert served.backend.calls == []


async def test_a_declared_size_is_refused_before_the_body_comes(served: Served) -> None:
    assert b" 413 " in await posted(served.address, f"Content-Length: {HTTP_BODY_BYTES_MAX + 1}", [])
    assert b" 413 " in await posted(served.address, f"Content-Length: {10**12}", [])
    assert served.backend.calls == []


async def test_the_largest_body_is_read(served: Served) -> None:
    fits = b'{"text": "a", "stake": 1}'.ljust(HTTP_BODY_BYTES_MAX)
    assert (await served.http.post("/v1/propose", content=fits)).status_code == 200
    assert [name for name, _ in served.backend.calls] == ["propose"]


async def test_a_busy_port_is_one_clear_line(served: Served) -> None:
    with pytest.raises(UsageError, match=f"cannot listen on {served.address} for HTTP: Address already in use"):
        await serve(create_app(served.backend, token=TOKEN, serve_chat=False), served.address)


@pytest.mark.parametrize("address", ["", "localhost", "127.0.0.1:", ":80", "127.0.0.1:99999", "127.0.0.1:x"])
async def test_what_is_not_an_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="is not an address to listen on"):
        await serve(create_app(ScriptedBackend(), token=TOKEN, serve_chat=False), address)


async def test_a_request_in_progress_outlives_the_end_of_the_server() -> None:
    backend = ScriptedBackend()
    backend.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        address = await nursery.start(serve, create_app(backend, token=TOKEN, serve_chat=True), "127.0.0.1:0")
        body = {"messages": [{"role": "user", "content": "?"}], "stream": True}
        async with (
            httpx.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {TOKEN}"}) as http,
            http.stream("POST", f"http://{address}/v1/chat/completions", json=body) as response,
        ):
            with trio.CancelScope(shield=True):  # the client isn't what is cancelled
                nursery.cancel_scope.cancel()
                backend.gate.set()
                assert (await response.aread()).endswith(b"data: [DONE]\n\n")
    assert backend.chat_open == 0


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
async def test_other_machines_are_warned_about(nursery: trio.Nursery, host: str, *, warned: bool) -> None:
    app = create_app(ScriptedBackend(), token=TOKEN, serve_chat=False)
    with capture_logs() as logs:
        address = await nursery.start(serve, app, f"{host}:0")
    warnings = [log["address"] for log in logs if log["event"] == "api.exposed"]
    assert warnings == ([address] if warned else [])
