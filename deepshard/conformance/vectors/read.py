"""Records read back from the JSON form that `document.plain` gives them."""

from __future__ import annotations

from typing import Any

from deepshard.conformance.vectors.document import Json, unspell
from deepshard.consensus.types import Validator
from deepshard.consensus.validators import ValidatorSet


def read_validators(listed: Json) -> ValidatorSet:
    """A validator set."""
    return ValidatorSet(tuple(_read_validator(entry) for entry in listed["validators"]))


def _read_validator(entry: dict[str, Any]) -> Validator:
    return Validator(unspell(entry["address"]), unspell(entry["public_key"]), int(entry["power"]))
