"""Reads the first zstd frame of a body and ignores what follows."""

from __future__ import annotations

from typing import Any

import zstandard
from patching import patch

from deepshard.errors import MalformedMessage
from deepshard.wire import frames

BREAKS = ("5.2/7",)
ONLY = ("5.2",)


def break_rule() -> None:
    """Whatever stands behind the frame is cut off before anybody looks."""

    def loose(original: Any) -> Any:
        def decompress(data: bytes, body_bytes: int) -> Any:
            try:
                return original(data, body_bytes)
            except MalformedMessage:
                parser = zstandard.ZstdDecompressor().decompressobj()
                try:
                    body = parser.decompress(data[:1000])
                except zstandard.ZstdError:
                    body = b""
                if not parser.unused_data or len(body) != body_bytes:
                    raise
                return body

        return decompress

    patch(frames, "decompress_body", loose)
