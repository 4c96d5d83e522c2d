"""Checks of `identities.json`."""

from __future__ import annotations

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json
from deepshard.identity import SecretKey
from deepshard.primitives import format_address, parse_address


def check(case: Fields) -> Json:
    """Derive a key, read the text of an address, or bring addresses into order."""
    if "seed" in case:
        key = SecretKey(case.data("seed"))
        return {"public_key": key.public, "address": key.address, "text": format_address(key.address)}
    if "unordered" in case:
        return {"ordered": sorted(case["unordered"])}
    address = parse_address(case["text"])
    return {"address": address, "text": format_address(address)}
