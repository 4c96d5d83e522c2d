"""What people type and peers claim as text: addresses, amounts, endpoints, peers to dial."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from harness import Harness

from deepshard.errors import UsageError
from deepshard.net.endpoints import parse_dial_target, parse_endpoint
from deepshard.primitives import format_address, format_amount, parse_address, parse_amount

PARSERS: Final[tuple[Callable[[str], object], ...]] = (parse_address, parse_amount, parse_endpoint, parse_dial_target)


def check(data: bytes) -> None:
    if not data:
        return
    text = data[1:].decode(errors="surrogateescape")
    kind = data[0] % len(PARSERS)
    value = PARSERS[kind](text)
    if kind == 0:
        assert isinstance(value, bytes)
        assert format_address(value) == text.strip()
    elif kind == 1:
        assert isinstance(value, int)
        assert parse_amount(format_amount(value)) == value
    elif kind == 2:
        assert parse_endpoint(str(value)) == value


def seeds() -> dict[str, bytes]:
    return {
        "address": b"\x00" + format_address(bytes(range(20))).encode(),
        "amount": b"\x01" + b"12.000000001",
        "endpoint": b"\x02" + b"[::1]:9000",
        "endpoint-name": b"\x02" + b"node-1.example.org:65535",
        "peer": b"\x03" + b"ab" * 32 + b"@127.0.0.1:9000",
    }


HARNESS: Final = Harness(check, seeds, refuses=UsageError, input_bytes_max=1024)
