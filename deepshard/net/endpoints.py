"""Addresses as people write them: HOST:PORT, [IPV6]:PORT, and KEY@HOST:PORT for a peer whose key is known."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from deepshard.errors import UsageError

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """A host (name, IPv4 or IPv6 literal without brackets) and a TCP port; its text is what `parse_endpoint` reads."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host as an IP address, None for a name."""
        return _parse_ip(self.host)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host == "localhost" if self.ip is None else self.ip.is_loopback

    @property
    def is_wildcard(self) -> bool:
        """Whether it means every address of this machine (0.0.0.0, ::): good to listen on, none to dial."""
        return self.ip is not None and self.ip.is_unspecified


@dataclass(frozen=True, slots=True)
class DialTarget:
    """Where to dial, and the public key to expect there (None: whoever answers)."""

    endpoint: Endpoint
    expected_key: bytes | None = None


def parse_endpoint(text: str) -> Endpoint:
    """Read HOST:PORT or [IPV6]:PORT. Port 0 is allowed: to listen on, it means any free one.

    Raises:
        UsageError: neither; the message says what was expected.
    """
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 65536):
        raise UsageError(f"{text!r} is not an address: expected HOST:PORT with a port between 0 and 65535")
    ip = _parse_ip(host)
    if bracketed != (ip is not None and ip.version == 6):
        raise UsageError(f"{text!r} is not an address: an IPv6 address goes in brackets, as in [::1]:9000")
    if ip is None and (len(host) > 253 or not _HOST_NAME.fullmatch(host)):
        raise UsageError(f"{text!r} is not an address: {host!r} is neither a host name nor an IP address")
    return Endpoint(host if ip is None else str(ip), int(port))


def parse_dial_target(text: str) -> DialTarget:
    """Read HOST:PORT, or KEY@HOST:PORT with the peer's public key in 64 hexadecimal digits.

    Raises:
        UsageError: neither.
    """
    key, at, address = text.strip().rpartition("@")
    if at and not re.fullmatch(r"[0-9a-fA-F]{64}", key):
        raise UsageError(f"{text!r} is not a peer: before the @ goes a public key of 64 hexadecimal digits")
    endpoint = parse_endpoint(address)
    if endpoint.port == 0 or endpoint.is_wildcard:
        raise UsageError(f"{text!r} is not a peer: nobody can be dialled at {endpoint}")
    return DialTarget(endpoint, bytes.fromhex(key) if at else None)


def _parse_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
