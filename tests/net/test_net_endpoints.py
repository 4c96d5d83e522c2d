from __future__ import annotations

import pytest

from deepshard.errors import UsageError
from deepshard.net.endpoints import DialTarget, Endpoint, parse_dial_target, parse_endpoint


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:9000", "127.0.0.1", 9000),
        ("localhost:0", "localhost", 0),
        ("[::1]:65535", "::1", 65535),
        ("[2001:DB8:0::1]:1", "2001:db8::1", 1),
        (" node-1.example.org:80 ", "node-1.example.org", 80),
    ],
)
def test_addresses_are_read_and_written_back(text: str, host: str, port: int) -> None:
    endpoint = parse_endpoint(text)
    assert endpoint == Endpoint(host, port)
    assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.clause("6.4/1")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        ":80",
        "host:",
        "host:x",
        "host:-1",
        "host:65536",
        "host:٣",
        "::1:80",
        "[127.0.0.1]:80",
        "[::1]80",
        "a b:80",
        "host\n:80",
        "-x:80",
        "x" * 64 + ":80",
        "[fe80::1%eth0:80",
    ],
)
def test_what_is_no_address_is_a_usage_error_that_quotes_it(text: str) -> None:
    with pytest.raises(UsageError, match="is not an address"):
        parse_endpoint(text)


def test_a_peer_may_be_named_with_its_key() -> None:
    key = "0a" * 32
    assert parse_dial_target(f"{key}@[::1]:7") == DialTarget(Endpoint("::1", 7), bytes.fromhex(key))
    assert parse_dial_target("h:7") == DialTarget(Endpoint("h", 7), None)
    for bad in (f"{key[2:]}@h:7", "@h:7", "0.0.0.0:7", "[::]:7", "h:0"):
        with pytest.raises(UsageError, match="is not a peer"):
            parse_dial_target(bad)


def test_what_an_address_is_good_for() -> None:
    assert [parse_endpoint(text).is_loopback for text in ("127.9.9.9:1", "[::1]:1", "localhost:1", "8.8.8.8:1")] == [
        True,
        True,
        True,
        False,
    ]
    assert [parse_endpoint(text).is_wildcard for text in ("0.0.0.0:1", "[::]:1", "h:1", "127.0.0.1:1")] == [
        True,
        True,
        False,
        False,
    ]
