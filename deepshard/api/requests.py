"""What requests must look like, and reading them within their bounds."""

from __future__ import annotations

from contextlib import aclosing
from http import HTTPStatus
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import trio
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from deepshard.errors import UsageError
from deepshard.ledger.transactions import AxisScores, ShortText
from deepshard.limits import (
    CHAT_MESSAGES_MAX,
    CHAT_TOKENS_MAX,
    EVIDENCE_BYTES_MAX,
    HTTP_BODY_BYTES_MAX,
    HTTP_BODY_TIMEOUT_S,
    SEGMENTS_MAX,
)
from deepshard.primitives import Amount, BasisPoints, Height

T = TypeVar("T")
Identifier = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
AddressText = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Subject = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**62)]


class Propose(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/propose; `stake` in base units."""

    text: str
    stake: Amount
    title: ShortText = ""
    language: ShortText = "en"
    licence: ShortText = ""


class Vote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/vote; without `scores` and `predicted_accept_bp` the node fills in its own."""

    proposal: Identifier
    accept: bool
    harmful: bool = False
    scores: Annotated[list[AxisScores], -1, msgspec.Meta(min_length=1, max_length=SEGMENTS_MAX)] | None = None
    predicted_accept_bp: BasisPoints | None = None


class Transfer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/transfer; `amount` in base units."""

    to: AddressText
    amount: Positive


class Licence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/licence; `price_max` in base units, none for whatever the price is."""

    price_max: Amount | None = None


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/evidence; `evidence` is a file of evidence in hexadecimal digits."""

    evidence: Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{2})+$", max_length=2 * EVIDENCE_BYTES_MAX)]


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request without anything to say."""


class Storage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/storage; `capacity` in bytes."""

    capacity: Amount
    operator: ShortText = ""
    network: ShortText = ""


class Receipts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Query of GET /v1/receipts."""

    after: Height = 0
    account: AddressText | None = None
    subject: Subject | None = None


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """A part of a message; only text is understood."""

    text: str


class Turn(msgspec.Struct, frozen=True):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def normalised(self) -> dict[str, str]:
        """With one text, and the role names that chat templates know."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class StreamOptions(msgspec.Struct, frozen=True):
    """`stream_options`."""

    include_usage: bool = False


TokenLimit = Annotated[int, msgspec.Meta(ge=1, le=CHAT_TOKENS_MAX)]


class Chat(msgspec.Struct, frozen=True):
    """POST /v1/chat/completions. Fields of OpenAI's that we don't know are ignored, as its clients send many."""

    messages: Annotated[list[Turn], msgspec.Meta(min_length=1, max_length=CHAT_MESSAGES_MAX)]
    max_tokens: TokenLimit | None = None
    max_completion_tokens: TokenLimit | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    model: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    n: Literal[1] | None = None


async def read_body(request: Request, expected: type[T]) -> T:
    """Read and check a JSON body of at most `HTTP_BODY_BYTES_MAX` bytes; the bound holds before anything is kept.

    Raises:
        HTTPException: 413 too large, 408 too slow.
        UsageError: not JSON, or not of the type.
    """
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > HTTP_BODY_BYTES_MAX:
        raise _too_large()
    body = bytearray()
    try:
        with trio.fail_after(HTTP_BODY_TIMEOUT_S):
            async with aclosing(request.stream()) as chunks:
                async for chunk in chunks:
                    if len(body) + len(chunk) > HTTP_BODY_BYTES_MAX:
                        raise _too_large()
                    body += chunk
    except trio.TooSlowError:
        raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, f"the body took over {HTTP_BODY_TIMEOUT_S:g} s") from None
    except ClientDisconnect:
        raise UsageError("the client left before its request was complete") from None
    try:
        return msgspec.json.decode(body, type=expected)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"request body: {error}") from None


def read_query(request: Request, expected: type[T]) -> T:
    """Check the query parameters; numbers are given as decimal text.

    Raises:
        UsageError: unknown, repeated or malformed parameters.
    """
    pairs: list[tuple[str, Any]] = request.query_params.multi_items()
    if len(dict(pairs)) != len(pairs):
        raise UsageError("query: a parameter is given twice")
    try:
        return msgspec.convert(dict(pairs), expected, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"query: {error}") from None


def _too_large() -> HTTPException:
    return HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is over {HTTP_BODY_BYTES_MAX} bytes")
