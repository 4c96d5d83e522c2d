"""MessagePack written out by hand, in any form that is asked for: it shares nothing with the encoder under test."""

from __future__ import annotations

from typing import Any

NIL, FALSE, TRUE = b"\xc0", b"\xc2", b"\xc3"


def integer(value: int) -> bytes:
    """The shortest form."""
    if 0 <= value < 128 or -32 <= value < 0:
        return bytes([value & 0xFF])
    widths = (1, 2, 4, 8)
    if value > 0:
        return unsigned(value, next(width for width in widths if value < 1 << 8 * width))
    return signed(value, next(width for width in widths if value >= -(1 << 8 * width - 1)))


def unsigned(value: int, width: int) -> bytes:
    """The unsigned form of this many bytes."""
    return bytes([{1: 0xCC, 2: 0xCD, 4: 0xCE, 8: 0xCF}[width]]) + value.to_bytes(width, "big")


def signed(value: int, width: int) -> bytes:
    """The signed form of this many bytes."""
    return bytes([{1: 0xD0, 2: 0xD1, 4: 0xD2, 8: 0xD3}[width]]) + value.to_bytes(width, "big", signed=True)


def binary(data: bytes, width: int = 0) -> bytes:
    """Bytes, their length in `width` bytes, or in as few as it takes."""
    width = width or next(width for width in (1, 2, 4) if len(data) < 1 << 8 * width)
    return bytes([{1: 0xC4, 2: 0xC5, 4: 0xC6}[width]]) + len(data).to_bytes(width, "big") + data


def text(value: str | bytes, width: int | None = None) -> bytes:
    """Text, its length in `width` bytes (0: in the first byte), or in as few as it takes."""
    data = value.encode() if isinstance(value, str) else value
    if width is None:
        width = 0 if len(data) < 32 else next(width for width in (1, 2, 4) if len(data) < 1 << 8 * width)
    if width == 0:
        return bytes([0xA0 + len(data)]) + data
    return bytes([{1: 0xD9, 2: 0xDA, 4: 0xDB}[width]]) + len(data).to_bytes(width, "big") + data


def array(items: list[bytes], width: int | None = None, count: int | None = None) -> bytes:
    """A list of encoded values; `count` declares another number than there are."""
    declared = len(items) if count is None else count
    if width is None:
        width = 0 if declared < 16 else 2 if declared < 1 << 16 else 4
    head = bytes([0x90 + declared]) if width == 0 else _wide(declared, width)
    return head + b"".join(items)


def _wide(count: int, width: int) -> bytes:
    return bytes([{2: 0xDC, 4: 0xDD}[width]]) + count.to_bytes(width, "big")


def encoded(value: Any) -> bytes:  # noqa: ANN401
    """The canonical form of a value of nested lists."""
    if value is None:
        return NIL
    if isinstance(value, bool):
        return TRUE if value else FALSE
    if isinstance(value, int):
        return integer(value)
    if isinstance(value, bytes):
        return binary(value)
    if isinstance(value, str):
        return text(value)
    return array([encoded(item) for item in value])
