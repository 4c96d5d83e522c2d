"""Records read back from the JSON form that `document.plain` gives them."""

from __future__ import annotations

from typing import Any

from deepshard.conformance.vectors.document import Json, unspell
from deepshard.consensus.types import Validator
from deepshard.consensus.validators import ValidatorSet
from deepshard.identity import SecretKey
from deepshard.shards.manifest import ShardEntry, TensorEntry, TensorSlice
from deepshard.wire.handshake import LocalNode
from deepshard.wire.session import Session


def read_validators(listed: Json) -> ValidatorSet:
    """A validator set."""
    return ValidatorSet(tuple(_read_validator(entry) for entry in listed["validators"]))


def _read_validator(entry: dict[str, Any]) -> Validator:
    return Validator(unspell(entry["address"]), unspell(entry["public_key"]), int(entry["power"]))


def read_session(listed: Json, *, dialling: bool, expected_key: bytes | None = None) -> Session:
    """A session of a side of a handshake, at time 0."""
    local = LocalNode(
        SecretKey(unspell(listed["seed"])),
        listed["chain_id"],
        unspell(listed["genesis_hash"]),
        tuple(listed["roles"]),
        listed["listen"],
        tuple(listed["features"]),
    )
    secret, nonce = unspell(listed["ephemeral_secret"]), unspell(listed["nonce"])
    return Session(local, dialling=dialling, ephemeral_secret=secret, nonce=nonce, now=0.0, expected_key=expected_key)


def read_tensor(listed: Json) -> TensorEntry:
    """A tensor of a manifest."""
    return TensorEntry(listed["name"], listed["dtype"], tuple(listed["shape"]))


def read_shard(listed: Json) -> ShardEntry:
    """A shard of a manifest."""
    fields = ("tensor", "row_start", "row_count", "column_start", "column_count")
    slices = tuple(TensorSlice(*(part[field] for field in fields)) for part in listed["slices"])
    return ShardEntry(
        slices,
        listed["decoded_bytes"],
        unspell(listed["decoded_digest"]),
        listed["codec"],
        unspell(listed["chunk"]),
        listed["chunk_bytes"],
        unspell(listed["base"]),
    )
