"""Checks of `encoding.json`."""

from __future__ import annotations

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json, positional
from deepshard.conformance.vectors.types import TYPES
from deepshard.encoding import decode, encode
from deepshard.errors import MalformedMessage


def check(case: Fields) -> Json:
    """Decode, and encode again."""
    kind, bytes_max = TYPES[case["type"]], case.number("bytes_max")
    if "every_prefix_of" in case:
        return _prefixes(case.data("every_prefix_of"), kind, bytes_max)
    value = decode(case.data("encoded"), kind, bytes_max=bytes_max)
    shown = {"length": len(value)} if "length" in case else {"value": positional(value)}
    return {**shown, "encoded": encode(value)}


def _prefixes(data: bytes, kind: type, bytes_max: int) -> Json:
    """Every proper prefix has to be refused, the whole has to be good; ends with the error of the last prefix."""
    decode(data, kind, bytes_max=bytes_max)
    errors: list[MalformedMessage] = []
    for size in range(len(data)):
        try:
            decode(data[:size], kind, bytes_max=bytes_max)
        except MalformedMessage as error:
            errors.append(error)
        else:
            return {"every_prefix_of": f"the first {size} bytes are accepted"}
    raise errors[-1]
