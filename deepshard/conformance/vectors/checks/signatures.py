"""Checks of `signatures.json`."""

from __future__ import annotations

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json
from deepshard.identity import verify_signature
from deepshard.primitives import tagged_hash


def check(case: Fields) -> Json:
    """Verify by the one rule."""
    tag, payload = case["tag"], case.data("payload")
    verify_signature(case.data("public_key"), tag, payload, case.data("signature"))
    return {"message": tagged_hash("signature " + tag, payload)}
